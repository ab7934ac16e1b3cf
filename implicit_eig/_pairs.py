"""From the block (X, L) to eigenpairs: the small eigenvalue problem, where ties live.

`eigen_of_block` carries the only formula with 1/(λ_j − λ_i) in the package. It leaves
the coupling between tied eigenvalues out, so that nothing outside a tie is ever touched
by it; `nan_tangent` afterwards marks what does not exist.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact

from ._check import check_real
from ._eigensolver import combine, InvariantBlock
from ._gauge import AbstractGauge
from ._gauge_guard import guarded
from ._operator import Pencil


Ties = Literal["nan", "drop"]


def check_ties(ties: str, tie_rtol: float | None) -> None:
    if ties not in ("nan", "drop"):
        raise ValueError(f'`ties` must be "nan" or "drop"; got {ties!r}.')
    if tie_rtol is not None:
        check_real("tie_rtol", tie_rtol, zero=True)


def default_tie_rtol(n: int, dtype) -> float:
    """Rounding of an eigenvalue of a matrix of order n, with some room."""
    return 10 * max(n, 1) * float(jnp.finfo(dtype).eps)


def accuracy_of(block: InvariantBlock, pencil: Pencil) -> Float[Array, ""]:
    """The default `tie_rtol`: eigenvalues are not known better than their residuals."""
    worst = jnp.max(jnp.where(block.active, block.residuals, 0))
    largest = jnp.max(jnp.where(block.active, jnp.abs(block.eigenvalues), 0))
    known = 10 * worst / jnp.where(largest > 0, largest, 1)
    least = default_tie_rtol(pencil.n, pencil.dtype)
    return jnp.maximum(least, jnp.where(largest > 0, known, 0))


def tied(
    eigenvalues: Complex[Array, " m"],
    active: Bool[Array, " m"],
    rtol: Float[ArrayLike, ""],
) -> Bool[Array, "m m"]:
    """Which pairs of distinct indices have a gap ≤ rtol · max|λ|."""
    both = active[:, None] & active[None, :] & ~jnp.eye(active.size, dtype=bool)
    gap = jnp.abs(eigenvalues[:, None] - eigenvalues[None, :])
    largest = jnp.max(jnp.where(active, jnp.abs(eigenvalues), 0), initial=0)
    return both & (gap <= rtol * largest)


def eigen_of_block(
    matrix: Inexact[Array, "m m"],
    eigenvalues: Complex[Array, " m"],
    coordinates: Complex[Array, "m m"],
    *,
    active: Bool[Array, " m"],
    tie_rtol: Float[ArrayLike, ""],
) -> tuple[Complex[Array, " m"], Complex[Array, "m m"]]:
    """The eigenpairs (λ, W) of L, known, made differentiable with respect to L.

    Vectors inside a tie move with the space they span, and their mixing is left out.
    Eigenvalues inside a tie have first derivatives, right for functions symmetric in
    them, and no second ones, which are NaN.
    The scale of a vector is carried along (no component along itself), which any gauge
    applied afterwards turns into its own derivative.
    """
    ties = tied(eigenvalues, active, tie_rtol)
    apart = ~ties & ~jnp.eye(active.size, dtype=bool)
    spectrum, coordinates = _eigen_root(
        matrix, jnp.diag(eigenvalues), coordinates, active=active, apart=apart
    )
    return _once(jnp.diagonal(spectrum), jnp.any(ties, axis=0)), coordinates


@eqx.filter_custom_jvp
def _eigen_root(matrix, spectrum, coordinates, *, active, apart):
    """L W = W M, with M diagonal here, but free to move inside ties.

    With G = W⁻¹L̇W the tangents are `Ṁ = G` on the diagonal and inside ties, and
    `Ẇ = W Y`, where `Y M − M Y = G` elsewhere: `y_ij = g_ij / (λ_j − λ_i)` (Magnus 1985;
    Giles 2008, section 3). M is kept as a matrix because its off-diagonal tangents
    inside a tie enter the second derivatives of every other pair.
    """
    del matrix, active, apart
    return spectrum, coordinates


@_eigen_root.def_jvp
def _(primals, tangents, *, active, apart):
    t_matrix, *_ = tangents
    spectrum, w = _eigen_root(*primals, active=active, apart=apart)
    if t_matrix is None:
        return (spectrum, w), (None, None)
    both = active[:, None] & active[None, :]
    eye = jnp.eye(active.size, dtype=w.dtype)
    inner = jnp.where(both, w, eye)
    g = jnp.linalg.solve(inner, jnp.where(both, t_matrix, 0).astype(w.dtype) @ inner)
    apart = apart & both
    values = jax.lax.stop_gradient(jnp.diagonal(spectrum))
    gap = jnp.where(apart, values[None, :] - values[:, None], 1)
    y = jax.lax.custom_linear_solve(
        lambda y: jnp.where(apart, y @ spectrum - spectrum @ y, y),
        jnp.where(apart, g, 0),
        lambda _, g: g / gap,
        lambda _, g: g / gap,
    )
    return (spectrum, w), (jnp.where(apart, 0, g), inner @ y)


def left_coordinates(
    coordinates: Complex[Array, "m m"], active: Bool[Array, " m"]
) -> Complex[Array, "m m"]:
    """W⁻ᴴ on the active part: the left eigenvectors of L, dual to W."""
    eye = jnp.eye(active.size, dtype=coordinates.dtype)
    both = active[:, None] & active[None, :]
    return jnp.linalg.inv(jnp.where(both, coordinates, eye)).conj().T


@jax.custom_jvp
def nan_tangent(
    x: Inexact[Array, "*n k"], missing: Bool[Array, " k"]
) -> Inexact[Array, "*n k"]:
    """x, whose derivative does not exist in the `missing` columns.

    Tangents of those columns are NaN. A cotangent that is nonzero there turns NaN, one
    that is zero stays zero, so a function of other columns keeps its gradient.
    """
    del missing
    return x


@nan_tangent.defjvp
def _(primals, tangents):
    (x, missing), (t, _) = primals, tangents
    lost = jnp.broadcast_to(missing, t.shape)
    # An identity map that JAX transposes by the rule given here.
    t = jax.lax.custom_linear_solve(
        lambda t: t,
        t,
        lambda _, t: jnp.where(lost, jnp.nan, t),
        lambda _, ct: jnp.where(lost & (ct != 0), jnp.nan, ct),
    )
    return nan_tangent(x, missing), t


@jax.custom_jvp
def _once(x: Inexact[Array, " k"], missing: Bool[Array, " k"]) -> Inexact[Array, " k"]:
    """x, whose second derivative does not exist where `missing`."""
    del missing
    return x


@_once.defjvp
def _(primals, tangents):
    (x, missing), (t, _) = primals, tangents
    return _once(x, missing), nan_tangent(t, missing)


class Eigenpairs(eqx.Module):
    eigenvalues: Complex[Array, " k"]
    right: Complex[Array, "n k"]
    left: Complex[Array, "n k"] | None


def pairs_of_block(
    pencil: Pencil,
    basis: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
    left_basis: Inexact[Array, "n m"] | None,
    eigenvalues: Complex[Array, " m"],
    coordinates: Complex[Array, "m m"],
    *,
    marks: tuple[Float[Array, " m"] | None, Float[Array, " m"]],
    active: Bool[Array, " m"],
    k: int,
    gauge: AbstractGauge,
    ties: Ties,
    tie_rtol: Float[ArrayLike, ""],
) -> Eigenpairs:
    """The first k pairs of a differentiable block, in the gauge, `uᴴBv = 1`.

    `marks` are zeros to be added to the eigenvalues and to the vectors: their tangents
    are NaN where the linear solve for a pair failed.
    """
    missing = ~active[:k]
    found = jax.lax.stop_gradient(eigenvalues), jax.lax.stop_gradient(coordinates)
    w, coordinates = eigen_of_block(matrix, *found, active=active, tie_rtol=tie_rtol)
    scale = jax.vmap(gauge, in_axes=1, out_axes=1)
    right = scale(combine(basis, coordinates[:, :k]))
    no_vector = missing
    if ties == "nan":
        no_vector = no_vector | jnp.any(tied(w, active, tie_rtol), axis=0)[:k]
    left = None
    if left_basis is not None:
        duals = left_coordinates(coordinates, active)[:, :k]
        left = combine(jnp.where(active, left_basis, 0), duals)
        overlap = jnp.sum(left.conj() * pencil.mass_mm(right), axis=0)
        left = left / jnp.where(missing, jnp.nan, overlap.conj())
        left = nan_tangent(left, no_vector)
    values, right = nan_tangent(w[:k], missing), nan_tangent(right, no_vector)
    of_values, of_vectors = marks
    if of_values is not None:
        values = values + of_values[:k].astype(values.dtype)
    right = right + of_vectors[:k].astype(right.dtype)
    if left is None:
        return Eigenpairs(values, *guarded(gauge, right), None)
    return Eigenpairs(values, *guarded(gauge, right, left))
