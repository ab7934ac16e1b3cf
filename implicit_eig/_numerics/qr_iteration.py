"""Schur forms of many small general matrices by a QR iteration in XLA alone.

Uses Francis' double shift for real matrices, a single shift for complex ones.

The matrices of a batch go in step: each is turned at the same place, or not at all if its
active block does not reach that far. Each matrix has its own deflation and shifts, which
are those of LAPACK's `lahqr`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Int

from .hessenberg import hessenberg
from .scaling import times_real
from .triangular import larger_root, quotient
from .turns import magnifier, negligible, Reflection, Rotation


class _Bands(NamedTuple):
    diagonal: Inexact[Array, "n b"]
    below: Inexact[Array, "k b"]
    above: Inexact[Array, "k b"]

    @classmethod
    def of(cls, hq: Inexact[Array, "m p b"], n: int) -> "_Bands":
        """Extracts the diagonals by strides, as a gather would be slow."""
        p = hq.shape[1]
        flat = hq[:n].reshape(n * p, -1)
        return cls(*(flat[i :: p + 1][:k] for i, k in ((0, n), (p, n - 1), (1, n - 1))))


class _Window(NamedTuple):
    """The last block of each matrix that must be reduced further, rows `low` to `high`.
    There is none if `high` is zero."""

    low: Int[Array, " b"]
    high: Int[Array, " b"]

    @classmethod
    def of(cls, cut: Bool[Array, "k b"]) -> "_Window":
        index = _indices(len(cut))[:, None] + 1
        # Blocks of two rows are solved in closed form.
        long = ~cut[1:] & ~cut[:-1]
        high = jnp.max(jnp.where(long, index[1:], 0), axis=0, initial=0)
        low = jnp.max(jnp.where(cut & (index <= high), index, 0), axis=0, initial=0)
        return cls(low, high)


class _State(NamedTuple):
    hq: Inexact[Array, "m p b"]
    cut: Bool[Array, "k b"]  # where the subdiagonal is zero
    high: Int[Array, " b"]  # where the window of the last sweep ended
    stuck: Int[Array, " b"]  # sweeps since that end last changed
    sweeps: Int[Array, ""]


class Schur(NamedTuple):
    """`A = Q H Qᴴ`, with blocks of at most two rows on the diagonal of H."""

    blocks: Inexact[Array, "n n b"]  # H
    basis: Inexact[Array, "n n b"]  # Q
    cut: Bool[Array, "k b"]  # where the subdiagonal is zero
    converged: Bool[Array, " b"]


# Sweeps per row: the number that LAPACK allows for an eigenvalue.
SWEEPS = 30


def schur(a: Inexact[Array, "n n b"], each: bool) -> Schur:
    """The Schur forms of matrices whose norms are about one.

    `each`: a sweep ends where the last active block does. On an accelerator, the host
    would have to be asked for the length of that loop.
    """
    n, width = a.shape[0], 2 if jnp.iscomplexobj(a) else 3
    hq = hessenberg(a, width - 2)
    cut = jnp.zeros((n - 1, a.shape[-1]), bool)
    zeros = jnp.zeros(a.shape[-1], jnp.int32)
    state = _State(hq, cut, zeros, zeros, jnp.array(0))

    def unfinished(state: _State) -> Bool[Array, ""]:
        within = jnp.any(_Window.of(state.cut).high > 0)
        return within & (state.sweeps < SWEEPS * max(n, 10))

    if n > 2:
        sweep = functools.partial(_sweep, n=n, width=width, each=each)
        state = jax.lax.while_loop(unfinished, sweep, state)
    else:
        state = state._replace(cut=_deflated(_Bands.of(hq, n), cut))
    top = n + width - 2
    converged = _Window.of(state.cut).high == 0
    return Schur(state.hq[:n, :n], state.hq[top:, :n], state.cut, converged)


def _deflated(bands: _Bands, cut: Bool[Array, "k b"]) -> Bool[Array, "k b"]:
    """The criterion of Ahues and Tisseur (1997), as in LAPACK's `lahqr`."""
    least = 16 * (len(cut) + 1) * negligible(bands.diagonal.real.dtype)
    size, below, above = (_size(x) for x in bands)
    padded = jnp.pad(below, ((1, 1), (0, 0)))
    apart = _size(bands.diagonal[1:] - bands.diagonal[:-1])
    around = padded[:-2] + padded[2:]
    small = small_below(below, above, size[:-1], size[1:], apart, around)
    return cut | small | (below <= least)


