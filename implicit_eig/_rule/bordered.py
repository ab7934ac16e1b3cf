"""The bordered Sylvester system from which every derivative comes.

    A Y − B Y L − B X S = R,   Cᴴ Y = 0,      C = X held constant, XᴴX = I.

The border is eliminated by projection rather than factorised: with E an orthonormal
basis of span(BX), and P the projector along BX that annihilates it,

    P (A Y − B Y L) = P R     on  span(C)^⊥,        S = (EᴴBX)⁻¹ Eᴴ (A Y − B Y L − R).

P is orthogonal at the point where derivatives are taken, so the conditioning of the
system is that of A outside the selected subspace, 1/sep, without a factor κ(λ)
(a bordered matrix (X; Xᴴ) has σ_min ≈ 1/κ; `tests/derivatives/test_conditioning.py`).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact

from .._ad import joined
from .._operator import Pencil
from .._sylvester import ProjectedSylvester
from .adjoint import Frame, SylvesterSolve


class BorderedSolution(eqx.Module):
    """Y and S. `mark` is zero, but NaN for pairs whose solve missed its tolerance; the
    backward error is then added to `signal`."""

    outside: Inexact[Array, "n m"]  # Y
    inside: Inexact[Array, "m m"]  # S
    mark: Float[Array, " m"]
    signal: Float[Array, ""]


def solve_bordered(
    pencil: Pencil,
    basis: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
    rhs: Inexact[Array, "n m"],
    active: Bool[Array, " m"],
    solve: SylvesterSolve,
    coordinates: Complex[Array, "m m"] | None = None,
    signal: Float[Array, ""] | None = None,
) -> BorderedSolution:
    """Solves the bordered system; differentiable in everything but `active`.

    `basis` and `matrix` have zero columns where not `active`. With the eigenvectors
    `coordinates` of `matrix`, a solve is judged pair by pair, and Y stays finite: the
    `mark` must then be added to what a user sees. Without, Y is NaN if the solve failed.

    `signal`, a tangent, is passed on; its cotangent is the backward error of a transposed
    solve that missed its tolerance, and zero otherwise.
    """
    if signal is None:
        signal = jnp.zeros((), rhs.real.dtype)
    border, coefficients = _border(pencil, basis, active)
    if solve.k == pencil.n:  # nothing outside the span
        nothing = jnp.zeros(active.shape, matrix.real.dtype)
        return BorderedSolution(jnp.zeros_like(rhs), -coefficients(rhs), nothing, signal)
    # A real block of k = n - 1 that keeps a cut pair whole fills the space as well.
    full = jnp.all(active) & (basis.shape[0] == basis.shape[1])
    system = _system(pencil, basis, matrix, border)
    frame = None if coordinates is None else Frame.of(coordinates, active)
    fixed = system.domain_basis
    stretched = border * system.scale.astype(border.dtype)
    along = pencil.mass_mm(basis)

    def project(z):
        return z - along @ coefficients(z)

    def matvec(unknowns):
        # `ProjectedSylvester.mm`, with a projector that is differentiated.
        y, mark, signal = unknowns
        inside = fixed.conj().T @ y
        q = y - fixed @ inside
        outside = pencil.sylvester(q, matrix)
        # The mark times zero: if a part failed, derivatives of the solution are NaN.
        zero = 0 * jnp.sum(matrix.real) * jnp.sum(mark)
        return project(outside) + stretched @ inside, mark + zero, signal

    def solved(_, right):
        rhs, mark, signal = right
        y, failed, error = solve(system, rhs, frame)
        failed = failed & active
        if coordinates is None:
            y = jnp.where(jnp.any(failed), jnp.nan, y)
        return y, jnp.where(failed, jnp.nan, mark), signal + error

    def solved_transposed(_, right):
        rhs, mark, signal = right
        back = None if frame is None else frame.transpose()
        y, failed, error = solve.transpose()(system.transpose(), rhs, back)
        # A cotangent sums over the pairs, so that any failure spoils it.
        return jnp.where(jnp.any(failed), jnp.nan, y), mark, signal + error

    solution = jax.lax.custom_linear_solve(
        matvec,
        # The zeros depend on the right side; otherwise JAX cannot transpose the solve.
        (jnp.where(full, 0, project(rhs)), 0 * jnp.sum(rhs.real, axis=0), signal),
        solved,
        solved_transposed,
    )
    outside, mark, signal = joined(*solution)
    outside = jnp.where(full, 0, outside)
    defect = pencil.sylvester(outside, matrix) - rhs
    return BorderedSolution(outside, coefficients(defect), mark, signal)


def separation(
    pencil: Pencil,
    basis: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
    active: Bool[Array, " m"],
    solve: SylvesterSolve,
) -> Float[Array, ""]:
    """An estimate of sep(L, rest): the least ‖P (A Y − B Y L)‖ for Y outside span(X) with
    ‖Y‖ = 1, in Frobenius norms (Stewart 1973).

    Three rounds of power iteration with the inverse and its adjoint, from a random start,
    estimate it from above. Infinite if there is nothing outside, NaN if a solve failed.
    """
    if solve.k == pencil.n:
        return jnp.asarray(jnp.inf, matrix.real.dtype)
    border, _ = _border(pencil, basis, active)
    system = _system(pencil, basis, matrix, border)
    # The point here is to measure how badly determined an answer is.
    transposed, solve = system.transpose(), solve.whatever()
    start = jax.random.normal(jax.random.key(0), basis.shape, matrix.real.dtype)

    def unit(y: Array) -> tuple[Array, Array]:
        size = jnp.linalg.norm(y)
        return y / jnp.where(size > 0, size, 1).astype(y.dtype), size

    def inverse(solve: SylvesterSolve, system: ProjectedSylvester, r: Array) -> Array:
        y, failed, _ = solve(system, jnp.where(active, r, 0))
        return jnp.where(jnp.any(failed & active), jnp.nan, y)

    def round(_, state):
        r, _ = state
        y, _ = unit(inverse(solve, system, r))
        z, size = unit(inverse(solve.transpose(), transposed, y.conj()).conj())
        return z, size

    first, _ = unit(system.project(start.astype(basis.dtype)))
    _, size = jax.lax.fori_loop(0, 3, round, (first, jnp.zeros((), start.dtype)))
    return 1 / size


def left_vector(
    pencil: Pencil,
    basis: Inexact[Array, "n 1"],
    matrix: Inexact[Array, "1 1"],
    active: Bool[Array, " 1"],
    solve: SylvesterSolve,
) -> Inexact[Array, "n 1"]:
    """The left vector of a simple pair (v, λ), from one transposed system.

    It is e + y with e along Bv and y orthogonal to it, and `uᴴ(A − λB) = 0` determines
    y: `yᴴ P(A − λB)Q = −eᴴ(A − λB)Q`. NaN if the solve failed.
    """
    border, _ = _border(pencil, basis, active)
    transposed, e = pencil.transpose(), border.conj()
    rhs = -transposed.sylvester(e, matrix.T)
    system = _system(pencil, basis, matrix, border).transpose()
    y, failed, _ = solve.transpose()(system, rhs)
    return border + jnp.where(jnp.any(failed), jnp.nan, y).conj()


def _system(
    pencil: Pencil,
    basis: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
    border: Inexact[Array, "n m"],
) -> ProjectedSylvester:
    """The system as linear solvers see it: without derivatives."""
    scale = jnp.max(jnp.abs(matrix))
    scale = jnp.where(scale > 0, scale, 1)
    params, static = eqx.partition(
        ProjectedSylvester(pencil, basis, border, matrix, scale), eqx.is_array
    )
    return eqx.combine(jax.lax.stop_gradient(params), static)


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
