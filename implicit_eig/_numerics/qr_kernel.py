"""The QR iteration of `qr_iteration` as a kernel for GPUs: one instance of the program
for each matrix, which iterates in registers and launches nothing.

Written in Pallas for Triton, which knows neither complex numbers nor slices, and wants
lengths that are powers of two: a complex number is a pair of arrays, a row is a sum over
a mask, and a turn changes the whole matrix.
"""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Int

from .hessenberg import hessenberg
from .qr_iteration import double_shift, doubly_shifted, Schur, small_below, SWEEPS
from .turns import magnifier, negligible


def schur_by_kernel(a: Inexact[Array, "n n b"], *, interpret: bool = False) -> Schur:
    """As `qr_iteration.schur`. `interpret` runs the kernel without a GPU."""
    # Takes a second to import.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    n, _, b = a.shape
    is_complex = jnp.iscomplexobj(a)
    hq = hessenberg(a, 0)
    m = max(16, pl.next_power_of_2(n))
    grown = ((0, 0), (0, m - n), (0, m - n))
    parts = [
        jnp.pad(jnp.moveaxis(part, -1, 0), grown)
        for x in (hq[:n], hq[n:])
        for part in ([x.real, x.imag] if is_complex else [x])
    ]
    matrix = pl.BlockSpec((None, m, m), lambda i: (i, 0, 0))
    row = pl.BlockSpec((None, m), lambda i: (i, 0))
    matrices = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in parts]
    *parts, cut, high = pl.pallas_call(
        functools.partial(_kernel, n=n, is_complex=is_complex),
        grid=(b,),
        in_specs=[matrix] * len(parts),
        out_specs=[matrix] * len(parts) + [row, row],
        out_shape=matrices + [jax.ShapeDtypeStruct((b, m), jnp.int32)] * 2,
        interpret=interpret,
        # H and Q of order 64 are 64 registers a thread, complex ones 128.
        compiler_params=triton.CompilerParams(num_warps=m // 8, num_stages=1),
    )(*parts)
    parts = [jnp.moveaxis(x[:, :n, :n], 0, -1) for x in parts]
    if is_complex:
        parts = [jax.lax.complex(*parts[:2]), jax.lax.complex(*parts[2:])]
    return Schur(*parts, cut[:, : n - 1].T > 0, high[:, 0] == 0)


class _Number(eqx.Module):
    """Real or complex numbers."""

    re: Float[Array, "*n"]
    im: Any  # None for real ones

    def map(self, fn) -> "_Number":
        """`fn` of both parts."""
        return _Number(fn(self.re), None if self.im is None else fn(self.im))

    def __add__(self, other: "_Number") -> "_Number":
        im = None if self.im is None else self.im + other.im
        return _Number(self.re + other.re, im)

    def __sub__(self, other: "_Number") -> "_Number":
        return self + other.map(jnp.negative)

    def __mul__(self, other: "_Number") -> "_Number":
        if self.im is None:
            return _Number(self.re * other.re, None)
        re = self.re * other.re - self.im * other.im
        return _Number(re, self.re * other.im + self.im * other.re)

    def __truediv__(self, other: "_Number") -> "_Number":
        """Zero if `other` is zero."""
        size = other.size()
        there = size > 0
        by = 1 / jnp.where(there, size, 1)
        small = other.map(lambda x: x * by)
        by = jnp.where(there, by / jnp.where(there, small.square(), 1), 0)
        return (self * small.conj()).map(lambda x: x * by)

    def conj(self) -> "_Number":
        return _Number(self.re, None if self.im is None else -self.im)

    def square(self) -> Float[Array, "*n"]:
        return self.re**2 if self.im is None else self.re**2 + self.im**2

    def size(self) -> Float[Array, "*n"]:
        return (
            jnp.abs(self.re) if self.im is None else jnp.abs(self.re) + jnp.abs(self.im)
        )

    def root(self) -> "_Number":
        """The square root with a real part of at least zero, of complex numbers whose
        squares are no larger than one."""
        modulus = jnp.sqrt(self.square())
        re = jnp.sqrt(jnp.maximum(modulus + self.re, 0) / 2)
        im = jnp.sqrt(jnp.maximum(modulus - self.re, 0) / 2)
        return _Number(re, jnp.where(self.im < 0, -im, im))


def _index(m: int) -> Int[Array, " m"]:
    return jnp.arange(m, dtype=jnp.int32)


def _rows(m: int) -> Int[Array, "m m"]:
    return jax.lax.broadcasted_iota(jnp.int32, (m, m), 0)


def _columns(m: int) -> Int[Array, "m m"]:
    return jax.lax.broadcasted_iota(jnp.int32, (m, m), 1)


def _at(x: _Number, i: Int[Array, ""]) -> _Number:
    here = _index(len(x.re)) == i
    return x.map(lambda x: jnp.sum(jnp.where(here, x, 0)))


def _moved(x: Array, by: int) -> Array:
    """`y[i] = x[i + by]`, zero if there is none."""
    m = len(x)
    at = _rows(m) == _columns(m) + by
    return jnp.sum(jnp.where(at, x[:, None], 0), axis=0, dtype=x.dtype)


class _Bands(NamedTuple):
    diagonal: _Number
    below: _Number
    above: _Number

    @classmethod
    def of(cls, h: _Number) -> "_Bands":
        m = len(h.re)

        def band(by: int, axis: int) -> _Number:
            at = _rows(m) == _columns(m) + by
            return h.map(lambda x: jnp.sum(jnp.where(at, x, 0), axis=axis))

        return cls(band(0, 0), band(1, 0), band(-1, 1))


class _State(NamedTuple):
    h: _Number
    q: _Number
    cut: Bool[Array, " m"]  # where the subdiagonal is zero
    high: Int[Array, ""]  # where the window of the last sweep ended
    stuck: Int[Array, ""]  # sweeps since that end last changed
    sweeps: Int[Array, ""]


def _kernel(*refs, n: int, is_complex: bool):
    parts = [ref[...] for ref in refs[: 4 if is_complex else 2]]
    h, q = (
        [_Number(*parts[:2]), _Number(*parts[2:])]
        if is_complex
        else [_Number(x, None) for x in parts]
    )
    cut = _index(len(h.re)) >= n - 1
    start = _State(h, q, cut, jnp.int32(n), jnp.int32(0), jnp.int32(0))

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.high > 0) & (state.sweeps < int(SWEEPS * max(n, 10)))

    out = jax.lax.while_loop(unfinished, functools.partial(_sweep, n=n), start)
    high = jnp.broadcast_to(out.high, cut.shape)
    leaves = *jax.tree.leaves((out.h, out.q)), out.cut.astype(jnp.int32), high
    for ref, leaf in zip(refs[len(parts) :], leaves, strict=True):
        ref[...] = leaf