def small_below(
    below: Float[Array, "*k"],
    above: Float[Array, "*k"],
    first: Float[Array, "*k"],
    second: Float[Array, "*k"],
    apart: Float[Array, "*k"],
    around: Float[Array, "*k"],
) -> Bool[Array, "*k"]:
    """Whether c may be set to zero in the rows `(a b; c d)` of a Hessenberg matrix, by
    the sizes of c, b, a, d, a − d, and of the subdiagonal entries beside c."""
    eps = float(jnp.finfo(below.dtype).eps)
    # A companion matrix has zeros on the diagonal, and neighbours of any size.
    beside = jnp.where(first + second > 0, first + second, around)
    across, along = jnp.maximum(below, above), jnp.maximum(second, apart)
    total = across + along
    share = 1 / jnp.where(total > 0, total, 1)
    product = jnp.minimum(below, above) * (across * share)
    no_coupling = product <= eps * jnp.minimum(second, apart) * (along * share)
    return (below <= eps * beside) & no_coupling


def _indices(n: int) -> Int[Array, " n"]:
    return jnp.arange(n, dtype=jnp.int32)


def _size(x: Inexact[Array, "*n"]) -> Float[Array, "*n"]:
    return jnp.abs(x.real) + jnp.abs(x.imag) if jnp.iscomplexobj(x) else jnp.abs(x)


def _sweep(state: _State, *, n: int, width: int, each: bool) -> _State:
    hq = state.hq
    bands = _Bands.of(hq, n)
    window = _Window.of(state.cut)
    stuck = jnp.where(window.high == state.high, state.stuck + 1, 0)
    if width == 2:
        begin, turn_of = _complex_begin, Rotation.of
    else:
        begin, turn_of = _real_begin, Reflection.of
    start, first = begin(bands, window, stuck % 10 == 9)
    columns = _indices(hq.shape[1])[:, None]
    within = _indices(width)[:, None]

    def turn_at(k, bulge):
        x = jnp.where(k == start, first, bulge)
        inside = (k >= start) & (k + within <= window.high)
        return turn_of(jnp.where((k < window.high) & inside, x, 0))

    def step(k, state):
        # The turn is carried from step to step. If made in the step that uses it, XLA
        # would make it again for each use, and keep a copy of H for that.
        hq, turn = state
        active = (k >= start) & (k < window.high)
        rows = turn.rows(jax.lax.dynamic_slice_in_dim(hq, k, width, 0))
        done = (active & (within > 0))[:, None] & (columns == k - 1)
        rows = jnp.where(done, 0, rows)
        hq = jax.lax.dynamic_update_slice_in_dim(hq, rows, k, 0)
        beside = turn.columns(jax.lax.dynamic_slice_in_dim(hq, k, width, 1))
        hq = jax.lax.dynamic_update_slice_in_dim(hq, beside, k, 1)
        bulge = jax.lax.dynamic_slice_in_dim(hq, k + 1, width, 0)
        bulge = jax.lax.dynamic_index_in_dim(bulge, k, 1, keepdims=False)
        return hq, turn_at(k + 1, bulge)

    if each:
        begin, end = jnp.min(jnp.where(window.high > 0, start, n)), jnp.max(window.high)
    else:
        begin, end = jnp.int32(0), jnp.int32(n - 1)
    turn = turn_at(begin, jnp.zeros_like(first))
    hq, _ = jax.lax.fori_loop(begin, end, step, (hq, turn))
    cut = _deflated(_Bands.of(hq, n), state.cut)
    return _State(hq, cut, window.high, stuck, state.sweeps + 1)


def _at(x: Inexact[Array, "w k b"], index: Int[Array, " b"]) -> Inexact[Array, "w b"]:
    """Entry `index` of each column; zero if there is none."""
    return jnp.sum(jnp.where(_indices(x.shape[1])[:, None] == index, x, 0), axis=1)


def _last_rows(bands: _Bands, window: _Window) -> Inexact[Array, "5 b"]:
    """`a`, `b`, `c`, `d` of the last two rows `(a b; c d)` of the window, and the entry
    of the subdiagonal before c; magnified."""
    d, below, above = bands
    before = jnp.pad(below[:-1], ((1, 0), (0, 0)))
    last = _at(jnp.stack([d[:-1], above, below, d[1:], before]), window.high - 1)
    return last * magnifier(last.real.dtype)


