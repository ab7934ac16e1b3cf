"""Where the entries of a sparse matrix are, and the products this allows.

A pattern holds indices only; the values, in its order, are passed with each product. It
is found once, on the host. The product with the transpose uses the same arrays, without
a second copy of the values. Both are plain traced JAX, so that JAX's transpose of either
is the other.
"""

import abc
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Inexact, Int


# The largest number of diagonals, or of entries in a row, for which a product is
# unrolled: XLA turns the unrolled sum into one vectorised loop, while reducing a gathered
# array is 6 times slower.
_MOST_DIAGONALS = 32
_MOST_LEVELS = 16
# Slots that a diagonal pattern may have per entry, as an empty one costs as much as a
# filled one: a gathered entry costs that many times more.
_DIAGONAL_SLOTS = 3
# The cost of a piece besides its slots, in slots: its row is looked up and updated.
_PIECE = 2


class AbstractPattern(eqx.Module):
    """Products of A and Aᵀ with vectors `(n,)` or blocks of columns `(n, k)`."""

    n: int = eqx.field(static=True)
    # The slots of the entries, row by row; `None` if their places are not known.
    stored: Int[Array, " nnz"] | None

    @abc.abstractmethod
    def product(self, values: Inexact[Array, "l p"], x: Array) -> Array: ...

    @abc.abstractmethod
    def transposed_product(self, values: Inexact[Array, "l p"], x: Array) -> Array: ...

    @abc.abstractmethod
    def triplets(self, values: Inexact[Array, "l p"]) -> tuple[Array, Array, Array]:
        """Values, rows and columns of one shape; empty slots are zeros."""


class Diagonals(AbstractPattern):
    """A few diagonals: slot (d, i) is the entry in row i and column i + offsets[d].
    Products are sums of shifted vectors, without lookups."""

    present: Bool[Array, "d n"]
    offsets: tuple[int, ...] = eqx.field(static=True)

    def product(self, values, x):
        y = _zeros(values, x)
        for v, present, offset in self._diagonals(values):
            y += _kept(_scaled(v, _shifted(x, offset)), present)
        return y

    def transposed_product(self, values, x):
        y = _zeros(values, x)
        for v, present, offset in self._diagonals(values):
            y += _shifted(_kept(_scaled(v, x), present), -offset)
        return y

    def triplets(self, values):
        i = jnp.arange(self.n)
        columns = i + jnp.asarray(self.offsets, i.dtype)[:, None]
        rows = jnp.broadcast_to(i, columns.shape)
        return _kept(values, self.present), rows, jnp.clip(columns, 0, self.n - 1)

    def _diagonals(self, values):
        both = jnp.unstack(values), jnp.unstack(self.present)
        return zip(*both, self.offsets, strict=True)


class Pieces(AbstractPattern):
    """Rows cut into pieces of equal length: slot (l, p) is the l-th entry of piece p.

    Unused slots in a piece repeat its first column, with the value zero. They are entries
    like any other: none of them lies where the matrix has no entry.
    """

    columns: Int[Array, "l p"]
    rows: Int[Array, " p"] | None  # None: piece p is row p

    def product(self, values, x):
        pieces = sum(
            _scaled(v, _taken(x, columns)) for v, columns in self._levels(values)
        )
        if self.rows is None:
            return pieces
        return _zeros(values, x).at[self.rows].add(pieces, mode="promise_in_bounds")

    def transposed_product(self, values, x):
        y = _zeros(values, x)
        pieces = x if self.rows is None else _taken(x, self.rows)
        for v, columns in self._levels(values):
            y = y.at[columns].add(_scaled(v, pieces), mode="promise_in_bounds")
        return y

    def triplets(self, values):
        rows = jnp.arange(self.n) if self.rows is None else self.rows
        return values, jnp.broadcast_to(rows, values.shape), self.columns

    def _levels(self, values):
        return zip(jnp.unstack(values), jnp.unstack(self.columns), strict=True)


