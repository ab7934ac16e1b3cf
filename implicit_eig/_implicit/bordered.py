"""The bordered Sylvester system every derivative comes from.

    A Y − B Y L − B X S = R,   Cᴴ Y = 0,      C = X held constant, XᴴX = I.

The border is eliminated by projection rather than factorised: with E an orthonormal
basis of span(BX), and P the projector along BX that annihilates it,

    P (A Y − B Y L) = P R     on  span(C)^⊥,        S = (EᴴBX)⁻¹ Eᴴ (A Y − B Y L − R).

P is orthogonal at the point where derivatives are taken, so the conditioning of the
system is that of A seen outside the selected subspace, 1/sep, with no factor κ(λ)
(a bordered matrix (X; Xᴴ) has σ_min ≈ 1/κ; `tests/test_conditioning.py`).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact

from .._linear_solver import ProjectedSylvester
from .._operator import Pencil
from .adjoint import SylvesterSolve


class BorderedSolution(eqx.Module):
    outside: Inexact[Array, "n m"]  # Y
    inside: Inexact[Array, "m m"]  # S


def solve_bordered(
    pencil: Pencil,
    basis: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
    rhs: Inexact[Array, "n m"],
    active: Bool[Array, " m"],
    solve: SylvesterSolve,
) -> BorderedSolution:
    """Solves the bordered system; differentiable in everything but `active`.

    `basis` and `matrix` have zero columns where not `active`.
    """
    border, coefficients = _border(pencil, basis, active)
    if solve.k == pencil.n:  # nothing outside the span
        return BorderedSolution(jnp.zeros_like(rhs), -coefficients(rhs))
    # A real block of k = n - 1 whose cut pair is kept whole fills the space as well.
    full = jnp.all(active) & (basis.shape[0] == basis.shape[1])
    fixed = jax.lax.stop_gradient(basis)
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(matrix)))
    scale = jnp.where(scale > 0, scale, 1)
    stretched = border * scale.astype(border.dtype)
    along = pencil.mass_mm(basis)

    def project(z):
        return z - along @ coefficients(z)

    def matvec(y):
        # `ProjectedSylvester.mm`, with the projector alive to derivatives.
        inside = fixed.conj().T @ y
        q = y - fixed @ inside
        outside = pencil.mm(q) - pencil.mass_mm(q) @ matrix
        return project(outside) + stretched @ inside

    params, static = eqx.partition(
        ProjectedSylvester(pencil, fixed, border, matrix, scale), eqx.is_array
    )
    system = eqx.combine(jax.lax.stop_gradient(params), static)
    outside = jax.lax.custom_linear_solve(
        matvec,
        jnp.where(full, 0, project(rhs)),
        lambda _, b: solve(system, b),
        lambda _, b: solve.transpose()(system.transpose(), b),
    )
    outside = jnp.where(full, 0, outside)
    defect = pencil.mm(outside) - pencil.mass_mm(outside) @ matrix - rhs
    return BorderedSolution(outside, coefficients(defect))


def _border(
    pencil: Pencil, basis: Inexact[Array, "n m"], active: Bool[Array, " m"]
) -> tuple[Inexact[Array, "n m"], Callable[[Array], Array]]:
    """E, and z ↦ (EᴴBX)⁻¹ Eᴴ z: coefficients along BX."""
    if pencil.mass is None:
        # CᴴX = I holds all along the section that the gauge row CᴴẊ = 0 defines.
        border = jax.lax.stop_gradient(basis)
        return border, lambda z: border.conj().T @ z
    bx = pencil.mass_mm(basis)
    both = active[:, None] & active[None, :]
    border = jnp.linalg.qr(jax.lax.stop_gradient(bx))[0]
    border = jnp.where(active, border, 0)
    gram = border.conj().T @ bx
    gram = jnp.where(both, gram, jnp.eye(active.size, dtype=gram.dtype))
    return border, lambda z: jnp.linalg.solve(gram, border.conj().T @ z)