def _sweep(state: _State, *, n: int) -> _State:
    """A sweep of the last window; none, with `high` zero, if there is no window left."""
    bands = _Bands.of(state.h)
    index = _index(len(state.cut))
    cut = _deflated(bands, state.cut, n)
    # Blocks of two rows are solved in closed form.
    long = ~cut & (_moved(cut.astype(jnp.int32), 1) == 0) & (index < n - 2)
    high = jnp.max(jnp.where(long, index + 2, 0))
    low = jnp.max(jnp.where(cut & (index < high), index + 1, 0))
    stuck = jnp.where(high == state.high, state.stuck + 1, 0)
    begin = _real_begin if state.h.im is None else _complex_begin
    vectors = begin(bands, high, stuck % 10 == 9)
    first = _start(vectors, bands, low, high)
    x = tuple(_at(x, first) for x in vectors)
    step = functools.partial(_step, high=high)
    h, q, _ = jax.lax.fori_loop(first, high, step, (state.h, state.q, x))
    return _State(h, q, cut, high, stuck, state.sweeps + 1)


def _deflated(bands: _Bands, cut: Bool[Array, " m"], n: int) -> Bool[Array, " m"]:
    """As in `qr_iteration`."""
    least = 16 * n * negligible(bands.diagonal.re.dtype)
    size, below, above = (x.size() for x in bands)
    apart = (bands.diagonal.map(lambda x: _moved(x, 1)) - bands.diagonal).size()
    around = _moved(below, -1) + _moved(below, 1)
    small = small_below(below, above, size, _moved(size, 1), apart, around)
    return cut | small | (below <= least)


def _step(k: Int[Array, ""], state: tuple, *, high: Int[Array, ""]) -> tuple:
    """Moves the bulge, `x` below the diagonal of column k − 1, on by a column."""
    h, q, x = state
    m = len(h.re)
    v, g = _reflection(x, k, m)
    left, right = v.map(lambda x: x[:, None]), v.map(lambda x: x[None, :])
    scaled = right.conj().map(lambda x: g * x)
    image = (left.conj() * h).map(lambda x: jnp.sum(x, axis=0)[None, :])
    h = h - left.map(lambda x: g * x) * image
    done = (_columns(m) == k - 1) & (_rows(m) > k) & (_rows(m) < k + len(x))
    h = h.map(lambda x: jnp.where(done, 0, x))
    h, q = (
        y - (y * right).map(lambda x: jnp.sum(x, axis=1)[:, None]) * scaled
        for y in (h, q)
    )
    column = h.map(lambda x: jnp.sum(jnp.where(_columns(m) == k, x, 0), axis=1))
    column = column.map(lambda x: jnp.where(_index(m) <= high, x, 0))
    return h, q, tuple(_at(column, k + 1 + i) for i in range(len(x)))