def find_pattern(
    rows: np.ndarray, columns: np.ndarray, n: int
) -> tuple[AbstractPattern, tuple[int, int], np.ndarray]:
    """The pattern of the given entries, the shape of its values, and the slot of each
    entry in the flattened values. Each place occurs once, row by row."""
    return _find_diagonals(rows, columns, n) or _find_pieces(rows, columns, n)


def single_entries(rows: Array, columns: Array, n: int) -> Pieces:
    """Makes each entry a piece, in the order given: for indices not known yet."""
    return Pieces(n, None, columns[None], rows)


def _find_diagonals(rows, columns, n):
    number = columns.astype(np.int64) - rows + (n - 1)
    filled = np.bincount(number, minlength=2 * n - 1) > 0
    used = np.flatnonzero(filled)
    size = used.size * n
    if not 0 < used.size <= _MOST_DIAGONALS or size > _DIAGONAL_SLOTS * rows.size:
        return None
    slots = (np.cumsum(filled) - 1)[number] * n + rows
    present = np.zeros(size, bool)
    present[slots] = True
    shape = used.size, n
    offsets = tuple(int(d) - (n - 1) for d in used)
    present = constant(present.reshape(shape))
    return Diagonals(n, _index(slots), present, offsets), shape, slots


def _find_pieces(rows, columns, n):
    lengths = np.bincount(rows, minlength=n)
    length, whole = _piece_length(lengths)
    count = np.ones(n, np.int64) if whole else -(-lengths // length)
    shape = length, int(count.sum())
    start = np.cumsum(lengths) - lengths
    place = np.arange(rows.size) - start[rows]  # of each entry within its row
    piece = (np.cumsum(count) - count)[rows] + place // length
    slots = place % length * shape[1] + piece
    first = np.zeros(shape[1], np.int64)
    leads = place % length == 0
    first[piece[leads]] = columns[leads]
    taken = np.tile(first, length)
    taken[slots] = columns
    row_of = None if whole else _index(np.repeat(np.arange(n), count))
    return Pieces(n, _index(slots), _index(taken.reshape(shape)), row_of), shape, slots


def _index(x: np.ndarray) -> Array:
    fits = x.max(initial=0) <= np.iinfo(np.int32).max
    return constant(x.astype(np.int32) if fits else x)


def constant(x: np.ndarray) -> Array:
    """An array that is known under `jit` too, so that XLA has nothing to fold: folding
    takes seconds for a million entries, for each program again."""
    with jax.ensure_compile_time_eval():
        return jnp.asarray(x)


def _piece_length(lengths: np.ndarray) -> tuple[int, bool]:
    """The cheapest length of pieces, and whether each row is one piece."""
    histogram = np.bincount(lengths)
    longest = histogram.size - 1
    length = np.arange(histogram.size)
    cost = {
        (l, False): (l + _PIECE) * int(histogram @ -(-length // l))
        for l in range(1, min(max(longest, 1), _MOST_LEVELS) + 1)
    }
    if not histogram[0] and longest <= _MOST_LEVELS:
        cost[longest, True] = longest * lengths.size
    return min(cost, key=lambda choice: cost[choice])


def _zeros(values: Array, x: Array) -> Array:
    return jnp.zeros(x.shape, jnp.result_type(values, x))


def _kept(y: Array, present: Array) -> Array:
    """y, but zero where the matrix has no entry; so is the cotangent there."""
    present = present.reshape(present.shape + (1,) * (y.ndim - present.ndim))
    return jnp.where(present, y, jnp.zeros_like(y))


def _scaled(v: Array, x: Array) -> Array:
    """diag(v) x."""
    return v.reshape(v.shape + (1,) * (x.ndim - 1)) * x


def _shifted(x: Array, offset: int) -> Array:
    """y[i] = x[i + offset], zero outside."""
    rest: Sequence[tuple[int, int, int]] = ((0, 0, 0),) * (x.ndim - 1)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), ((-offset, offset, 0), *rest))


def _taken(x: Array, index: Array) -> Array:
    return x.at[index].get(mode="promise_in_bounds")
