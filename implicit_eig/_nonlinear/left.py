"""Left vectors of T(λ) v = 0."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float

from .._operator import Pencil, safe_norm
from .._rule import left_vector, SylvesterSolve
from .operator import NonlinearOperator
from .rule import nonlinear_root


def left_of(
    operator: NonlinearOperator,
    pencil: Pencil,
    pair: tuple[Complex[Array, ""], Complex[Array, " n"]],
    signal: Float[Array, ""],
    *,
    active: Bool[Array, ""],
    solve: SylvesterSolve,
) -> tuple[Complex[Array, " n"], Float[Array, ""]]:
    """The left vector of a pair, of some scale: its conjugate is an eigenvector of Tᵀ,
    and has the derivatives of one. `pencil` is that at z, without derivatives."""
    z, v = pair
    x = jnp.where(active, v, 0)[:, None]
    zero, one = jnp.zeros((1, 1), x.dtype), active[None]
    u = left_vector(pencil, x, zero, one, solve)[:, 0].conj()
    size = safe_norm(u)
    u = jax.lax.stop_gradient(u / jnp.where(size > 0, size, 1).astype(u.dtype))
    _, u, mark, signal = nonlinear_root(
        operator.transpose(), z, u, signal, active=active, solve=solve.transpose()
    )
    return (u + mark.astype(u.dtype)).conj(), signal


def duals(
    operator: NonlinearOperator,
    values: Complex[Array, " k"],
    left: Complex[Array, "k n"],
    right: Complex[Array, "n k"],
) -> tuple[Complex[Array, "n k"], Float[Array, " k"]]:
    """Left vectors with uᴴ T′(z) v = −1; and κ."""

    def dual(z: Array, u: Array, v: Array) -> Array:
        image = operator.pencil(z).mass_mm(v[:, None])[:, 0]
        return u / jnp.sum(u.conj() * image).conj()

    found = jax.vmap(dual)(values, left, right.T).T
    return found, safe_norm(found) * safe_norm(right)
