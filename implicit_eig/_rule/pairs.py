"""From the block (X, L) to eigenpairs in their gauge, and which lack derivatives."""

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact

from .._ad import absent, nan_tangent
from .._check import check_real
from .._eigensolver import combine, InvariantBlock
from .._gauge import AbstractGauge, vanishing, without_gauge
from .._operator import Pencil
from .._record import record
from .small_eig import blur, eigen_of_block, merges, tied


Ties = Literal["nan", "drop"]


def check_ties(ties: str, tie_rtol: float | None) -> None:
    if ties not in ("nan", "drop"):
        raise ValueError(f'`ties` must be "nan" or "drop"; got {ties!r}.')
    if tie_rtol is not None:
        check_real("tie_rtol", tie_rtol, zero=True)


def default_tie_rtol(n: int, dtype) -> float:
    """Rounding of an eigenvalue of a matrix of order n, with some margin."""
    return 10 * max(n, 1) * float(jnp.finfo(dtype).eps)


def accuracy_of(block: InvariantBlock, pencil: Pencil) -> Float[Array, ""]:
    """The default `tie_rtol`: residuals limit how well eigenvalues are known."""
    worst = jnp.max(jnp.where(block.active, block.residuals, 0))
    largest = jnp.max(jnp.where(block.active, jnp.abs(block.eigenvalues), 0))
    largest = largest * block.mass_norm
    known = 10 * worst / jnp.where(largest > 0, largest, 1)
    least = default_tie_rtol(pencil.n, pencil.dtype)
    if block.transformation is not None:
        # Rounding errors of a Krylov run do not grow with n, as LAPACK's may. For a large
        # order in single precision, that bound would tie values 0.002 apart.
        least = min(least, float(jnp.finfo(pencil.dtype).eps) ** (2 / 3))
    return jnp.maximum(least, jnp.where(largest > 0, known, 0))


@record
class PairOptions:
    """What is asked of pairs: the options of `eigs` other than the solver's."""

    k: int = eqx.field(static=True)
    left: bool = eqx.field(static=True)
    gauge: AbstractGauge
    ties: Ties = eqx.field(static=True)
    tie_rtol: Float[ArrayLike, ""] | None
    hide: bool = eqx.field(static=True)  # whether pairs that failed are NaN
    # Whether pairs come back in the order in which they were given, not best first.
    in_given_order: bool = eqx.field(static=True, default=False)

    def known_to(self, accuracy: Float[Array, ""]) -> "PairOptions":
        """The same with `accuracy` as `tie_rtol`, unless one was given."""
        given = self.tie_rtol is not None
        return self if given else dataclasses.replace(self, tie_rtol=accuracy)

    def failed(
        self, active: Bool[Array, " m"], good: Bool[Array, ""]
    ) -> Bool[Array, " k"]:
        """Which pairs become NaN after a run that is not `good`: all, if no single pair
        can be blamed."""
        failed = ~active[: self.k]
        return ~good & (failed | ~jnp.any(failed))


class Eigenpairs(eqx.Module):
    eigenvalues: Complex[Array, " k"]
    right: Complex[Array, "n k"]
    left: Complex[Array, "n k"] | None
    lost: Bool[Array, " k"]  # indistinguishable from defective ones
    cut: Bool[Array, " k"]  # indistinguishable from one that is not selected


