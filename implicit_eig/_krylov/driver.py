"""The driver: restarts until the wanted pairs have converged."""

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
from .._spectral import AbstractSelection
from .arnoldi import expand, KrylovDecomposition, restart
from .basis import from_rows, norm, scaled, to_rows, vector_of
from .confirmation import (
    Before,
    compressed,
    judged,
    purified,
    resumed,
    roughly_known,
    Search,
    steps_to_purify,
    Verdict,
)
from .ritz import kept_basis, leading, nearest_outside, Ritz, ritz_pairs
from .truncation import Restart


class KrylovResult(NamedTuple):
    """The wanted Schur vectors: `m` columns, of which the `active` ones have converged.
    `done` says that all have, and that the search for better ones has ended. `outside`
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


def krylov_schur(
    mv: Callable[[PyTree[Array]], PyTree[Array]],
    v0: PyTree[Inexact[Array, " _n"]],
    selection: AbstractSelection,
    search: Search,
    *,
    max_restarts: int | Int[Array, ""],
    least: float | Float[Array, ""] = 0.0,
    admit: Callable[[PyTree[Array]], PyTree[Array]] | None = None,
    stop: Callable[[Array, Array], Bool[Array, ""]] | None = None,
) -> KrylovResult:
    """The driver. `v0` fixes the arithmetic, real or complex, and the structure of a
    vector.

    Returns k columns, one more in real arithmetic. A Ritz pair has converged when its
    residual is below `rtol |λ|`, or `rtol least`, or rounding of the largest Ritz value.

    With `confirm` the run does not end there. It keeps what was found, and the Krylov
    space grows to full size again from a random vector: pairs to which `v0` was blind,
    because it lay in an invariant subspace, show up and have to converge. As one Krylov
    space holds one vector of each eigenspace, further copies of an eigenvalue are found
    in the same way. For extreme eigenvalues, the search goes on until the residual of the
    best pair it found is too small for that to be one of the wanted, which may be a
    second copy of one of them, and then has no derivatives. Unwanted pairs of which that
    is known when the search begins are locked for its duration, like the wanted ones:
    what is left then is further from the rim of the spectrum, and a copy shows up sooner.
    If something better turns up, these are let go, and the run goes on from it. If it was
    a copy, another random vector follows to look for a third one, at most k times. With
    `repeated`, one follows if anything better turned up, and the best unwanted pair must
    be known more accurately.

    `admit` projects onto the invariant subspace to which the run is confined: against
    rounding, and when the run goes on with a random vector after a breakdown. `stop`,
    of k wanted Ritz values and as many `outside`, ends a run that is of no use.
    """
    # No closures over arrays, which may be batched.
    mv = eqx.filter_closure_convert(mv, v0)
    admit = None if admit is None else eqx.filter_closure_convert(admit, v0)
    if stop is not None:
        theta = jnp.zeros(search.k, complex_dtype(jtu.tree_leaves(v0)[0].dtype))
        stop = eqx.filter_closure_convert(stop, theta, theta)
    run = functools.partial(_run, search=search)
    real = jtu.tree_leaves(v0)[0].real.dtype
    limits = jnp.asarray(max_restarts), jnp.asarray(least, real)
    return one_by_one(run, mv, v0, selection, admit, stop, *limits)


class _State(NamedTuple):
    decomposition: KrylovDecomposition
    start: Int[Array, ""]  # how many of its vectors are kept
    anew: Bool[Array, ""]  # whether their residual is dropped
    before: Before
    restarts: Int[Array, ""]
    matvecs: Int[Array, ""]
    norm: Float[Array, ""]
    finite: Bool[Array, ""]
    done: Bool[Array, ""]
    eigenvalues: Complex[Array, " m"]
    coordinates: Complex[Array, "m m"]
    active: Bool[Array, " m"]
    outside: Complex[Array, " m"]


def _run(
    mv: Callable[[PyTree[Array]], PyTree[Array]],
    v0: PyTree[Inexact[Array, " _n"]],
    selection: AbstractSelection,
    admit: Callable[[PyTree[Array]], PyTree[Array]] | None,
    stop: Callable[[Array, Array], Bool[Array, ""]] | None,
    max_restarts: Int[Array, ""],
    least: Float[Array, ""],
    *,
    search: Search,
) -> KrylovResult:
    k, krylov_dim = search.k, search.krylov_dim
    dtype = jtu.tree_leaves(v0)[0].dtype
    is_real = not jnp.issubdtype(dtype, jnp.complexfloating)
    width = k + 1 if is_real else k
    locks = search.locks(selection, is_real)

    def cycle(state: _State) -> _State:
        before = state.before
        # Another random vector in every restart.
        decomposition = expand(
            mv, *state[:3], admit=admit, seed=krylov_dim * state.restarts
        )
        locked = before.locked if locks else None
        if locked is not None:
            decomposition = compressed(decomposition, locked)
        ritz = ritz_pairs(
            decomposition, selection, k, search.rtol, least, is_real, locked
        )
        verdict = judged(ritz, before, selection, search, is_real)
        values, index = ritz.values[:width], jnp.arange(krylov_dim)
        outside = nearest_outside(ritz.values, index, ritz.wanted)[:width]
        done = verdict.done | ~ritz.finite
        if stop is not None:
            # Not by Ritz values that may still change.
            count = jnp.sum(ritz.wanted) + 1
            known = roughly_known(ritz.values, ritz.residuals, count)
            done = done | (known & stop(values[:k], outside[:k]))
        restarts = state.restarts + 1
        last = verdict.complete | done | (restarts >= max_restarts)
        # In a batch, a run that is done goes on cycling with the others.
        ended = state.done | done | (restarts >= max_restarts)
        count, needed = jnp.sum(ritz.converged), jnp.sum(ritz.wanted)
        worst = jnp.max(jnp.where(ritz.wanted, ritz.residuals, 0))
        search.progress_meter.step(restarts, count, needed, worst, ended)
        verdict = verdict._replace(done=done)
        q, kept = _restarted(decomposition, ritz, verdict, state, search, last, locks)
        coordinates = q[:, :width].conj().T.astype(values.dtype) @ ritz.vectors[:, :width]
        return _State(
            *kept,
            restarts=restarts,
            matvecs=state.matvecs + krylov_dim - state.start,
            norm=jnp.max(jnp.abs(ritz.values)),
            finite=ritz.finite,
            done=done,
            eigenvalues=values,
            coordinates=leading(ritz.converged[:width], coordinates),
            active=ritz.converged[:width],
            outside=outside,
        )

    rows = to_rows(v0)
    end = jax.lax.while_loop(
        lambda s: ~s.done & (s.restarts < max_restarts),
        cycle,
        _first(scaled(rows, norm(rows)), krylov_dim, width, dtype),
    )
    return _result(end)


def _restarted(
    decomposition: KrylovDecomposition,
    ritz: Ritz,
    verdict: Verdict,
    state: _State,
    search: Search,
    last: Bool[Array, ""],
    locks: bool,
) -> tuple[Array, tuple[KrylovDecomposition, Array, Array, Before]]:
    """What a restart keeps: the basis of Ritz vectors, and the first fields of a state.
    If it is the `last` one, or that before a new search, the wanted pairs."""
    m, before, width = search.krylov_dim, state.before, state.eigenvalues.size
    count, needed = jnp.sum(ritz.converged), jnp.sum(ritz.wanted)
    anew, resume = verdict.complete & ~verdict.done, verdict.better & ~last
    busy = needed
    if locks:
        busy, count = jnp.maximum(jnp.stack((needed, count)), before.locked)
    keep = search.truncation(Restart(m, busy, count, state.restarts, ritz.values))
    keep = jnp.where(anew, verdict.lock, jnp.where(last, needed, keep))
    keep = keep + ritz.second[jnp.minimum(keep, m - 1)].astype(keep.dtype)
    q, start = kept_basis(ritz, decomposition.matrix, keep), keep
    locked = before.locked
    if locks:
        locked = jnp.where(anew, keep, jnp.where(resume, 0, locked))
        start = jnp.where(resume, before.wanted, keep)
        keep = jnp.where(resume, before.wanted + 1, keep)
        q = jnp.where(resume, resumed(ritz, before.wanted, q.dtype), q)
    # It starts from the last vector kept, behind which there must be none.
    decomposition = restart(decomposition, q, keep, resume if locks else None)
    if search.purify:
        whole = jnp.where(anew, needed, 0)
        matrix = decomposition.matrix
        steps = steps_to_purify(
            matrix[:width, :width], matrix[keep, :width], jnp.arange(width) < whole
        )
        decomposition = purified(decomposition, keep, whole, steps)
    complete = verdict.complete
    before = Before(
        before.searches + complete.astype(before.searches.dtype),
        jnp.where(complete, ritz.values[:width], before.eigenvalues),
        jnp.where(complete, needed, before.wanted),
        locked,
    )
    return q, (decomposition, start, anew, before)


def _result(end: _State) -> KrylovResult:
    width = end.eigenvalues.size
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
        before=Before(zero, values, zero, zero),
        restarts=zero,
        matvecs=zero,
        norm=jnp.zeros((), matrix.real.dtype),
        finite=jnp.asarray(True),
        done=no,
        eigenvalues=values,
        coordinates=jnp.zeros((width, width), values.dtype),
        active=jnp.zeros(width, bool),
        outside=values,
    )
