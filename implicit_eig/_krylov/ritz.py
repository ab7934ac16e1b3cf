"""What a Krylov decomposition knows about the spectrum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int, PyTree

from .._operator import complex_dtype
from .._spectral import AbstractSelection, order
from .arnoldi import KrylovDecomposition
from .basis import coefficients, from_rows, to_rows
from .schur import leading_basis, schur_form


class Ritz(NamedTuple):
    """The Ritz pairs of a decomposition: wanted ones first, of these converged ones, of
    these the locked ones; then the other locked ones."""

    values: Complex[Array, " m"]
    vectors: Complex[Array, "m m"]
    second: Bool[Array, " m"]
    residuals: Float[Array, " m"]
    wanted: Bool[Array, " m"]
    converged: Bool[Array, " m"]
    locked: Bool[Array, " m"]
    ahead: Bool[Array, " m"]  # better than locked ones
    rounding: Float[Array, ""]
    finite: Bool[Array, ""]
    # The Schur form of the projected matrix, and where in it they are.
    order: Int[Array, " m"]
    triangle: Inexact[Array, "m m"]
    turn: Inexact[Array, "m m"]


def ritz_pairs(
    decomposition: KrylovDecomposition,
    selection: AbstractSelection,
    k: int,
    rtol: float,
    least: Float[Array, ""],
    is_real: bool,
    locked: Int[Array, ""] | None = None,
) -> Ritz:
    """`locked` vectors come first, and no others are coupled to them."""
    basis, matrix = decomposition
    m = matrix.shape[1]
    eps = jnp.finfo(matrix.dtype).eps
    finite = jnp.all(jnp.isfinite(matrix))
    projected = jnp.where(finite, matrix[:m], jnp.eye(m, dtype=matrix.dtype))
    form = schur_form(projected)
    values, vectors = form.values, form.vectors
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
    best, second = found.permutation, found.second
    index = jnp.arange(m)
    wanted = (index < k) | ((index == k) & second)
    converged = wanted & picked(residuals <= enough, best) & finite
    # Both members of a conjugate pair or neither, despite rounding.
    partner = jnp.where(second, index - 1, index)
    paired = jnp.concatenate([second[1:], jnp.zeros(1, bool)])
    partner = jnp.where(paired, index + 1, partner)
    converged = converged & picked(converged, partner)
    held = ahead = jnp.zeros(m, bool)
    ranks = index, ~converged, ~wanted
    if locked is not None:
        # An eigenvector has no part in the other block.
        held = jnp.linalg.norm(jnp.where(index < locked, vectors.T, 0), axis=1) > 0.5
        held = picked(held, best)
        # Better than all locked ones that are not wanted, or wanted itself.
        ahead = ~held & (wanted | (index < jnp.argmax(held & ~wanted)))
        ranks = index, ~held, ~converged, ~wanted
    front = jnp.lexsort(ranks)
    if locked is not None:
        held, ahead = picked(held, front), picked(ahead, front)
    place = picked(best, front)
    return Ritz(
        values=picked(values, place),
        vectors=picked(vectors, place),
        second=picked(second, front),
        residuals=picked(residuals, place),
        wanted=index < jnp.sum(wanted),
        converged=index < jnp.sum(converged),
        locked=held,
        ahead=ahead,
        rounding=rounding,
        finite=finite,
        order=place,
        triangle=form.triangle,
        turn=form.turn,
    )


def picked(x: Array, index: Int[Array, " m"]) -> Array:
    """x[..., index], for indices that are known to be there."""
    return x.at[..., index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def kept_basis(
    ritz: Ritz, matrix: Inexact[Array, "m1 m"], keep: Int[Array, ""]
) -> Inexact[Array, "m m"]:
    """Orthonormal Q whose leading `keep` columns span the leading Ritz vectors."""
    return leading_basis(
        keep,
        ritz.order,
        ritz.second,
        ritz.values,
        ritz.vectors,
        matrix[:-1],
        ritz.triangle,
        ritz.turn,
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
