"""Sparse LU factorisation: SciPy's SuperLU, on the host.

A factor lives on the host, where JAX cannot hold it. The program holds a number instead,
and the matrix. Factors that take more than a quarter of the machine's memory together are
given up, oldest first; one that is asked for afterwards is made again. So nothing is ever
freed too early, and nothing piles up.
"""

import collections
import dataclasses
import os
import threading
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Inexact, Int

from .._operator import entries
from .host import host_call


class _Factors:
    """The factors alive, the one used last at the end."""

    def __init__(self):
        self.lock = threading.Lock()
        self.alive: collections.OrderedDict[int, tuple[Any, int]] = (
            collections.OrderedDict()
        )
        self.last = 0

    def limit(self) -> int:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4

    def new(self) -> int:
        with self.lock:
            self.last = self.last % (2**31 - 1) + 1
            return self.last

    def put(self, number: int, factor: Any, size: int) -> None:
        with self.lock:
            self.alive[number] = factor, size
            total = sum(size for _, size in self.alive.values())
            while total > self.limit() and len(self.alive) > 1:
                _, (_, size) = self.alive.popitem(last=False)
                total -= size

    def get(self, number: int) -> Any:
        with self.lock:
            if number not in self.alive:
                return None
            self.alive.move_to_end(number)
            return self.alive[number][0]


_factors = _Factors()
# What stands for the factor of a singular matrix.
_SINGULAR = -1


def _splu(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, n: int) -> Any:
    """SuperLU's factor, or `None` of a matrix that is singular or not finite."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    if not np.isfinite(values).all():
        return None
    matrix = sp.csc_array((values, (rows, columns)), shape=(n, n))
    matrix.eliminate_zeros()
    # A structurally symmetric matrix (a mesh) fills in less under minimum degree of
    # A + Aᵀ: half the entries, and half the time, of COLAMD on 2-D grids.
    ones = np.ones(matrix.nnz, bool)
    pattern = sp.csc_array((ones, matrix.indices, matrix.indptr), shape=(n, n))
    mirrored = pattern.multiply(pattern.T).nnz
    spec = "MMD_AT_PLUS_A" if mirrored > 0.9 * matrix.nnz else "COLAMD"
    try:
        return splu(matrix, permc_spec=spec)
    except RuntimeError as error:
        if "singular" in str(error):
            return None
        raise


def _make(number, values, rows, columns, n: int) -> int:
    factor = _splu(values, rows, columns, n)
    if factor is None:
        return _SINGULAR
    _factors.put(number, factor, factor.nnz * (values.itemsize + 4))
    return number


def _factorise(values, rows, columns, *, n: int):
    shape = np.broadcast_shapes(*(x.shape[:-1] for x in (values, rows, columns)))
    values, rows, columns = (
        np.broadcast_to(x, (*shape, x.shape[-1])) for x in (values, rows, columns)
    )
    numbers = np.empty(shape, np.int32)
    for at in np.ndindex(shape):
        numbers[at] = _make(_factors.new(), values[at], rows[at], columns[at], n)
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
    if number == _SINGULAR:
        return np.full_like(x, np.nan), there
    factor = _factors.get(number)
    if factor is None:
        return x, np.zeros_like(there)
    columns = np.asfortranarray(b.reshape(-1, b.shape[-1]).T)
    return factor.solve(columns, trans).T.reshape(x.shape), there


def _solve_again(there, number, values, rows, columns, b, *, n: int, trans: str):
    """With factors that were given up, made again under their old numbers."""
    leading = (x.shape[:-1] for x in (values, rows, columns, b))
    shape = np.broadcast_shapes(there.shape, number.shape, *leading)
    values, rows, columns, b = (
        np.broadcast_to(x, (*shape, x.shape[-1])) for x in (values, rows, columns, b)
    )
    x = np.zeros(b.shape, b.dtype)
    if there.all():  # a batch goes both ways
        return (x,)
    number = np.broadcast_to(number, shape)
    # One after the other: a batch may have more factors than there is room for.
    for at in np.ndindex(shape):
        one = int(number[at])
        if one != _SINGULAR and _factors.get(one) is None:
            _make(one, values[at], rows[at], columns[at], n)
        x[at], _ = _solve_block(one, b[at], x[at], np.ones((), bool), trans)
    return (x,)


class _State(eqx.Module):
    number: Int[Array, ""]
    values: Inexact[Array, " nnz"]
    rows: Int[Array, " nnz"]
    columns: Int[Array, " nnz"]
    n: int = eqx.field(static=True)
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
    factorisation for each matrix of a batch. Columns are ordered by minimum degree of
    A + Aᵀ for structurally symmetric matrices, else by COLAMD; rows by partial pivoting.

    A singular matrix gives NaN and `lineax.RESULTS.singular`.

    Factors stay on the host while they take less than a quarter of the machine's memory
    together; older ones are then given up, and made again if they are needed again.

    !!! Example

        ```python
        import jax.numpy as jnp, lineax, implicit_eig as ieig
        op = ieig.SparseOperator([4.0, 1.0, 3.0], [0, 0, 1], [0, 1, 1], n=2)
        lineax.linear_solve(op, jnp.ones(2), ieig.SparseLU()).value   # [1/6, 1/3]
        ```
    """

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
        (number,) = host_call(_factorise, (scalar,), *triplets, n=n)
        return _State(number, *triplets, n)

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
    trans, n = "T" if state.transposed else "N", state.n
    shape = jax.ShapeDtypeStruct(b.shape, b.dtype)
    there = jax.ShapeDtypeStruct((), bool)
    x, there = host_call(_solve, (shape, there), state.number, b, trans=trans)

    def again(there: Bool[Array, ""]) -> Array:
        # The matrix goes to the host in this case only.
        matrix = state.values, state.rows, state.columns
        (x,) = host_call(
            _solve_again, (shape,), there, state.number, *matrix, b, n=n, trans=trans
        )
        return x

    return jax.lax.cond(there, lambda _: x, again, there)
