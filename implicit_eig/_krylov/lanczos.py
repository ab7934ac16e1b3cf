"""Thick-restart Lanczos (Wu and Simon 2000) for self-adjoint operators: the counterpart
of `driver.py` for a Hermitian projected matrix, solved by LAPACK's `eigh`. No conjugate
partners, no Schur basis, and nothing to sharpen: eigenvectors are orthonormal.

Orthogonalisation is full, as in the general run, so Ritz vectors are orthonormal to
rounding and no copy of a converged pair comes back.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int

from .._batch import one_by_one
from .._operator import complex_dtype
from .._spectral import AbstractSelection, BothEnds, order
from .arnoldi import expand, KrylovDecomposition, restart
from .basis import from_rows, inner, norm, scaled, to_rows, vector_of
from .confirmation import compressed, purified, roughly_known, Search
from .ritz import target_coordinates
from .truncation import Restart


class LanczosResult(NamedTuple):
    """The k wanted Ritz pairs, best first, of which the `active` ones converged; the
    other fields are as in `KrylovResult`."""

    basis: Inexact[Array, "n k"]
    eigenvalues: Complex[Array, " k"]
    active: Bool[Array, " k"]
    outside: Complex[Array, " k"]
    norm: Float[Array, ""]
    finite: Bool[Array, ""]
    done: Bool[Array, ""]
    rest: Inexact[Array, " n"]
    coupling: Inexact[Array, " k"]
    num_matvecs: Int[Array, ""]
    num_restarts: Int[Array, ""]


class _State(NamedTuple):
    decomposition: KrylovDecomposition
    start: Int[Array, ""]  # how many of its vectors are kept
    anew: Bool[Array, ""]  # whether their residual is dropped
    restarts: Int[Array, ""]
    matvecs: Int[Array, ""]
    finite: Bool[Array, ""]
    done: Bool[Array, ""]
    eigenvalues: Float[Array, " m"]  # all Ritz values, best first
    active: Bool[Array, " k"]
    searches: Int[Array, ""]
    found: Float[Array, " k"]


class _Ritz(NamedTuple):
    """Ritz pairs, best first; the first k are wanted."""

    values: Float[Array, " m"]
    vectors: Inexact[Array, "m m"]
    residuals: Float[Array, " m"]
    converged: Bool[Array, " m"]
    rounding: Float[Array, ""]
    finite: Bool[Array, ""]


def lanczos(
    mv: Callable[[Array], Array],
    v0: Inexact[Array, " n"],
    selection: AbstractSelection,
    search: Search,
    *,
    max_restarts: int | Int[Array, ""],
    metric: Callable[[Array], Array] | None = None,
    stop: Callable[[Array, Array], Bool[Array, ""]] | None = None,
) -> LanczosResult:
    """The k pairs of an operator that is self-adjoint in ⟨x, B y⟩, B the `metric`.

    A pair has converged when its residual is below `rtol |λ|`, or rounding of the largest
    Ritz value. One Krylov space holds one vector of each eigenspace: so when all have
    converged, the run keeps them, begins anew with a random vector and goes on until the
    best unwanted pair is separated from the wanted ones, or converged too; this repeats
    as long as it brings other pairs. It finds the copies of repeated eigenvalues, and
    pairs to which `v0` was blind.
    """
    # No closures over arrays, which may be batched.
    mv = eqx.filter_closure_convert(mv, v0)
    metric = None if metric is None else eqx.filter_closure_convert(metric, v0)
    if stop is not None:
        theta = jnp.zeros(search.k, complex_dtype(v0.dtype))
        stop = eqx.filter_closure_convert(stop, theta, theta)
    limit = jnp.asarray(max_restarts)
    run = functools.partial(_run, search=search)
    return one_by_one(run, mv, v0, selection, metric, stop, limit)


def _run(
    mv: Callable[[Array], Array],
    v0: Inexact[Array, " n"],
    selection: AbstractSelection,
    metric: Callable[[Array], Array] | None,
    stop: Callable[[Array, Array], Bool[Array, ""]] | None,
    max_restarts: Int[Array, ""],
    *,
    search: Search,
) -> LanczosResult:
    k, m, rtol = search.k, search.krylov_dim, search.rtol

    def cycle(state: _State) -> _State:
        decomposition = expand(mv, *state[:3], metric=metric, seed=m * state.restarts)
        if search.purify:
            # In that space those k, with no part of a random vector, are exact.
            decomposition = compressed(decomposition, jnp.where(state.anew, k, 0))
        ritz = _ritz_pairs(decomposition, selection, rtol, k)
        count = jnp.sum(ritz.converged[:k])
        complete = (count == k) & ritz.finite
        complete = complete & ((state.searches == 0) | _settled(ritz, k, rtol))
        values = ritz.values[:k]
        same = jnp.abs(values - state.found) <= 1e3 * rtol * jnp.max(jnp.abs(ritz.values))
        done = (complete & (state.searches > 0) & jnp.all(same)) | ~ritz.finite
        if stop is not None:
            known = roughly_known(ritz.values, ritz.residuals, k + 1)
            done = done | (known & stop(*_both_sides(ritz.values, k, v0.dtype)))
        restarts = state.restarts + 1
        last = complete | done | (restarts >= max_restarts)
        due = Restart(m, jnp.asarray(k), count, state.restarts, ritz.values)
        keep = jnp.where(last, k, search.truncation(due))
        worst = jnp.max(ritz.residuals[:k])
        # In a batch, a run that is done goes on cycling with the others.
        ended = state.done | done | (restarts >= max_restarts)
        search.progress_meter.step(restarts, count, k, worst, ended)  # pyright: ignore[reportArgumentType]
        decomposition, anew = restart(decomposition, ritz.vectors, keep), complete & ~done
        if search.purify:
            size = jnp.where(values == 0, 1, values).astype(v0.dtype)
            steps = decomposition.matrix[k, :k] / size
            decomposition = purified(decomposition, keep, jnp.where(anew, k, 0), steps)
        return _State(
            decomposition=decomposition,
            start=keep,
            anew=anew,
            restarts=restarts,
            matvecs=state.matvecs + m - state.start,
            finite=ritz.finite,
            done=done,
            eigenvalues=ritz.values,
            active=ritz.converged[:k],
            searches=state.searches + complete.astype(state.searches.dtype),
            found=jnp.where(complete, values, state.found),
        )

    end = jax.lax.while_loop(
        lambda s: ~s.done & (s.restarts < max_restarts),
        cycle,
        _first(v0, metric, m, k),
    )
    return _result(end, k)


def _result(end: _State, k: int) -> LanczosResult:
    basis, matrix = end.decomposition
    wanted, outside = _both_sides(end.eigenvalues, k, matrix.dtype)
    return LanczosResult(
        basis=from_rows(jnp.moveaxis(basis[:k], 1, 0)).T,
        eigenvalues=wanted,
        active=end.active,
        outside=outside,
        norm=jnp.max(jnp.abs(end.eigenvalues)),
        finite=end.finite,
        done=end.done,
        rest=from_rows(vector_of(basis, end.start)),
        coupling=matrix[end.start, :k],
        num_matvecs=end.matvecs,
        num_restarts=end.restarts,
    )


def _both_sides(
    values: Float[Array, " m"], k: int, dtype
) -> tuple[Complex[Array, " k"], Complex[Array, " k"]]:
    """The wanted Ritz values, and for each the nearest one that is not."""
    wanted, others = values[:k], values[k:]
    nearest = jnp.argmin(jnp.abs(wanted[:, None] - others), axis=1)
    dtype = complex_dtype(dtype)
    return wanted.astype(dtype), others[nearest].astype(dtype)


def _first(
    v0: Inexact[Array, " n"], metric: Callable[[Array], Array] | None, m: int, k: int
) -> _State:
    rows = to_rows(v0)
    size = norm(rows)
    if metric is not None:
        size = jnp.sqrt(inner(rows, to_rows(metric(v0))))
    basis = jnp.zeros((m + 1, *rows.shape), rows.dtype).at[0].set(scaled(rows, size))
    zero, no = jnp.asarray(0), jnp.asarray(False)
    real = rows.dtype
    return _State(
        decomposition=KrylovDecomposition(basis, jnp.zeros((m + 1, m), v0.dtype)),
        start=zero,
        anew=no,
        restarts=zero,
        matvecs=zero,
        finite=jnp.asarray(True),
        done=no,
        eigenvalues=jnp.zeros(m, real),
        active=jnp.zeros(k, bool),
        searches=zero,
        found=jnp.zeros(k, real),
    )


def _ritz_pairs(
    decomposition: KrylovDecomposition, selection: AbstractSelection, rtol: float, k: int
) -> _Ritz:
    basis, matrix = decomposition
    m = matrix.shape[1]
    eps = jnp.finfo(matrix.dtype).eps
    finite = jnp.all(jnp.isfinite(matrix))
    projected = jnp.where(finite, matrix[:m], jnp.eye(m, dtype=matrix.dtype))
    values, vectors = jnp.linalg.eigh(projected)
    residuals = jnp.abs(matrix[m] @ vectors)
    rounding = 10 * eps * jnp.max(jnp.abs(values))
    enough = jnp.maximum(rtol * jnp.abs(values), rounding)
    target, overlaps = selection.target(), None
    if target is not None:
        overlaps = jnp.abs(target_coordinates(basis[:m], target).conj() @ vectors)
    # Unconverged pairs are ranked as if they had converged.
    accuracy = jnp.clip(residuals, rounding, enough)
    best = best_first(selection, values, overlaps, accuracy)
    converged = (residuals <= enough) & finite
    return _Ritz(
        values[best], vectors[:, best], residuals[best], converged[best], rounding, finite
    )


def best_first(
    selection: AbstractSelection,
    values: Float[Array, " m"],
    overlaps: Float[Array, " m"] | None,
    accuracy: Float[Array, " m"],
) -> Int[Array, " m"]:
    """The order of real eigenvalues."""
    complexes = values.astype(complex_dtype(values.dtype))
    if isinstance(selection, BothEnds):
        return jnp.argsort(-selection.keys(complexes, overlaps, False))
    return order(selection, complexes, overlaps, False, accuracy).permutation


def _settled(ritz: _Ritz, k: int, rtol: float) -> Bool[Array, ""]:
    """Whether the best unwanted pair is apart from the wanted ones, or converged too."""
    beyond = ritz.values[k]
    apart = jnp.min(jnp.abs(ritz.values[:k] - beyond))
    enough = jnp.maximum(jnp.maximum(rtol * jnp.abs(beyond), apart), ritz.rounding)
    return ritz.residuals[k] <= enough
