"""The rule for T(λ) v = 0: tangents of one pair.

    T v̇ + λ̇ T′ v = −Ṫ v,    vᴴ v̇ = 0 for v at the base point:

the bordered system of the pencil T(λ) + μ T′(λ) at its eigenvalue μ = 0.
"""

import jax.numpy as jnp

from .._ad import root
from .._operator import Pencil
from .._rule import solve_bordered
from .._rule.rule import along


def nonlinear_root(operator, eigenvalue, vector, signal, *, active, solve):
    """A pair of `operator`, found elsewhere, v of norm one, made differentiable; a zero
    whose tangent is NaN if the linear solve failed, and the `signal` (see `block_root`).
    """
    mark = jnp.zeros((), eigenvalue.real.dtype)
    found = eigenvalue, vector, mark, signal
    return _nonlinear_root(found, operator, active=active, solve=solve)


@root
def _nonlinear_root(found, t_found, operator, t_operator, *, active, solve):
    z, v, _, signal = found
    t_signal = t_found[-1]
    # The direction of v is all that counts, and a border has norm one.
    x = jnp.where(active, v, 0)[:, None]
    x = x / jnp.sqrt(jnp.where(active, jnp.sum((x.conj() * x).real), 1)).astype(x.dtype)
    pencil = operator.pencil(z)
    rhs = along(t_operator, operator, lambda t: Pencil(t.at(z), None).mm(x))
    if t_signal is None:
        t_signal = jnp.zeros_like(signal)
    t_signal = t_signal + 0 * jnp.sum(rhs.real).astype(t_signal.dtype)
    zero, one = jnp.zeros((1, 1), x.dtype), jnp.ones((1, 1), x.dtype)
    solution = solve_bordered(
        pencil, x, zero * z, -rhs, active[None], solve, one, t_signal
    )
    mark = solution.mark[0]
    t_z = solution.inside[0, 0] + mark.astype(z.dtype)
    return t_z, solution.outside[:, 0], mark, solution.signal
