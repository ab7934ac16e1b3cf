"""From the block (X, L) to eigenpairs: the small eigenvalue problem, where ties live.

`eigen_of_block` carries the only formula with 1/(λ_j − λ_i) in the package. It leaves
the coupling between tied eigenvalues out, so that nothing outside a tie is ever touched
by it; `nan_tangent` afterwards marks what does not exist.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Inexact

from ._eigensolver import combine
from ._gauge import AbstractGauge
from ._operator import Pencil


Ties = Literal["nan", "drop"]


def check_ties(ties: str, tie_rtol: float | None) -> None:
    if ties not in ("nan", "drop"):
        raise ValueError(f'`ties` must be "nan" or "drop"; got {ties!r}.')
    if tie_rtol is not None and not tie_rtol >= 0:
        raise ValueError(f"`tie_rtol` must be non-negative; got {tie_rtol}.")


def default_tie_rtol(n: int, dtype) -> float:
    """Rounding of an eigenvalue of a matrix of order n, with some room."""
    return 10 * max(n, 1) * float(jnp.finfo(dtype).eps)


def tied(
    eigenvalues: Complex[Array, " m"], active: Bool[Array, " m"], rtol: float
) -> Bool[Array, "m m"]:
    """Which pairs of distinct indices have a gap ≤ rtol · max|λ|."""
    both = active[:, None] & active[None, :] & ~jnp.eye(active.size, dtype=bool)
    gap = jnp.abs(eigenvalues[:, None] - eigenvalues[None, :])
    largest = jnp.max(jnp.where(active, jnp.abs(eigenvalues), 0), initial=0)
    return both & (gap <= rtol * largest)


@eqx.filter_custom_jvp
def eigen_of_block(matrix, eigenvalues, coordinates, *, active, tie_rtol):
    """The eigenpairs of L, known to be (λ, W), made differentiable with respect to L.

    `Ẇ = W (F ∘ W⁻¹L̇W)` with `F_ij = 1/(λ_j − λ_i)`, zero on the diagonal and inside
    ties; `λ̇ = diag(W⁻¹L̇W)`. The scale of a vector is carried along (no component along
    itself), which any gauge applied afterwards turns into its own derivative. (Magnus
    1985; Giles 2008, section 3.)
    """
    del matrix, active, tie_rtol
    return eigenvalues, coordinates


@eigen_of_block.def_jvp
def _(primals, tangents, *, active, tie_rtol):
    t_matrix, *_ = tangents
    w, v = eigen_of_block(*primals, active=active, tie_rtol=tie_rtol)
    if t_matrix is None:
        return (w, v), (None, None)
    eye = jnp.eye(active.size, dtype=bool)
    va = jnp.where(active[:, None] & active[None, :], v, eye.astype(v.dtype))
    both = active[:, None] & active[None, :]
    t_matrix = jnp.where(both, t_matrix, 0).astype(v.dtype)
    g = jnp.linalg.solve(va, t_matrix @ va)
    apart = both & ~eye & ~tied(w, active, tie_rtol)
    gap = jnp.where(apart, w[None, :] - w[:, None], 1)
    t_v = va @ jnp.where(apart, g / gap, 0)
    return (w, v), (jnp.diagonal(g), t_v)


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
    active: Bool[Array, " m"],
    k: int,
    gauge: AbstractGauge,
    ties: Ties,
    tie_rtol: float | None,
) -> Eigenpairs:
    """The first k pairs of a differentiable block, in the gauge, `uᴴBv = 1`."""
    if tie_rtol is None:
        tie_rtol = default_tie_rtol(pencil.n, pencil.dtype)
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
    return Eigenpairs(nan_tangent(w[:k], missing), nan_tangent(right, no_vector), left)
