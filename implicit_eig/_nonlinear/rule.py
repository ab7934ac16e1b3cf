"""The rule for T(λ) v = 0: tangents of one pair.

    T v̇ + λ̇ T′ v = −Ṫ v,    vᴴ v̇ = 0 for v at the base point:

the bordered system of the pencil T(λ) + μ T′(λ) at its eigenvalue μ = 0.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Complex, Float

from .._ad import root
from .._operator import entries, Pencil
from .._rule import ImplicitAdjoint, solve_bordered, SylvesterSolve
from .._rule.rule import along
from .._spectral import Nearest
from .._sylvester import Columnwise, DeflatedGMRES, Probed
from .newton import inverse_at, norms_at
from .operator import NonlinearOperator


# Beside the eigenvalue the factor leaves little to do, unless the system is singular.
_CYCLES = 5


def nonlinear_root(operator, eigenvalue, vector, signal, *, active, solve):
    """Makes a pair of `operator`, found elsewhere, differentiable; v has norm one. Also
    returns a zero whose tangent is NaN if the linear solve failed, and the `signal` (see
    `block_root`)."""
    mark = jnp.zeros((), eigenvalue.real.dtype)
    found = eigenvalue, vector, mark, signal
    return _nonlinear_root(found, operator, active=active, solve=solve)


@root
def _nonlinear_root(found, t_found, operator, t_operator, *, active, solve):
    if operator.fault is not None:
        raise TypeError(no_transpose(operator.fault))
    z, v, _, signal = found
    t_signal = t_found[-1]
    # Only the direction of v counts, and the border must have norm one.
    x = jnp.where(active, v, 0)[:, None]
    x = x / jnp.sqrt(jnp.where(active, jnp.sum((x.conj() * x).real), 1)).astype(x.dtype)
    pencil = operator.pencil(z)
    rhs = along(t_operator, operator, lambda t: Pencil(t.at(z), None).mm(x))  # pyright: ignore[reportAttributeAccessIssue]
    if t_signal is None:
        t_signal = jnp.zeros_like(signal)
    t_signal = t_signal + 0 * jnp.sum(rhs.real).astype(t_signal.dtype)
    zero, one = jnp.zeros((1, 1), x.dtype), jnp.ones((1, 1), x.dtype)
    solution = solve_bordered(
        pencil, x, zero * z, -rhs, active[None], solve, one, t_signal
    )
    mark = solution.mark[0]
    if operator.symmetric:
        # λ̇ = −vᵀ Ṫ v / vᵀ T′ v, without the solution.
        overlap = jnp.sum(x * pencil.mass_mm(x))
        t_z = jnp.sum(x * rhs) / jnp.where(active, overlap, 1)
    else:
        t_z = solution.inside[0, 0] + mark.astype(z.dtype)
    return t_z, solution.outside[:, 0], mark, solution.signal


def no_transpose(fault: str) -> str:
    return (
        "Derivatives and left vectors need products with T(λ)ᵀ, and JAX cannot transpose "
        f"T(λ), or a coefficient, as it is written ({fault})."
    )


def _is_sparse(operator: lx.AbstractLinearOperator) -> bool:
    dense = isinstance(operator, lx.MatrixLinearOperator)
    return not dense and entries(operator) is not None


def solver_at(
    operator: NonlinearOperator,
    z: Complex[Array, ""],
    error: Float[Array, ""],
    adjoint: ImplicitAdjoint,
) -> SylvesterSolve:
    """The solver for the bordered system of the pair at z."""
    pencil = operator.pencil(z)
    nearest = Nearest(jnp.zeros((), operator.dtype))
    solve = adjoint.bind(pencil, None, nearest, 1)
    norm, scale = norms_at(operator, z)
    eps = float(jnp.finfo(operator.dtype).eps)
    if adjoint.linear_solver is None and _is_sparse(pencil.operator):
        beside = inverse_at(operator, z + eps**0.5 * scale.astype(z.dtype), None)
        solve = eqx.tree_at(
            lambda s: (s.solver, s.preconditioner),
            solve,
            (Probed(DeflatedGMRES(max_restarts=_CYCLES)), beside),
            is_leaf=lambda x: x is None,
        )
    solver = solve.solver
    if isinstance(solver, Columnwise | Probed):
        # It detects singularity to within this error: a second copy of the eigenvalue.
        solver = dataclasses.replace(solver, error=jnp.maximum(eps, error) * norm)
    return dataclasses.replace(
        solve, solver=solver, norm=norm, residuals=(error * norm)[None]
    )
