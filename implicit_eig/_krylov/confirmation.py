"""How a run makes sure of the pairs it found: by searches from random vectors."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int

from .._numerics import solve
from .._progress_meter import AbstractProgressMeter, NoProgressMeter
from .._spectral import AbstractSelection, surely_worse
from .arnoldi import KrylovDecomposition
from .basis import from_rows, to_rows, vector_of, with_vector
from .ritz import Ritz
from .truncation import Truncation, varying_share


@dataclasses.dataclass(frozen=True)
class Search:
    """How a run searches for k pairs: the part that is fixed at compile time."""

    k: int
    krylov_dim: int
    rtol: float
    confirm: bool = True
    repeated: bool = False
    purify: bool = False
    truncation: Truncation = varying_share
    progress_meter: AbstractProgressMeter = NoProgressMeter()

    def locks(self, selection: AbstractSelection, is_real: bool) -> bool:
        """Whether vectors are locked while the run searches for copies: the wanted ones
        must lie at the rim, in an order that is one of eigenvalues."""
        extreme = selection.is_extreme(is_real) and selection.target() is None
        return self.confirm and not self.repeated and extreme


class Before(NamedTuple):
    """What was found before a search; zeros before the first one."""

    searches: Int[Array, ""]
    eigenvalues: Complex[Array, " m"]
    # The first vectors of the decomposition: those of wanted pairs, and all that are
    # locked; 0 if no search is on.
    wanted: Int[Array, ""]
    locked: Int[Array, ""]


class Verdict(NamedTuple):
    """What the Ritz pairs of a cycle mean for the run."""

    complete: Bool[Array, ""]  # the wanted pairs have converged, and a search has ended
    done: Bool[Array, ""]  # and no other one is due
    better: Bool[Array, ""]  # a search found a pair that is wanted
    lock: Int[Array, ""]  # how many vectors the next search locks


def judged(
    ritz: Ritz,
    before: Before,
    selection: AbstractSelection,
    search: Search,
    is_real: bool,
) -> Verdict:
    needed, no = jnp.sum(ritz.wanted), jnp.asarray(False)
    complete = (jnp.sum(ritz.converged) == needed) & ritz.finite
    if not (search.confirm or search.repeated):
        return Verdict(complete, complete, no, needed)
    first, better, lock = before.searches == 0, no, needed
    if search.locks(selection, is_real):
        # Far from normal, an eigenvalue may be further away than the residual says. Where
        # unwanted pairs are locked, these tell it from the wanted ones.
        doubt = jnp.where(first | (before.locked > needed), 1.0, _DOUBT)
        known = _known_to_be_worse(ritz, doubt, selection, search.rtol, is_real)
        settled = known > jnp.maximum(needed, before.locked)
        # Eigenvalues beside locked vectors that have not converged are inaccurate. One
        # that is better than theirs may be a copy of a wanted one.
        better = (before.locked > 0) & jnp.any(ritz.ahead & (settled | ritz.wanted))
        settled = settled & ~better
        # Half of the room is left for new vectors.
        lock = jnp.minimum(known, jax.lax.div(ritz.values.size + needed - 1, 2))
        # A search that found something better has unlocked all. For operators far from
        # normal, every one may find another copy.
        moved = (before.locked == 0) & (before.searches <= search.k)
        values = ritz.values[: before.eigenvalues.size]
        moved = moved & _has_copies(values, search.rtol)
    elif search.repeated:
        settled = _settled(ritz, needed, search.rtol)
        moved = _moved(ritz, before.eigenvalues, search.rtol)
    else:
        return Verdict(complete, complete & ~first, no, needed)
    complete = complete & (first | settled)
    return Verdict(complete, complete & ~first & ~moved, better, lock)


def _known_to_be_worse(
    ritz: Ritz,
    doubt: Float[Array, ""],
    selection: AbstractSelection,
    rtol: float,
    is_real: bool,
) -> Int[Array, ""]:
    """The first Ritz pair, behind the wanted ones, that may stand for an eigenvalue that
    is wanted, to judge by its residual, times `doubt`."""
    m = ritz.values.size
    accuracy = ritz.residuals * doubt.astype(ritz.residuals.dtype)
    worse = surely_worse(selection, ritz.values, ritz.wanted, is_real, accuracy)
    enough = jnp.maximum(rtol * jnp.abs(ritz.values), ritz.rounding)
    known = ritz.wanted | worse | (ritz.residuals <= enough)
    return jnp.min(jnp.where(known, m, jnp.arange(m)))


def _has_copies(values: Complex[Array, " m"], rtol: float) -> Bool[Array, ""]:
    apart = jnp.abs(values[:, None] - values)
    return jnp.sum(apart <= _NEAR * rtol * jnp.abs(values)) > values.size


# Multiple of a residual within which an eigenvalue is taken to be.
_DOUBT = 10.0
# Multiple of the tolerance up to which Ritz values are taken for copies of another.
_NEAR = 1e3
# With `repeated`, the best unwanted pair is taken to be distinct from the wanted ones if
# its residual is below this multiple of its distance from them.
_APART = 0.3


def _settled(ritz: Ritz, needed: Int[Array, ""], rtol: float) -> Bool[Array, ""]:
    """Whether the best unwanted pair has converged, or is well separated from the wanted
    ones, and accurate enough to rule out a better one."""
    beyond = ritz.values[needed]
    apart = jnp.where(ritz.wanted, jnp.abs(ritz.values - beyond), jnp.inf)
    size = rtol * jnp.abs(beyond)
    known = jnp.minimum(jnp.maximum(size, _APART * jnp.min(apart)), rtol**-0.5 * size)
    return ritz.residuals[needed] <= jnp.maximum(known, ritz.rounding)


def _moved(ritz: Ritz, before: Complex[Array, " m"], rtol: float) -> Bool[Array, ""]:
    """Whether a search turned up pairs other than those found before it."""
    values, known = ritz.values[: before.size], ritz.converged[: before.size]
    return jnp.any(known & (jnp.abs(values - before) > _NEAR * rtol * jnp.abs(values)))


def compressed(
    decomposition: KrylovDecomposition, locked: Int[Array, ""]
) -> KrylovDecomposition:
    """The decomposition of `P A P`, P the projector onto the complement of the `locked`
    vectors, beside these: without the coupling to them."""
    basis, matrix = decomposition
    row, column = (
        jax.lax.broadcasted_iota(locked.dtype, matrix.shape, i) for i in (0, 1)
    )
    # Both ways: what rounding leaves would mix the vectors of an eigenvalue and its copy.
    coupled = (row < locked) != (column < locked)
    return KrylovDecomposition(basis, matrix * (~coupled).astype(matrix.dtype))


def resumed(ritz: Ritz, wanted: Int[Array, ""], dtype) -> Inexact[Array, "m m"]:
    """The first columns of Q that keep the `wanted` vectors found before a search, and
    after them the sum of what it found."""
    found = ritz.vectors @ ritz.ahead.astype(ritz.vectors.dtype)
    found = found if jnp.issubdtype(dtype, jnp.complexfloating) else found.real
    tiny = float(jnp.finfo(found.dtype).tiny)
    found = found / jnp.maximum(jnp.linalg.norm(found), tiny).astype(found.dtype)
    eye = jnp.eye(found.size, dtype=found.dtype)
    return jnp.where(jnp.arange(found.size) == wanted, found[:, None], eye)


def roughly_known(
    values: Inexact[Array, " m"],
    residuals: Float[Array, " m"],
    count: Int[Array, ""] | int,
) -> Bool[Array, ""]:
    """Whether the first Ritz values are eigenvalues to a tenth, as residuals tell."""
    known = residuals <= 0.1 * jnp.abs(values)
    return jnp.all(known | (jnp.arange(values.size) >= count))


def steps_to_purify(
    matrix: Inexact[Array, "m m"],
    coupling: Inexact[Array, " m"],
    there: Bool[Array, " m"],
) -> Inexact[Array, " m"]:
    """L⁻ᵀb of the vectors that are `there`, with L their projected matrix and b their
    `coupling` to the residual."""
    both = there[:, None] & there
    inside = jnp.where(both, matrix, jnp.eye(there.size, dtype=matrix.dtype))
    return solve(inside, jnp.where(there, coupling, 0)[None], left_side=False)[0]


def purified(
    decomposition: KrylovDecomposition,
    start: Int[Array, ""],
    p: Int[Array, ""],
    steps: Inexact[Array, " m"],
) -> KrylovDecomposition:
    """The first p vectors, of which the residual x is about to be dropped, after one more
    product, which costs none: `C V L⁻¹ = V + x stepsᵀ` (Ericsson and Ruhe 1980)."""
    basis, matrix = decomposition
    rest = from_rows(vector_of(basis, start))
    # Where vectors would cease to be orthonormal, it is left to the caller.
    small = jnp.abs(steps) < float(jnp.finfo(matrix.dtype).eps) ** 0.5
    steps = jnp.where(small, steps, 0)

    def step(j: Int[Array, ""], basis: Array) -> Array:
        x = to_rows(from_rows(vector_of(basis, j)) + steps[j] * rest)
        return with_vector(basis, j, x)

    return KrylovDecomposition(jax.lax.fori_loop(0, p, step, basis), matrix)
