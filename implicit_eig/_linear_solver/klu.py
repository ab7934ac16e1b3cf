"""Sparse LU factorisation inside the compiled program: KLU, by XLA custom calls."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.core import Tracer
from jaxtyping import Array, Bool, Inexact, Int

from .._operator import entries


class _State(eqx.Module):
    """The matrix of a factor, and its handle: if the library has dropped the factor
    since, the handle makes it anew."""

    handle: Int[Array, " 1"]
    symbolic: Int[Array, ""]
    matrix: tuple[Array, Array, Array]
    singular: Bool[Array, ""]
    order: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    transposed: bool = eqx.field(static=True, default=False)
    conjugated: bool = eqx.field(static=True, default=False)


class KLU(lx.AbstractLinearSolver[_State]):
    """Sparse LU factorisation by KLU (Davis and Palamadai Natarajan 2010) as a lineax
    solver. Needs `implicit_eig[sparse]`, a CPU, and 64 bits enabled.

    Takes the same operators as [`implicit_eig.SparseLU`][], but runs inside the compiled
    program, without a call to Python, so that JAX's persistent cache can keep the
    program. Uses block triangular form, approximate minimum degree, row scaling, and
    partial pivoting that prefers the diagonal. Members of a batch are factorised one
    after the other. Single precision is computed in double.

    A singular matrix gives NaN and `lineax.RESULTS.singular`. The library keeps some
    factors, and recomputes others on demand.

    !!! Example

        ```python
        import jax, lineax, jax.numpy as jnp, implicit_eig as ieig
        jax.config.update("jax_enable_x64", True)
        op = ieig.SparseOperator([4.0, 1.0, 3.0], [0, 0, 1], [0, 1, 1], n=2)
        lineax.linear_solve(op, jnp.ones(2), ieig.KLU()).value   # [1/6, 1/3]
        ```
    """

    def init(self, operator, options):
        del options
        triplets = entries(operator)
        if triplets is None:
            raise ValueError(
                "`KLU` needs the entries of a sparse matrix (a `SparseOperator`, or sums "
                f"and multiples of such); got {type(operator).__name__}."
            )
        klujax, structure = _klujax(), operator.in_structure()
        values, rows, columns, order = _coalesced(*triplets, structure.shape[0])
        matrix = values, rows, columns

        # One member at a time: the library's own batching rules fail for a batch of
        # matrices with several right sides each (`test_klu.py`).
        @jax.custom_batching.sequential_vmap
        def factorise(values, rows, columns):
            symbolic = klujax.analyze(rows, columns, order)
            # A token without a factor, as `klujax.factor` raises for a singular matrix.
            numeric = _token(jnp.zeros(1, jnp.uint64), values, rows, columns, order)
            numeric, status, _ = klujax.refactor_with_status(
                rows, columns, values, numeric, symbolic
            )
            return numeric.id, symbolic.id, status[0] != 0

        handle, symbolic, singular = factorise(*matrix)
        singular = singular | ~jnp.isfinite(jnp.sum(jnp.abs(values)))
        dtype = structure.dtype
        return _State(handle, symbolic, matrix, singular, order, dtype)

    def compute(self, state, vector, options):
        del options
        complex_vector = jnp.iscomplexobj(vector)
        if state.conjugated:
            vector = vector.conj()
        if complex_vector and not jnp.iscomplexobj(state.matrix[0]):
            x = jax.lax.complex(*(_solved(state, b) for b in (vector.real, vector.imag)))
        else:
            x = _solved(state, vector)
        x = x.conj() if state.conjugated else x
        x = jnp.where(state.singular, jnp.full_like(x, jnp.nan), x)
        result = lx.RESULTS.where(
            state.singular, lx.RESULTS.singular, lx.RESULTS.successful
        )
        return x, result, {}

    def transpose(self, state, options):
        del options
        return dataclasses.replace(state, transposed=not state.transposed), {}

    def conj(self, state, options):
        del options
        return dataclasses.replace(state, conjugated=not state.conjugated), {}

    def assume_full_rank(self):
        return True


def _klujax() -> Any:
    if not jax.config.jax_enable_x64:  # pyright: ignore
        raise ValueError(
            '`KLU` computes in 64 bits: call `jax.config.update("jax_enable_x64", True)` '
            "first, or take `SparseLU`."
        )
    try:
        import klujax
    except ImportError as error:
        raise ImportError("`KLU` needs `pip install implicit_eig[sparse]`.") from error
    if not hasattr(klujax, "NumericToken"):
        raise ImportError(
            f"`KLU` needs splineax-klujax; the module installed is klujax "
            f"{klujax.__version__}. Uninstall that, then `pip install "
            "implicit_eig[sparse]`."
        )
    return klujax


def _token(handle: Array, values: Array, rows: Array, columns: Array, n: int) -> Any:
    zero = jnp.zeros((), jnp.int32)
    return _klujax().NumericToken(handle, rows, columns, values[None], n, zero)


def _solved(state: _State, b: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
    klujax, order, n = _klujax(), state.order, b.size
    name = "tsolve_with_numeric" if state.transposed else "solve_with_numeric"

    @jax.custom_batching.sequential_vmap
    def solve(handle, symbolic, values, rows, columns, b):
        numeric = _token(handle, values, rows, columns, order)
        symbolic = klujax.SymbolToken(
            symbolic, rows, columns, order, jnp.zeros((), jnp.int32)
        )
        return getattr(klujax, name)(numeric, b, symbolic)

    rhs = jnp.pad(b.astype(state.matrix[0].dtype), (0, order - n))
    x = solve(state.handle, state.symbolic, *state.matrix, rhs)
    return x[:n].astype(jnp.result_type(b, state.dtype))


def _coalesced(values, rows, columns, n: int) -> tuple[Array, Array, Array, int]:
    """The triplets of a matrix [[A, 0], [0, 1]], without duplicates and with the whole
    diagonal; its order is returned too. The number of distinct places is known only at
    run time; spare triplets become zeros in rows below A."""
    dtype = jnp.complex128 if jnp.iscomplexobj(values) else jnp.float64
    # XLA would sort constant indices while it compiles, which takes a dozen seconds.
    if any(isinstance(x, Tracer) for x in (rows, columns)):
        rows, columns = jax.lax.optimization_barrier((rows, columns))
    with jax.ensure_compile_time_eval():  # indices that are known stay known
        i, j, diagonal = (
            x.astype(jnp.int64) for x in (rows, columns, jnp.arange(n, dtype=jnp.int64))
        )
        i, j = jnp.concatenate([i, diagonal]), jnp.concatenate([j, diagonal])
        key, by_place = jax.lax.sort_key_val(j * n + i, jnp.arange(i.size))
        first = jnp.concatenate([jnp.ones(1, bool), key[1:] != key[:-1]])
        slot = jnp.cumsum(first) - 1
        below = jnp.arange(i.size) - (slot[-1] + 1)
        key = jnp.zeros_like(key).at[slot].set(key)
        last = n + jnp.arange(-(-(i.size - n) // n), dtype=key.dtype)
        i = jnp.append(jnp.where(below < 0, key % n, n + below // n), last)
        j = jnp.append(jnp.where(below < 0, key // n, below % n), last)
        i, j = i.astype(jnp.int32), j.astype(jnp.int32)
    values = jnp.append(values.astype(dtype), jnp.zeros(n, dtype))
    values = jnp.zeros_like(values).at[slot].add(values[by_place])
    values = jnp.append(values, jnp.ones(last.size, dtype))
    return values, i, j, n + last.size
