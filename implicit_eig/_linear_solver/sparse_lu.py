"""Sparse LU factorisation: SciPy's SuperLU, on the host.

A factor lives on the host, outside JAX. The program holds a number instead, and the
matrix. Each place of a compiled program that factorises keeps the factors of its last
call, and dies with the program. A factor that is requested after it was dropped is made
again, and its place then keeps the factors of one more call. So releasing a factor early
does no harm, and nothing piles up.
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
from .superlu import Factor, factorise, ORDERINGS


@functools.cache
def _memory(groups: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int:
    """Bytes this process may use: the machine's memory, or less if a control group (a
    container, a batch job) sets a limit."""
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
    """The factors alive, the most recently used one last."""

    def __init__(self):
        self.lock = threading.RLock()
        self.alive: collections.OrderedDict[int, Any] = collections.OrderedDict()
        # The places that owned the factors dropped most recently.
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
        """A factor was dropped too early: its place now keeps those of one more call."""
        with self.lock:
            place = self.gone.pop(number, lambda: None)()
            if place is not None:
                place.room += 1


_REMEMBERED = 10_000
_factors = _Factors()
# The number that stands for the factor of a singular matrix.
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


# Bytes of factors that any place may always keep.
_SMALL = 2**20


class _Factorise(_Place):
    def __call__(self, values, rows, columns, *, n: int, ordering: str | None):
        shape = np.broadcast_shapes(*(x.shape[:-1] for x in (values, rows, columns)))
        values, rows, columns = (
            np.broadcast_to(x, (*shape, x.shape[-1])) for x in (values, rows, columns)
        )
        numbers = np.empty(shape, np.int32)
        for at in np.ndindex(shape):
            factor = factorise(values[at], rows[at], columns[at], n, ordering)
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


def _solution(factor: Factor | None, b, trans: str) -> np.ndarray:
    if factor is None:
        return np.full_like(b, np.nan)
    return factor.solve(b.reshape(-1, b.shape[-1]).T, trans).T.reshape(b.shape)


class _SolveAgain(_Place):
    """Solves with factors that were dropped, after making them again under their old
    numbers."""

    def __call__(self, there, number, *arrays, n, trans, ordering):
        values, rows, columns, b = arrays
        leading = (x.shape[:-1] for x in (values, rows, columns, b))
        shape = np.broadcast_shapes(there.shape, number.shape, *leading)
        values, rows, columns, b = (
            np.broadcast_to(x, (*shape, x.shape[-1])) for x in (values, rows, columns, b)
        )
        x = np.zeros(b.shape, b.dtype)
        if there.all():  # a batch runs both branches
            return (x,)
        number = np.broadcast_to(number, shape)
        made = []
        # One at a time: a batch may have more factors than there is room for.
        for at in np.ndindex(shape):
            one = int(number[at])
            factor = None if one == _SINGULAR else _factors.get(one)
            if factor is None and one != _SINGULAR:
                _factors.missed(one)
                factor = factorise(values[at], rows[at], columns[at], n, ordering)
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

    A factor stays on the host until its program runs again, or is dropped. All factors
    together take at most a quarter of the memory that the process may use (of the
    container's, if that has a limit). One that is needed later, by a gradient of an
    earlier run, is made again.

    **Arguments:**

    - `ordering`: of the columns. `"mmd"`: minimum degree of A + Aᵀ, with pivots kept on
        the diagonal if that proves accurate, else by partial pivoting; `"colamd"`:
        approximate minimum degree of AᵀA; `"natural"`: in the given order, for narrow
        bands; both by partial pivoting. Default: `"colamd"` if a part of the diagonal is
        missing (saddle points, descriptor pencils) and no row or column is very long,
        else `"mmd"`.

    !!! Example

        ```python
        import jax.numpy as jnp, lineax, implicit_eig as ieig
        op = ieig.SparseOperator([4.0, 1.0, 3.0], [0, 0, 1], [0, 1, 1], n=2)
        lineax.linear_solve(op, jnp.ones(2), ieig.SparseLU()).value   # [1/6, 1/3]
        ```
    """

    ordering: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.ordering is not None and self.ordering not in ORDERINGS:
            names = ", ".join(f'"{name}"' for name in ORDERINGS)
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
        known: dict[str, Any] = dict(n=n, ordering=self.ordering)
        (number,) = host_call(_Factorise, (scalar,), *triplets, **known)
        return _State(number, *triplets, **known)

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
        # Only in this case does the matrix go to the host.
        matrix = state.values, state.rows, state.columns
        (x,) = host_call(
            _SolveAgain, (shape,), there, state.number, *matrix, b, **options
        )
        return x

    return jax.lax.cond(there, lambda _: x, again, there)
