"""A sparse matrix as a lineax operator with differentiable values."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, DTypeLike, Inexact, Int

from .structure import promises_nothing


@promises_nothing
class SparseOperator(lx.AbstractLinearOperator):
    """A square sparse matrix from coordinate triplets.

    The values are differentiable; the pattern is constant. Duplicate entries add up,
    entries outside the matrix (the padding of `BCOO`) are ignored. Both the product and
    the transposed product are a gather and a sorted segment sum.

    **Arguments:**

    - `values`: shape `(nnz,)`.
    - `rows`, `columns`: integer arrays of shape `(nnz,)`, in any order.
    - `n`: order of the matrix.
    """

    values: Inexact[Array, " nnz"]
    rows: Int[Array, " nnz"]
    columns: Int[Array, " nnz"]
    by_column: Int[Array, " nnz"]
    n: int = eqx.field(static=True)

    def __init__(self, values: ArrayLike, rows: ArrayLike, columns: ArrayLike, n: int):
        values = jnp.asarray(values)
        rows, columns = jnp.asarray(rows), jnp.asarray(columns)
        if not (values.ndim == 1 and values.shape == rows.shape == columns.shape):
            raise ValueError(
                "`values`, `rows` and `columns` must be of one shape (nnz,); got "
                f"{values.shape}, {rows.shape} and {columns.shape}."
            )
        for name, index in (("rows", rows), ("columns", columns)):
            if not jnp.issubdtype(index.dtype, jnp.integer):
                raise TypeError(f"`{name}` must be integers; got dtype {index.dtype}.")
        if not jnp.issubdtype(values.dtype, jnp.inexact):
            values = values.astype(jnp.result_type(float))
        order = jnp.argsort(rows)
        self.values, self.rows = values[order], rows[order]
        self.columns = columns[order]
        self.by_column = jnp.argsort(self.columns)
        self.n = n

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
        gathered = vector.at[self.columns].get(mode="fill", fill_value=0)
        return jax.ops.segment_sum(
            self.values * gathered,
            self.rows,
            num_segments=self.n,
            indices_are_sorted=True,
        )

    def transpose(self) -> "SparseOperator":
        order = self.by_column
        transposed = object.__new__(SparseOperator)
        for name, value in (
            ("values", self.values[order]),
            ("rows", self.columns[order]),
            ("columns", self.rows[order]),
            ("by_column", jnp.zeros_like(order).at[order].set(jnp.arange(order.size))),
            ("n", self.n),
        ):
            object.__setattr__(transposed, name, value)
        return transposed

    def astype(self, dtype: DTypeLike) -> "SparseOperator":
        return eqx.tree_at(lambda o: o.values, self, self.values.astype(dtype))

    def as_matrix(self) -> Inexact[Array, "n n"]:
        zero = jnp.zeros((self.n, self.n), self.values.dtype)
        return zero.at[self.rows, self.columns].add(self.values, mode="drop")

    def in_structure(self) -> Any:
        return jax.ShapeDtypeStruct((self.n,), self.values.dtype)

    def out_structure(self) -> Any:
        return self.in_structure()
