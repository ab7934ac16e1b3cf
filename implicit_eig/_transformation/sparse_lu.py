"""Sparse LU factorisation: SciPy's SuperLU, on the host.

A factor lives on the host, where JAX cannot hold it. The program holds a number instead,
and the matrix. Each place of a compiled program that factorises keeps the factors of its
last call, and dies with the program; one that is asked for after it was given up is made
again, and that place keeps one more from then on. So nothing is ever freed too early, and
nothing piles up.
"""

import collections
import dataclasses
import functools
import os
import pathlib
import threading
import weakref
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Inexact, Int

from .._host import host_call
from .._operator import entries


@functools.cache
def _memory(groups: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int:
    """Bytes this process may use: the machine's memory, or less where a control group (a
    container, a batch job) has a limit."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    root = pathlib.Path(groups)
    versions = {"": (root, "memory.max")}
    versions["memory"] = root / "memory", "memory.limit_in_bytes"
    files = [base / name for base, name in versions.values()]
    try:
        lines = pathlib.Path(own).read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        for controller in controllers.split(","):
            if controller in versions:
                base, name = versions[controller]
                group = base / path.lstrip("/")
                files += [p / name for p in (group, *group.parents) if base in p.parents]
    for file in files:
        try:
            sizes.append(int(file.read_text()))
        except (OSError, ValueError):  # no limit: no file, or "max"
            pass
    return min(sizes)


class _Factors:
    """The factors alive, the one used last at the end."""

    def __init__(self):
        self.lock = threading.RLock()
        self.alive: collections.OrderedDict[int, Any] = collections.OrderedDict()
        # Whose they were, of those given up last.
        self.gone: collections.OrderedDict[int, weakref.ref] = collections.OrderedDict()
        self.last = 0

    def limit(self) -> int:
        return _memory() // 4

    def new(self) -> int:
        with self.lock:
            self.last = self.last % (2**31 - 1) + 1
            return self.last

    def put(self, number: int, factor: Any) -> None:
        with self.lock:
            self.alive[number] = factor
            total = sum(factor.size for factor in self.alive.values())
            while total > self.limit() and len(self.alive) > 1:
                total -= self.alive.popitem(last=False)[1].size

    def get(self, number: int) -> Any:
        with self.lock:
            if number not in self.alive:
                return None
            self.alive.move_to_end(number)
            return self.alive[number]

    def drop(self, numbers: list[int], place: "_Place | None") -> None:
        with self.lock:
            for number in numbers:
                if self.alive.pop(number, None) is not None and place is not None:
                    self.gone[number] = weakref.ref(place)
            while len(self.gone) > _REMEMBERED:
                self.gone.popitem(last=False)

    def missed(self, number: int) -> None:
        """A factor was given up too early: where it was made, keep one call's more."""
        with self.lock:
            place = self.gone.pop(number, lambda: None)()
            if place is not None:
                place.room += 1


_REMEMBERED = 10_000
_factors = _Factors()
# What stands for the factor of a singular matrix.
_SINGULAR = -1


class _Place:
    """A place of a compiled program that factorises, and the factors it keeps."""

    def __init__(self):
        self.room = 1  # calls
        self.calls: collections.deque[list[int]] = collections.deque()
        weakref.finalize(self, _leave, self.calls).atexit = False

    def keep(self, numbers: list[int]) -> None:
        with _factors.lock:
            self.calls.append(numbers)
            while len(self.calls) > self.room and self._size() > _SMALL:
                _factors.drop(self.calls.popleft(), self)

    def _size(self) -> int:
        alive = (_factors.alive.get(i) for call in self.calls for i in call)
        return sum(factor.size for factor in alive if factor is not None)


def _leave(calls) -> None:
    for numbers in calls:
        _factors.drop(numbers, None)


# Bytes of factors that any place may keep.
_SMALL = 2**20


class _Factor:
    """P R A C Q = L U, with scales R and C; `refined`: by a step of refinement."""

    def __init__(self, lu, matrix, rows, columns, refined: bool = False):
        self.lu, self.rows, self.columns = lu, rows[:, None], columns[:, None]
        self.matrix = matrix if refined else None  # R A C
        self.size = lu.nnz + (matrix.nnz if refined else 0)
        self.size *= matrix.data.itemsize + matrix.indices.itemsize

    def solve(self, b: np.ndarray, trans: str) -> np.ndarray:
        left, right = self.rows, self.columns
        if trans == "T":
            left, right = right, left
        return right * self.solve_scaled(left * b, trans)

    def solve_scaled(self, b: np.ndarray, trans: str = "N") -> np.ndarray:
        b = np.asfortranarray(b)
        x = self.lu.solve(b, trans)
        if self.matrix is not None:
            matrix = self.matrix.T if trans == "T" else self.matrix
            x += self.lu.solve(np.asfortranarray(b - matrix @ x), trans)
        return x


# Pivots on the diagonal are taken down to this part of the largest: on meshes, grids,
# graphs and generators, symmetric or not and however numbered, they keep the fill of
# minimum degree, the least there is. What that costs in accuracy is looked at, and mended
# by a step of refinement.
_DIAGONAL_PIVOT = 1e-3
_ACCURATE = 16  # units of rounding
_ORDERINGS = "colamd", "mmd", "natural"


def _splu(values, rows, columns, n: int, ordering: str | None = None) -> _Factor | None:
    """The factor, or `None` of a matrix that is singular or not finite."""
    import scipy.sparse as sp

    if not np.isfinite(values).all():
        return None
    matrix = sp.csc_array((values, (rows, columns)), shape=(n, n))
    matrix.eliminate_zeros()
    scales = _equilibrate(matrix)
    if scales is None:
        return None
    hub = _has_a_hub(matrix)
    if ordering is None:
        # Saddle points, descriptor pencils: pivots leave the diagonal, and COLAMD fills
        # less; but it takes AᵀA, where each row through a hub is a dense block.
        small = np.abs(matrix.diagonal()) < _DIAGONAL_PIVOT
        ordering = "mmd" if hub or np.mean(small) < 0.05 else "colamd"
    if ordering == "mmd":
        lu = _superlu(matrix, "MMD_AT_PLUS_A", diag_pivot_thresh=_DIAGONAL_PIVOT)
        for refined in () if lu is None else (False, True):
            factor = _Factor(lu, matrix, *scales, refined)
            if _backward_error(factor, matrix) < _ACCURATE * np.finfo(matrix.dtype).eps:
                return factor
        ordering = "mmd_at_plus_a" if hub else "colamd"
    lu = _superlu(matrix, ordering.upper())
    return None if lu is None else _Factor(lu, matrix, *scales)


def _superlu(matrix, permutation: str, **options):
    """Without relaxed supernodes, whose padding is most of the factor where columns stand
    in no order. Not by SuperLU's symmetric mode, which dies of zeros on the diagonal."""
    from scipy.sparse.linalg import splu

    try:
        return splu(matrix, permc_spec=permutation, relax=1, **options)
    except RuntimeError as error:
        if "singular" in str(error):
            return None
        raise


def _equilibrate(matrix) -> tuple[np.ndarray, np.ndarray] | None:
    """Scales rows and columns in place, by powers of two: the logarithms of all entries
    near to zero in the mean (Curtis and Reid 1972), which finds the units that rows and
    columns were given; then the largest entry of each to about 1. `None` where a row or a
    column is empty."""
    size = np.maximum(np.abs(matrix.data.real), np.abs(matrix.data.imag))
    i, starts, counts = matrix.indices, matrix.indptr[:-1], np.diff(matrix.indptr)
    in_row = np.bincount(i, minlength=matrix.shape[0])
    if not (counts.all() and in_row.all()):
        return None
    size, exponent = np.frexp(size)
    columns = np.zeros(counts.size)
    for _ in range(_SWEEPS):
        rows = -np.bincount(i, exponent + np.repeat(columns, counts)) / in_row
        columns = -np.add.reduceat(exponent + rows[i], starts) / counts
    rows, columns = (np.rint(x).astype(np.int32) for x in (rows, columns))
    exponent += rows[i] + np.repeat(columns, counts)
    largest = np.full(counts.size, np.iinfo(np.int32).min)
    np.maximum.at(largest, i, exponent)
    rows, exponent = rows - largest, exponent - largest[i]
    largest = np.maximum.reduceat(exponent, starts)
    columns, exponent = columns - largest, exponent - np.repeat(largest, counts)
    # As far as the dtype has these powers.
    most = np.finfo(size.dtype).maxexp - 2
    rows, columns = (
        np.ldexp(np.ones(1, size.dtype), np.clip(x, -most, most)) for x in (rows, columns)
    )
    matrix.data = matrix.data * rows[i] * np.repeat(columns, counts)
    return rows, columns


_SWEEPS = 5


def _has_a_hub(matrix) -> bool:
    longest = max(np.diff(matrix.indptr).max(), np.bincount(matrix.indices).max())
    return longest > 2 * matrix.shape[0] ** 0.5


def _backward_error(factor: _Factor, matrix) -> float:
    """Of two solves: for a random solution, and for a random right side."""
    random = np.random.default_rng(0).normal(size=(matrix.shape[0], 2))
    b = random.astype(matrix.dtype)
    b[:, 0] = matrix @ b[:, 0]
    with np.errstate(all="ignore"):
        x = factor.solve_scaled(b)
        residual = np.abs(matrix @ x - b).max(axis=0)
        norm = np.bincount(matrix.indices, np.abs(matrix.data)).max()
        size = norm * np.abs(x).max(axis=0) + np.abs(b).max(axis=0)
        return (residual / size).max()


class _Factorise(_Place):
    def __call__(self, values, rows, columns, *, n: int, ordering: str | None):
        shape = np.broadcast_shapes(*(x.shape[:-1] for x in (values, rows, columns)))
        values, rows, columns = (
            np.broadcast_to(x, (*shape, x.shape[-1])) for x in (values, rows, columns)
        )
        numbers = np.empty(shape, np.int32)
        for at in np.ndindex(shape):
            factor = _splu(values[at], rows[at], columns[at], n, ordering)
            numbers[at] = _SINGULAR if factor is None else _factors.new()
            if factor is not None:
                _factors.put(int(numbers[at]), factor)
        self.keep([int(number) for number in numbers.ravel()])
        return (numbers,)


def _solve(number, b, *, trans: str):
    """x, and whether the factor was there."""
    shape = np.broadcast_shapes(number.shape, b.shape[:-1])
    x, there = np.zeros((*shape, b.shape[-1]), b.dtype), np.ones(shape, bool)
    if number.size == 1:  # one factor, a block of right sides
        return _solve_block(int(number.reshape(())), b, x, there, trans)
    number, b = np.broadcast_to(number, shape), np.broadcast_to(b, x.shape)
    for at in np.ndindex(shape):
        x[at], there[at] = _solve_block(int(number[at]), b[at], x[at], there[at], trans)
    return x, there


def _solve_block(number: int, b, x, there, trans: str):
    factor = None if number == _SINGULAR else _factors.get(number)
    if factor is None and number != _SINGULAR:
        return x, np.zeros_like(there)
    return _solution(factor, b, trans).reshape(x.shape), there


def _solution(factor: _Factor | None, b, trans: str) -> np.ndarray:
    if factor is None:
        return np.full_like(b, np.nan)
    return factor.solve(b.reshape(-1, b.shape[-1]).T, trans).T.reshape(b.shape)


class _SolveAgain(_Place):
    """With factors that were given up, made again under their old numbers."""

    def __call__(self, there, number, values, rows, columns, b, *, n, trans, ordering):
        leading = (x.shape[:-1] for x in (values, rows, columns, b))
        shape = np.broadcast_shapes(there.shape, number.shape, *leading)
        values, rows, columns, b = (
            np.broadcast_to(x, (*shape, x.shape[-1])) for x in (values, rows, columns, b)
        )
        x = np.zeros(b.shape, b.dtype)
        if there.all():  # a batch goes both ways
            return (x,)
        number = np.broadcast_to(number, shape)
        made = []
        # One after the other: a batch may have more factors than there is room for.
        for at in np.ndindex(shape):
            one = int(number[at])
            factor = None if one == _SINGULAR else _factors.get(one)
            if factor is None and one != _SINGULAR:
                _factors.missed(one)
                factor = _splu(values[at], rows[at], columns[at], n, ordering)
                _factors.put(one, factor)
                made.append(one)
            x[at] = _solution(factor, b[at], trans)
        self.keep(made)
        return (x,)


class _State(eqx.Module):
    number: Int[Array, ""]
    values: Inexact[Array, " nnz"]
    rows: Int[Array, " nnz"]
    columns: Int[Array, " nnz"]
    n: int = eqx.field(static=True)
    ordering: str | None = eqx.field(static=True)
    transposed: bool = eqx.field(static=True, default=False)
    conjugated: bool = eqx.field(static=True, default=False)

    def but(self, **changes: bool) -> "_State":
        return dataclasses.replace(self, **changes)


class SparseLU(lx.AbstractLinearSolver[_State]):
    """Sparse LU factorisation by SciPy's SuperLU (Demmel, Eisenstat, Gilbert, Li and Liu
    1999), as a lineax solver. Needs SciPy (`implicit_eig[scipy]`).

    For [`implicit_eig.SparseOperator`][], lineax's identity, diagonal and tridiagonal
    operators, and sums and multiples of these. Factorises once in `init`; each solve then
    takes two triangular solves on the host. Works under `jit`, and under `vmap` with one
    factorisation for each matrix of a batch. Rows and columns are scaled by powers of two
    first, so that their units do not matter.

    A singular matrix gives NaN and `lineax.RESULTS.singular`.

    A factor stays on the host until its program runs again, or is dropped. Together
    factors take at most a quarter of the memory that the process may use (of the
    container, where that has a limit). One that is asked for later, by a gradient of an
    earlier run, is made again.

    **Arguments:**

    - `ordering`: of the columns. `"mmd"`: minimum degree of A + Aᵀ, with pivots kept on
        the diagonal where that is accurate, which is looked at, else by partial pivoting;
        `"colamd"`: approximate minimum degree of AᵀA; `"natural"`: as they stand, for
        narrow bands; both by partial pivoting. Default: `"colamd"` where a part of the
        diagonal is missing (saddle points, descriptor pencils) and no row or column is
        very long, else `"mmd"`.

    !!! Example

        ```python
        import jax.numpy as jnp, lineax, implicit_eig as ieig
        op = ieig.SparseOperator([4.0, 1.0, 3.0], [0, 0, 1], [0, 1, 1], n=2)
        lineax.linear_solve(op, jnp.ones(2), ieig.SparseLU()).value   # [1/6, 1/3]
        ```
    """

    ordering: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.ordering is not None and self.ordering not in _ORDERINGS:
            names = ", ".join(f'"{name}"' for name in _ORDERINGS)
            raise ValueError(
                f"`ordering` must be None or one of {names}; got {self.ordering!r}."
            )

    def init(self, operator, options):
        del options
        triplets = entries(operator)
        if triplets is None:
            raise ValueError(
                "`SparseLU` needs the entries of a sparse matrix (a `SparseOperator`, or "
                f"sums and multiples of such); got {type(operator).__name__}."
            )
        try:
            import scipy.sparse.linalg  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "`SparseLU` needs SciPy: `pip install implicit_eig[scipy]`."
            ) from error
        n = operator.in_size()
        scalar = jax.ShapeDtypeStruct((), jnp.int32)
        options = dict(n=n, ordering=self.ordering)
        (number,) = host_call(_Factorise, (scalar,), *triplets, **options)
        return _State(number, *triplets, **options)

    def compute(self, state, vector, options):
        del options
        dtype = state.values.dtype
        if jnp.iscomplexobj(vector) and not jnp.issubdtype(dtype, jnp.complexfloating):
            parts = vector.real, vector.imag
            x = jax.lax.complex(*(_solved(state, b.astype(dtype)) for b in parts))
        elif state.conjugated:
            x = _solved(state, vector.astype(dtype).conj()).conj()
        else:
            x = _solved(state, vector.astype(dtype))
        result = lx.RESULTS.where(
            state.number == _SINGULAR, lx.RESULTS.singular, lx.RESULTS.successful
        )
        return x, result, {}

    def transpose(self, state, options):
        del options
        return state.but(transposed=not state.transposed), {}

    def conj(self, state, options):
        del options
        return state.but(conjugated=not state.conjugated), {}

    def assume_full_rank(self):
        return True


def _solved(state: _State, b: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
    trans = "T" if state.transposed else "N"
    options = dict(n=state.n, ordering=state.ordering, trans=trans)
    shape = jax.ShapeDtypeStruct(b.shape, b.dtype)
    there = jax.ShapeDtypeStruct((), bool)
    x, there = host_call(_solve, (shape, there), state.number, b, trans=trans)

    def again(there: Bool[Array, ""]) -> Array:
        # The matrix goes to the host in this case only.
        matrix = state.values, state.rows, state.columns
        (x,) = host_call(
            _SolveAgain, (shape,), there, state.number, *matrix, b, **options
        )
        return x

    return jax.lax.cond(there, lambda _: x, again, there)