def _reflection(
    x: tuple[_Number, ...], k: Int[Array, ""], m: int
) -> tuple[_Number, Float[Array, ""]]:
    """v and g of the reflection `1 − g v vᴴ` of rows k and following that maps x to a
    multiple of e₁; g is zero for a negligible x. As in `turns`."""
    dtype = x[0].re.dtype
    much = magnifier(dtype)
    x = tuple(y.map(lambda y: y * much) for y in x)
    norm = jnp.sqrt(_sum(y.square() for y in x))
    there = norm > negligible(dtype) * much
    norm = jnp.where(there, norm, 1)
    first, *rest = (y.map(lambda y: y / norm) for y in x)
    # Squares of its parts themselves may underflow.
    part = first.size()
    seen = part >= float(jnp.finfo(dtype).tiny)
    by = 1 / jnp.where(seen, part, 1)
    phase = first.map(lambda y: jnp.where(seen, y * by, 0))
    by = 1 / jnp.sqrt(jnp.where(seen, phase.square(), 1))
    phase = phase.map(lambda y: y * by)
    phase = _Number(jnp.where(seen, phase.re, 1), phase.im)
    v = first + phase, *rest
    g = jnp.where(there, 2 / jnp.where(there, _sum(y.square() for y in v), 1), 0)
    places = (_index(m) == k + i for i in range(len(v)))
    placed = (
        y.map(lambda y, at=at: jnp.where(at, y, 0))
        for y, at in zip(v, places, strict=True)
    )
    return _sum(placed), g


def _sum(terms):
    return functools.reduce(lambda x, y: x + y, terms)


def _start(
    vectors: tuple[_Number, ...],
    bands: _Bands,
    low: Int[Array, ""],
    high: Int[Array, ""],
) -> Int[Array, ""]:
    """As in `qr_iteration`; zero if there is no window."""
    head, *rest = (x.size() for x in vectors)
    size, index = bands.diagonal.size(), _index(len(head))
    eps = float(jnp.finfo(size.dtype).eps)
    before = _moved(bands.below.size(), -1)
    beside = _moved(size, -1) + size + _moved(size, 1)
    small = before * _sum(rest) <= eps * head * beside
    inside = (index >= low) & (index <= high - len(vectors) + 1)
    first = jnp.max(jnp.where(inside & (small | (index == low)), index, 0))
    return jnp.where(high > 0, first, 0)


def _last_rows(bands: _Bands, high: Int[Array, ""]) -> tuple[_Number, ...]:
    """`a`, `b`, `c`, `d` of the last two rows `(a b; c d)` of the window, and the entry
    of the subdiagonal before c, over a size that is returned too."""
    last = (
        _at(bands.diagonal, high - 1),
        _at(bands.above, high - 1),
        _at(bands.below, high - 1),
        _at(bands.diagonal, high),
        _at(bands.below, high - 2),
    )
    size = _sum(x.size() for x in last)
    size = jnp.where(size > 0, size, 1)
    return *(x.map(lambda x: x / size) for x in last), _Number(size, None)


def _real_begin(
    bands: _Bands, high: Int[Array, ""], exceptional: Bool[Array, ""]
) -> tuple[_Number, ...]:
    """As in `qr_iteration`: the first column of (H − s)(H − s̄) for each first row."""
    *last, size = (x.re for x in _last_rows(bands, high))
    real, imag = (x * size for x in double_shift(*last, exceptional=exceptional))
    h, under, over = (x.re for x in bands)
    vectors = doubly_shifted(h, over, under, _moved(h, 1), _moved(under, 1), real, imag)
    return _normalised(*(_Number(x, None) for x in vectors))


def _complex_begin(
    bands: _Bands, high: Int[Array, ""], exceptional: Bool[Array, ""]
) -> tuple[_Number, ...]:
    """As in `qr_iteration`: the first column of H − s for each first row."""
    a, b, c, d, _, size = _last_rows(bands, high)
    half, bc = (a - d).map(lambda x: x / 2), b * c
    root = (half * half + bc).root()
    away = half.re * root.re + half.im * root.im < 0
    larger = half + root.map(lambda x: jnp.where(away, -x, x))
    shift = d - bc / larger
    odd = d + _Number(0.75 * c.size(), jnp.zeros_like(c.re))
    shift = _Number(
        jnp.where(exceptional, odd.re, shift.re) * size.re,
        jnp.where(exceptional, odd.im, shift.im) * size.re,
    )
    return _normalised(bands.diagonal - shift, bands.below)


def _normalised(*vectors: _Number) -> tuple[_Number, ...]:
    size = _sum(x.size() for x in vectors)
    inverse = 1 / jnp.where(size > 0, size, 1)
    return tuple(x.map(lambda x: x * inverse) for x in vectors)