def pairs_of_block(
    pencil: Pencil,
    block: InvariantBlock,
    basis: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
    left_basis: Inexact[Array, "n m"] | None,
    *,
    marks: tuple[Float[Array, " m"] | None, Float[Array, " m"]],
    options: PairOptions,
) -> Eigenpairs:
    """The first k pairs of `block`, in the gauge and with `uᴴBv = 1`, from its
    differentiable `basis`, `matrix` and `left_basis`.

    `marks` are zeros to add to the eigenvalues and to the vectors: their tangents are NaN
    for a pair whose linear solve failed.
    """
    k, gauge, ties = options.k, options.gauge, options.ties
    tie_rtol = options.known_to(accuracy_of(block, pencil)).tie_rtol
    assert tie_rtol is not None
    active, error = block.active, _error(pencil, block)
    missing = ~active[:k]
    known = error
    if pencil.mass is not None:
        # L is a part of B⁻¹A, not of A.
        size = jnp.where(block.norm > 0, block.norm, 1)
        known = error * jnp.linalg.norm(block.matrix) / size
    found = eigen_of_block(
        matrix,
        block.eigenvalues,
        block.coordinates,
        active=active,
        tie_rtol=tie_rtol,
        known=known,
        drop=ties == "drop",
    )
    w, coordinates = found.eigenvalues, found.coordinates
    duals = found.duals.conj().T
    cut = _near(block, tie_rtol)
    lost = found.lost
    if block.left_basis is not None:
        lost = lost | _lost(block, duals, cut, error, tie_rtol)
    lost = lost[:k]
    scale = jax.vmap(gauge, in_axes=1, out_axes=1)
    right = scale(combine(basis, coordinates[:, :k]))
    blurred = blur(block.eigenvalues, active, tie_rtol, known, block.outside)
    scaleless = vanishing(gauge, right, blurred[:k])
    no_value = missing | lost
    in_tie = jnp.zeros_like(missing)
    if ties == "nan":
        # Without its partner, a tied eigenvalue has no derivative; nor have its vectors.
        no_value = no_value | cut[:k]
        in_tie = jnp.any(tied(w, active, tie_rtol), axis=0)[:k]
    no_vector = no_value | in_tie | scaleless
    vectors = [right]
    if left_basis is not None:
        left = combine(jnp.where(active, left_basis, 0), duals[:, :k])
        overlap = jnp.sum(left.conj() * pencil.mass_mm(right), axis=0)
        vectors.append(left / jnp.where(missing, jnp.nan, overlap.conj()))
    values = nan_tangent(w[:k], no_value)
    nan = jnp.where(scaleless, jnp.nan, 0).astype(w.real.dtype)
    right, *left = [
        nan_tangent(x + nan.astype(x.dtype), no_vector, jnp.all(in_tie)) for x in vectors
    ]
    of_values, of_vectors = marks
    if of_values is not None:
        values = values + of_values[:k].astype(values.dtype)
    right = right + of_vectors[:k].astype(right.dtype)
    nowhere = absent(pencil, missing)
    values, right = (x + nowhere.astype(x.dtype) for x in (values, right))
    right = without_gauge(gauge, right)
    return Eigenpairs(values, right, left[0] if left else None, lost, cut[:k])


def _error(pencil: Pencil, block: InvariantBlock) -> Float[Array, ""]:
    """The size of the perturbation of A for which the pairs are exact."""
    worst = jnp.max(jnp.where(block.active, block.residuals, 0))
    eps = float(jnp.finfo(pencil.dtype).eps)
    return jnp.maximum(eps * block.norm, worst)


def _near(block: InvariantBlock, rtol: Float[ArrayLike, ""]) -> Bool[Array, " m"]:
    """Which pairs tie with one outside the block."""
    if block.outside is None:
        return jnp.zeros(block.active.shape, bool)
    gap = jnp.abs(block.eigenvalues - block.outside)
    largest = jnp.max(jnp.where(block.active, jnp.abs(block.eigenvalues), 0))
    return block.active & (gap <= rtol * largest)


def _lost(
    block: InvariantBlock,
    duals: Complex[Array, "m m"],
    cut: Bool[Array, " m"],
    error: Float[Array, ""],
    tie_rtol: Float[ArrayLike, ""],
) -> Bool[Array, " m"]:
    """`_defective` in the whole space: with eigenvalues outside the block too."""
    values, active = block.eigenvalues, block.active
    right = combine(block.basis, block.coordinates)
    assert block.left_basis is not None
    left = combine(jnp.where(active, block.left_basis, 0), jax.lax.stop_gradient(duals))
    condition = jnp.linalg.norm(right, axis=0) * jnp.linalg.norm(left, axis=0)
    ties = tied(values, active, tie_rtol)
    apart = active[:, None] & active[None, :] & ~ties & ~jnp.eye(active.size, dtype=bool)
    gap = jnp.abs(values[:, None] - values[None, :])
    gap = jnp.min(jnp.where(apart, gap, jnp.inf), axis=0)
    if block.outside is not None:
        beyond = jnp.abs(values - block.outside)
        gap = jnp.where(~cut & (beyond < gap), beyond, gap)
    in_tie = jnp.any(ties, axis=0) | cut
    return active & merges(condition, gap, in_tie, 10 * error, block.norm)
