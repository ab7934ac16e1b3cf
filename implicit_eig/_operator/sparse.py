"""A sparse matrix as a lineax operator with differentiable values."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, DTypeLike, Inexact

from .._check import check_integer, check_numbers
from .pattern import AbstractPattern, constant, find_pattern, single_entries
from .structure import promises_nothing
from .triplets import is_sparse, triplets


@promises_nothing
class SparseOperator(lx.AbstractLinearOperator):
    """A square sparse matrix, `SparseOperator(matrix)`, or one from coordinate triplets,
    `SparseOperator(values, rows, columns, n)`.

    The values are differentiable, to any order; the pattern is constant. Duplicate
    entries add up. The pattern is analysed once, on the host, in O(nnz log nnz): a matrix
    with few diagonals is applied by shifts, any other by rows of equal length, long rows
    being cut into pieces. The transpose shares all arrays and costs nothing to make.

    `entries` are the values, rows and columns of the matrix, each of shape `(nnz,)`, row
    by row and each place once: the input for a linear solver of your own. Values are
    differentiable there too. Entries that are zero stay.

    The field `values` holds the values in the order of the pattern, and gradients with
    respect to the operator have that order; those with respect to the argument `values`
    have the order given. A cotangent of the values takes O(nnz) memory.

    If the indices are traced, as arguments of a jitted function, the pattern cannot be
    known: each entry is then added separately, a product takes two to three times as
    long, and entries outside the matrix are ignored. Close over the indices, or make the
    operator outside.

    **Arguments:**

    - `matrix`: a SciPy sparse array or matrix, or a BCOO or BCSR of
        `jax.experimental.sparse`. Entries of a BCOO beyond its shape are padding. A
        negative index is an error or, if indices are traced, a value of NaN.
    - `values`: shape `(nnz,)`.
    - `rows`, `columns`: integer arrays of shape `(nnz,)`, in any order; a `ValueError` if
        one of them lies outside the matrix.
    - `n`: order of the matrix.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        op = ieig.SparseOperator([1.0, 2.0, 3.0], [0, 1, 1], [1, 0, 1], n=2)
        op.mv(jnp.ones(2))               # [1, 5]
        op.transpose().mv(jnp.ones(2))   # [2, 4]
        values, rows, columns = op.entries
        ```
    """

    values: Inexact[Array, "levels pieces"]
    pattern: AbstractPattern
    transposed: bool = eqx.field(static=True)

    def __init__(
        self,
        values: Any,
        rows: ArrayLike | Sequence[int] | None = None,
        columns: ArrayLike | Sequence[int] | None = None,
        n: int | None = None,
    ):
        if rows is None and columns is None and n is None:
            if not is_sparse(values):
                raise TypeError(
                    "`SparseOperator` takes a sparse matrix, or `values, rows, columns, "
                    f"n`; got one {type(values).__name__}."
                )
            values, rows, columns, n = triplets(values, "matrix")
        values, n = _numbers(values), check_integer("n", n, 1)
        shapes = values.shape, np.shape(rows), np.shape(columns)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if not (values.ndim == 1 and len(set(shapes)) == 1):
            raise ValueError(
                "`values`, `rows` and `columns` must be of one shape (nnz,); got "
                f"{shapes[0]}, {shapes[1]} and {shapes[2]}."
            )
        known = not any(isinstance(index, Tracer) for index in (rows, columns))
        i, j = _indices("rows", rows, n, known), _indices("columns", columns, n, known)
        if known:
            place, which = np.unique(i.astype(np.int64) * n + j, return_inverse=True)
            self.pattern, shape, slots = find_pattern(*np.divmod(place, n), n)
            size, slots = shape[0] * shape[1], slots[which]
            if isinstance(values, Tracer):
                flat = jnp.zeros(size, values.dtype).at[slots].add(values)
                self.values = flat.reshape(shape)
            else:
                flat = np.zeros(size, values.dtype)
                np.add.at(flat, slots, np.asarray(values))
                self.values = constant(flat.reshape(shape))
        else:
            # (Known negative indices are refused.)
            values = jnp.where((i < 0) | (j < 0), jnp.nan, values).astype(values.dtype)
            inside = (i < n) & (j < n)
            i, j = jnp.maximum(i, 0), jnp.maximum(j, 0)
            values, i, j = (
                jnp.where(inside, x, jnp.zeros_like(x)) for x in (values, i, j)
            )
            self.values, self.pattern = values[None], single_entries(i, j, n)
        self.transposed = False

    @property
    def n(self) -> int:
        return self.pattern.n

    @property
    def entries(self) -> tuple[Inexact[Array, " nnz"], Array, Array]:
        stored = self.pattern.stored
        if stored is None:
            raise ValueError(
                "`entries` hold each place once, but `rows` and `columns` were traced "
                "when this operator was made, so that nobody knows which are duplicates. "
                "Close over the indices, or make the operator outside."
            )
        with jax.ensure_compile_time_eval():
            values, rows, columns = (
                x.ravel()[stored] for x in self.pattern.triplets(self.values)
            )
        return (values, columns, rows) if self.transposed else (values, rows, columns)

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
        return self.mm(vector)

    def mm(self, block: Inexact[Array, "n *k"]) -> Inexact[Array, "n *k"]:
        """A X. Looks up each row of X once: faster than `vmap` of `mv`."""
        pattern = self.pattern
        product = pattern.transposed_product if self.transposed else pattern.product
        return product(self.values, block)

    def transpose(self) -> "SparseOperator":
        transposed = object.__new__(SparseOperator)
        for name, value in (
            ("values", self.values),
            ("pattern", self.pattern),
            ("transposed", not self.transposed),
        ):
            object.__setattr__(transposed, name, value)
        return transposed

    def astype(self, dtype: DTypeLike) -> "SparseOperator":
        return eqx.tree_at(lambda o: o.values, self, self.values.astype(dtype))

    def as_matrix(self) -> Inexact[Array, "n n"]:
        values, rows, columns = self.pattern.triplets(self.values)
        matrix = jnp.zeros((self.n, self.n), values.dtype).at[rows, columns].add(values)
        return matrix.T if self.transposed else matrix

    def in_structure(self) -> Any:
        return jax.ShapeDtypeStruct((self.n,), self.values.dtype)

    def out_structure(self) -> Any:
        return self.in_structure()


def _numbers(values: Any) -> Any:
    """The values in an inexact dtype that JAX has."""
    if not isinstance(values, jax.Array):
        values = np.asarray(values)
        check_numbers("values", values)
    dtype = jax.dtypes.canonicalize_dtype(values.dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.result_type(float)
    return values.astype(dtype)


def _indices(name: str, index: Any, n: int, known: bool) -> Any:
    """The indices; on the host if both are known, and then checked to be inside."""
    index = np.asarray(index) if known else jnp.asarray(index)
    if not index.size:
        index = index.astype(np.int32)  # an empty list is float
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"`{name}` must be integers; got dtype {index.dtype}.")
    if known:
        outside = (index < 0) | (index >= n)
        if outside.any():
            at = int(np.argmax(outside))
            raise ValueError(
                f"`{name}` must lie in [0, {n}) for a matrix of order {n}; got "
                f"{index[at]} at position {at}."
            )
    return index
