"""The driver: restarts until what is wanted has converged."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int, PyTree

from .._batch import one_by_one
from .._operator import complex_dtype
from .._progress_meter import AbstractProgressMeter, NoProgressMeter
from .._spectral import AbstractSelection
from .arnoldi import expand, KrylovDecomposition, restart
from .basis import from_rows, norm, scaled, to_rows, vector_of
from .ritz import leading, nearest_outside, Ritz, ritz_pairs, schur_basis, sharpened


class KrylovResult(NamedTuple):
    """The wanted Schur vectors; `m` columns of which the `active` ones converged. `done`
    tells that all did, and that the search for better ones came to its end. `outside`
    are the unwanted Ritz values nearest to the wanted ones. With x the vector `rest` and
    b the `coupling`, `A X = X L + x bᵀ`."""

    basis: PyTree[Inexact[Array, "_n m"]]
    matrix: Inexact[Array, "m m"]
    eigenvalues: Complex[Array, " m"]
    coordinates: Complex[Array, "m m"]
    active: Bool[Array, " m"]
    outside: Complex[Array, " m"]
    norm: Float[Array, ""]
    finite: Bool[Array, ""]
    done: Bool[Array, ""]
    rest: PyTree[Inexact[Array, " _n"]]
    coupling: Inexact[Array, " m"]
    num_matvecs: Int[Array, ""]
    num_restarts: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Search:
    """How a run searches for k pairs: what is fixed when it is compiled."""

    k: int
    krylov_dim: int
    rtol: float
    confirm: bool = True
    repeated: bool = False
    purify: bool = False
    progress_meter: AbstractProgressMeter = NoProgressMeter()


def krylov_schur(
    mv: Callable[[PyTree[Array]], PyTree[Array]],
    v0: PyTree[Inexact[Array, " _n"]],
    selection: AbstractSelection,
    search: Search,
    *,
    max_restarts: int | Int[Array, ""],
    least: float | Float[Array, ""] = 0.0,
    admit: Callable[[PyTree[Array]], PyTree[Array]] | None = None,
) -> KrylovResult:
    """The driver. `v0` fixes the arithmetic, real or complex, and the structure of a
    vector.

    Returns k columns, one more in real arithmetic. A Ritz pair has converged when its
    residual is below `rtol |λ|`, or `rtol least`, or rounding of the largest Ritz value.

    With `confirm` the run does not end there. What was found is kept, the Krylov space
    begins anew with a random vector and grows to its full size: what `v0` was blind to,
    because it lay in an invariant subspace, shows and has to converge. One Krylov space
    holds one vector of each eigenspace, so this is also how more copies of an eigenvalue
    are found. Of extreme eigenvalues it goes on until the best pair beyond the wanted
    ones is well apart from them, or known as well: it may be a second copy of one of
    them, which has no derivatives then. Where a copy turned up, another random vector
    follows, for a third one, k times at most. With `repeated` one follows where anything
    better turned up, and the best pair beyond has to be known better still.

    `admit` projects onto the invariant subspace the run is confined to, against rounding
    and after a breakdown, when the run goes on with a random vector.
    """
    # Without closures over arrays, which may be those of a batch.
    mv = eqx.filter_closure_convert(mv, v0)
    admit = None if admit is None else eqx.filter_closure_convert(admit, v0)
    run = functools.partial(_run, search=search)
    real = jtu.tree_leaves(v0)[0].real.dtype
    limits = jnp.asarray(max_restarts), jnp.asarray(least, real)
    return one_by_one(run, mv, v0, selection, admit, *limits)


class _State(NamedTuple):
    decomposition: KrylovDecomposition
    start: Int[Array, ""]  # how many vectors of it are kept
    anew: Bool[Array, ""]  # their residual is not
    restarts: Int[Array, ""]
    matvecs: Int[Array, ""]
    norm: Float[Array, ""]
    finite: Bool[Array, ""]
    done: Bool[Array, ""]
    eigenvalues: Complex[Array, " m"]
    coordinates: Complex[Array, "m m"]
    active: Bool[Array, " m"]
    outside: Complex[Array, " m"]
    searches: Int[Array, ""]
    found: Complex[Array, " m"]


# The residual of a pair beyond the wanted ones, over its distance from them, at which it
# is taken for another one. Of 720 runs on operators that hold every eigenvalue twice, ten
# missed a copy with 1, four with 0.3, two with 0.1; operators that hold them once took
# 3.5% more products with 0.3, 8% with 0.1.
_APART = 0.3


def _run(
    mv: Callable[[PyTree[Array]], PyTree[Array]],
    v0: PyTree[Inexact[Array, " _n"]],
    selection: AbstractSelection,
    admit: Callable[[PyTree[Array]], PyTree[Array]] | None,
    max_restarts: Int[Array, ""],
    least: Float[Array, ""],
    *,
    search: Search,
) -> KrylovResult:
    k, krylov_dim, rtol = search.k, search.krylov_dim, search.rtol
    dtype = jtu.tree_leaves(v0)[0].dtype
    is_real = not jnp.issubdtype(dtype, jnp.complexfloating)
    width = k + 1 if is_real else k
    searching = search.confirm or search.repeated
    looking_beyond = search.repeated or (search.confirm and selection.is_extreme(is_real))

    def cycle(state: _State) -> _State:
        # Another random vector in every restart.
        decomposition = expand(
            mv, *state[:3], admit=admit, seed=krylov_dim * state.restarts
        )
        ritz = ritz_pairs(decomposition, selection, k, rtol, least, is_real)
        count, needed = jnp.sum(ritz.converged), jnp.sum(ritz.wanted)
        values = ritz.values[:width]
        complete = (count == needed) & ritz.finite
        done = complete & (state.searches > 0) if searching else complete
        if looking_beyond:
            settled = _settled(ritz, needed, rtol, search.repeated)
            complete = complete & ((state.searches == 0) | settled)
            done = done & settled & ~_moved(ritz, state, search)
        done = done | ~ritz.finite
        restarts = state.restarts + 1
        last = complete | done | (restarts >= max_restarts)
        keep = jnp.where(last, needed, kept(krylov_dim, needed, count, state.restarts))
        keep = keep + ritz.second[jnp.minimum(keep, krylov_dim - 1)].astype(keep.dtype)
        q = schur_basis(ritz.vectors, ritz.second, is_real)
        q = sharpened(decomposition.matrix[:-1], q, keep, ritz.values, ritz.vectors)
        coordinates = q[:, :width].conj().T.astype(values.dtype) @ ritz.vectors[:, :width]
        worst = jnp.max(jnp.where(ritz.wanted, ritz.residuals, 0))
        # In a batch, a run that is done goes round with the others.
        ended = state.done | done | (restarts >= max_restarts)
        search.progress_meter.step(restarts, count, needed, worst, ended)
        index = jnp.arange(krylov_dim)
        return _State(
            decomposition=restart(decomposition, q, keep),
            start=keep,
            anew=complete & ~done if searching else jnp.asarray(False),
            restarts=restarts,
            matvecs=state.matvecs + krylov_dim - state.start,
            norm=jnp.max(jnp.abs(ritz.values)),
            finite=ritz.finite,
            done=done,
            eigenvalues=values,
            coordinates=leading(ritz.converged[:width], coordinates),
            active=ritz.converged[:width],
            outside=nearest_outside(ritz.values, index, ritz.wanted)[:width],
            searches=state.searches + complete.astype(state.searches.dtype),
            found=jnp.where(complete, values, state.found),
        )

    rows = to_rows(v0)
    end = jax.lax.while_loop(
        lambda s: ~s.done & (s.restarts < max_restarts),
        cycle,
        _first(scaled(rows, norm(rows)), krylov_dim, width, dtype),
    )
    return _result(end)


def _result(end: _State) -> KrylovResult:
    width = end.found.size
    basis, matrix = end.decomposition
    return KrylovResult(
        basis=jtu.tree_map(lambda b: from_rows(jnp.moveaxis(b[:width], 1, 0)).T, basis),
        matrix=leading(end.active, matrix[:width, :width]),
        eigenvalues=end.eigenvalues,
        coordinates=end.coordinates,
        active=end.active,
        outside=end.outside,
        norm=end.norm,
        finite=end.finite,
        done=end.done,
        rest=from_rows(vector_of(basis, end.start)),
        coupling=matrix[end.start, :width],
        num_matvecs=end.matvecs,
        num_restarts=end.restarts,
    )


def _first(
    start: PyTree[Float[Array, "c _parts _size"]], m: int, width: int, dtype
) -> _State:
    def alone(v: Array) -> Array:
        return jnp.zeros((m + 1, *v.shape), v.dtype).at[0].set(v)

    zero, no = jnp.asarray(0), jnp.asarray(False)
    values = jnp.zeros(width, complex_dtype(dtype))
    matrix = jnp.zeros((m + 1, m), dtype)
    return _State(
        decomposition=KrylovDecomposition(jtu.tree_map(alone, start), matrix),
        start=zero,
        anew=no,
        restarts=zero,
        matvecs=zero,
        norm=jnp.zeros((), matrix.real.dtype),
        finite=jnp.asarray(True),
        done=no,
        eigenvalues=values,
        coordinates=jnp.zeros((width, width), values.dtype),
        active=jnp.zeros(width, bool),
        outside=values,
        searches=zero,
        found=values,
    )


def _moved(ritz: Ritz, state: _State, search: Search) -> Bool[Array, ""]:
    """Whether other pairs turned up than were found before this search; but for
    `repeated`, copies of an eigenvalue, and k times at most."""
    width = state.found.size
    values, known = ritz.values[:width], ritz.converged[:width]
    near = 1e3 * search.rtol * jnp.abs(values)
    moved = jnp.any(known & (jnp.abs(values - state.found) > near))
    if search.repeated:
        return moved
    copies = jnp.abs(values[:, None] - values) <= near
    # Far from normal, it may be another one every time.
    return moved & (jnp.sum(copies) > width) & (state.searches <= search.k)


def _settled(
    ritz: Ritz, needed: Int[Array, ""], rtol: float, repeated: bool
) -> Bool[Array, ""]:
    """Whether the best pair that is not wanted is well apart from those, or known as
    well; with `repeated`, and known well enough not to be better."""
    beyond = ritz.values[needed]
    apart = jnp.where(ritz.wanted, jnp.abs(ritz.values - beyond), jnp.inf)
    size = rtol * jnp.abs(beyond)
    known = jnp.maximum(size, _APART * jnp.min(apart))
    known = jnp.minimum(known, rtol**-0.5 * size) if repeated else known
    return ritz.residuals[needed] <= jnp.maximum(known, ritz.rounding)


def kept(
    m: int, needed: Int[Array, ""], count: Int[Array, ""], restarts: Int[Array, ""]
) -> Int[Array, ""]:
    """How many of m vectors a restart keeps: the wanted ones and a part of the rest;
    more as pairs converge, so that locked vectors do not eat up the room for new ones
    (Stathopoulos, Saad and Wu 1998).

    The part varies, from 0.4 to 0.73 by the golden ratio: a fixed one may drop the same
    Ritz values each time, and what a wanted pair grows from with them.
    """
    part = 40 + (restarts * 21) % 34
    return jnp.minimum(needed + part * (m - needed + count) // 100, m - 2)
