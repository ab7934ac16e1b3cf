"""What a Krylov decomposition knows about the spectrum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int, PyTree

from .._batch import only_if
from .._numerics import solve
from .._operator import complex_dtype, of_moderate_size, times_real
from .._spectral import AbstractSelection, order
from .arnoldi import KrylovDecomposition
from .basis import coefficients, from_rows, to_rows


class Ritz(NamedTuple):
    """The Ritz pairs of a decomposition; wanted ones first, of these converged ones."""

    values: Complex[Array, " m"]
    vectors: Complex[Array, "m m"]
    second: Bool[Array, " m"]
    residuals: Float[Array, " m"]
    wanted: Bool[Array, " m"]
    converged: Bool[Array, " m"]
    rounding: Float[Array, ""]
    finite: Bool[Array, ""]


def ritz_pairs(
    decomposition: KrylovDecomposition,
    selection: AbstractSelection,
    k: int,
    rtol: float,
    least: Float[Array, ""],
    is_real: bool,
) -> Ritz:
    basis, matrix = decomposition
    m = matrix.shape[1]
    eps = jnp.finfo(matrix.dtype).eps
    finite = jnp.all(jnp.isfinite(matrix))
    projected = jnp.where(finite, matrix[:m], jnp.eye(m, dtype=matrix.dtype))
    projected, size = of_moderate_size(projected)
    values, vectors = jnp.linalg.eig(projected)
    values = times_real(values, size[0])
    target, overlaps = selection.target(), None
    if target is not None:
        overlaps = jnp.abs(target_coordinates(basis[:m], target).conj() @ vectors)
    residuals = jnp.abs(matrix[m].astype(vectors.dtype) @ vectors)
    residuals = residuals * _least_part(basis, vectors)
    rounding = 10 * eps * jnp.max(jnp.abs(values))
    enough = jnp.maximum(rtol * jnp.maximum(jnp.abs(values), least), rounding)
    # Unconverged pairs are ranked as if they had converged.
    accuracy = jnp.clip(residuals, rounding, enough)
    found = order(selection, values, overlaps, is_real, accuracy)
    perm, second = found.permutation, found.second
    values, vectors = values[perm], vectors[:, perm]
    residuals, enough = residuals[perm], enough[perm]
    index = jnp.arange(m)
    wanted = (index < k) | ((index == k) & second)
    converged = wanted & (residuals <= enough) & finite
    # Both members of a conjugate pair or neither, despite rounding.
    partner = jnp.where(second, index - 1, index)
    paired = jnp.concatenate([second[1:], jnp.zeros(1, bool)])
    partner = jnp.where(paired, index + 1, partner)
    converged = converged & converged[partner]
    front = jnp.lexsort((index, ~converged, ~wanted))
    return Ritz(
        values[front],
        vectors[:, front],
        second[front],
        residuals[front],
        wanted[front],
        converged[front],
        rounding,
        finite,
    )


def _least_part(
    basis: PyTree[Float[Array, "m1 c _parts _size"]], vectors: Complex[Array, "m m"]
) -> Float[Array, " m"]:
    """The factor by which a residual relative to one part of a Ritz vector exceeds that
    relative to the whole, at worst: 1 for a vector of one part.

    The first part is assumed to be the large one, and is not examined.
    """
    worst = jnp.ones(vectors.shape[1], vectors.real.dtype)
    for part in jtu.tree_leaves(basis)[1:]:
        rows = from_rows(jnp.moveaxis(part, 1, 0)).astype(vectors.dtype)
        size = jnp.linalg.norm(rows[:-1].T @ vectors, axis=0)
        tiny = jnp.finfo(size.dtype).tiny
        worst = jnp.maximum(worst, jnp.linalg.norm(rows[-1]) / jnp.maximum(size, tiny))
    return worst


def target_coordinates(
    basis: Float[Array, "m c n"], target: Inexact[Array, " n"]
) -> Complex[Array, " m"]:
    """⟨v_i, t⟩ for a complex target, whether the basis is real or complex."""
    if basis.shape[1] == 2:
        return coefficients(basis, to_rows(target.astype(complex_dtype(target.dtype))))
    parts = target.real[None], target.imag[None]
    return jax.lax.complex(*(coefficients(basis, part) for part in parts))


def sharpened(
    matrix: Inexact[Array, "m m"],
    q: Inexact[Array, "m m"],
    p: Int[Array, ""],
    values: Complex[Array, " m"],
    vectors: Complex[Array, "m m"],
) -> Inexact[Array, "m m"]:
    """q, improved until its leading p columns span an invariant subspace of `matrix` to
    rounding.

    Eigenvectors of a nearly defective matrix are nearly dependent, which makes an
    orthonormal basis of their span inaccurate to the same degree. Newton's method on the
    Riccati equation of the subspace (Stewart 1973) repairs it: with T = qᴴ A q, solve
    `T₂₂ P − P T₁₁ = −T₂₁` and turn span(q₁) into span(q₁ + q₂ P).
    """
    m = matrix.shape[0]
    lead = jnp.arange(m) < p
    across = ~lead[:, None] & lead[None, :]
    same = lead[:, None] == lead[None, :]
    enough = 10 * jnp.finfo(q.dtype).eps * jnp.linalg.norm(matrix)
    gap = jnp.where(across, values[:, None] - values[None, :], 1)
    gap = jnp.where(gap == 0, enough.astype(gap.dtype), gap)

    def newton(q: Array, t: Array) -> Array:
        """The Sylvester equation by the eigenvectors of T₁₁ and T₂₂."""
        w = jnp.where(same, q.conj().T.astype(vectors.dtype) @ vectors, 0)
        g = solve(w, t.astype(w.dtype) @ w) / gap
        y = -solve(w, w @ jnp.where(across, g, 0), left_side=False)
        y = jnp.where(across, y if jnp.iscomplexobj(q) else y.real, 0)
        return jnp.linalg.qr(q @ (jnp.eye(m, dtype=q.dtype) + y - y.conj().T))[0]

    def look(state: tuple) -> tuple:
        best, least, q, rounds, _ = state
        t = jnp.where(across, q.conj().T @ matrix @ q, 0)
        size = jnp.linalg.norm(t)
        better = size < least
        again = better & (size > enough) & (rounds < 5)
        best, least = jnp.where(better, q, best), jnp.minimum(size, least)
        return best, least, only_if(again, lambda q: newton(q, t), q), rounds + 1, again

    init = q, jnp.inf * enough, q, jnp.asarray(0), jnp.asarray(True)
    return jax.lax.while_loop(lambda state: state[-1], look, init)[0]


def nearest_outside(
    eigenvalues: Complex[Array, " p"], chosen: Int[Array, " m"], wanted: Bool[Array, " m"]
) -> Complex[Array, " m"]:
    """For each `chosen` eigenvalue that is `wanted`, the nearest one that is not; NaN if
    there is none."""
    inside = jnp.zeros(eigenvalues.size, bool).at[chosen].set(wanted)
    there = jnp.isfinite(eigenvalues)
    across = (wanted & there[chosen])[:, None] & (~inside & there)
    gap = jnp.abs(eigenvalues[chosen][:, None] - eigenvalues)
    gap = jnp.where(across, gap, jnp.inf)
    nearest = jnp.argmin(gap, axis=1)
    known = jnp.isfinite(jnp.min(gap, axis=1))
    return jnp.where(known, eigenvalues[nearest], jnp.nan)


def leading(active: Bool[Array, " m"], x: Inexact[Array, "m m"]) -> Inexact[Array, "m m"]:
    """x without the entries below the active columns, which are rounding errors."""
    return jnp.where(active[:, None] | ~active[None, :], x, 0)


def schur_basis(
    vectors: Complex[Array, "m m"], second: Bool[Array, " m"], is_real: bool
) -> Inexact[Array, "m m"]:
    """Orthonormal Q whose leading columns span the leading eigenvectors.

    For a real matrix, a pair (v, v̄) is replaced by (Re v, Im v), and Q is real.
    """
    if is_real:
        vectors = jnp.where(second, vectors.imag, vectors.real)
    return jnp.linalg.qr(vectors)[0]