def _start(
    vectors: Inexact[Array, "w s b"], bands: _Bands, window: _Window
) -> tuple[Int[Array, " b"], Inexact[Array, "w b"]]:
    """Where to begin, and with which vector: between two consecutive small subdiagonal
    entries if there are any, which would otherwise blur the shifts."""
    starts = vectors.shape[1]
    head, rest = _size(vectors[0]), sum(_size(v) for v in vectors[1:])
    size = _size(bands.diagonal)
    beside = size[: starts - 1] + size[1:starts] + size[2 : starts + 1]
    eps = float(jnp.finfo(size.dtype).eps)
    small = _size(bands.below[: starts - 1]) * rest[1:] <= eps * head[1:] * beside  # pyright: ignore[reportIndexIssue]
    index = _indices(starts)[:, None]
    last = window.high - len(vectors) + 1
    inside = (index >= window.low) & (index <= last)
    begins = (index == window.low) | jnp.pad(small, ((1, 0), (0, 0)))
    start = jnp.max(jnp.where(inside & begins, index, 0), axis=0)
    return start, _at(vectors, start)


def _real_begin(bands: _Bands, window: _Window, exceptional: Bool[Array, " b"]):
    """The first column of (H − s)(H − s̄), s and s̄ the eigenvalues of the last two rows;
    if these are real, the one closer to the last entry, twice."""
    last = _last_rows(bands, window)
    real, imag = (
        x / magnifier(last.dtype) for x in double_shift(*last, exceptional=exceptional)
    )
    diagonal, below, above = bands
    vectors = doubly_shifted(
        diagonal[:-2], above[:-1], below[:-1], diagonal[1:-1], below[1:], real, imag
    )
    return _start(_normalised(jnp.stack(vectors)), bands, window)


def double_shift(
    a: Float[Array, "*b"],
    b: Float[Array, "*b"],
    c: Float[Array, "*b"],
    d: Float[Array, "*b"],
    before: Float[Array, "*b"],
    exceptional: Bool[Array, "*b"],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Real and imaginary part of s, from the rows `(a b; c d)` and the entry before c."""
    odd = jnp.abs(c) + jnp.abs(before)
    a, d = (jnp.where(exceptional, 0.75 * odd + d, x) for x in (a, d))
    bc = jnp.where(exceptional, -0.4375 * odd**2, b * c)
    mean, half = (a + d) / 2, (a - d) / 2
    inside = half**2 + bc
    root = jnp.sqrt(jnp.abs(inside))
    # d − mean is −half: the root of this sign is closer to d.
    real = jnp.where(inside > 0, mean + jnp.where(half > 0, -root, root), mean)
    return real, jnp.where(inside > 0, 0, root)


def doubly_shifted(
    h: Float[Array, "*k"],
    over: Float[Array, "*k"],
    under: Float[Array, "*k"],
    after: Float[Array, "*k"],
    further: Float[Array, "*k"],
    real: Float[Array, "*#k"],
    imag: Float[Array, "*#k"],
) -> tuple[Float[Array, "*k"], Float[Array, "*k"], Float[Array, "*k"]]:
    """The first column of (H − s)(H − s̄) up to its size, where H begins with the rows
    `(h over; under after; 0 further)`."""
    size = jnp.abs(h - real) + imag + jnp.abs(under)
    inverse = 1 / jnp.where(size > 0, size, 1)
    scaled = under * inverse
    first = scaled * over + (h - real) * ((h - real) * inverse) + imag * (imag * inverse)
    return first, scaled * ((h - real) + (after - real)), scaled * further


def _complex_begin(bands: _Bands, window: _Window, exceptional: Bool[Array, " b"]):
    """The first column of H − s, s the eigenvalue of the last two rows that is closer to
    the last entry (Wilkinson)."""
    a, b, c, d, _ = _last_rows(bands, window)
    shift = d - quotient(b, larger_root((a - d) / 2, b * c)) * c
    odd = jax.lax.complex(0.75 * _size(c), jnp.zeros_like(c.real))
    shift = jnp.where(exceptional, d + odd, shift) / magnifier(c.real.dtype)
    vectors = jnp.stack([bands.diagonal[:-1] - shift, bands.below])
    return _start(_normalised(vectors), bands, window)


def _normalised(vectors: Inexact[Array, "w s b"]) -> Inexact[Array, "w s b"]:
    size = jnp.sum(_size(vectors), axis=0)
    return times_real(vectors, 1 / jnp.where(size > 0, size, 1))
