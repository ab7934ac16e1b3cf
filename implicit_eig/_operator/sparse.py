"""A sparse matrix as a lineax operator with differentiable values."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, DTypeLike, Inexact

from .._check import check_integer
from .pattern import AbstractPattern, find_pattern, single_entries
from .structure import promises_nothing


@promises_nothing
class SparseOperator(lx.AbstractLinearOperator):
    """A square sparse matrix from coordinate triplets.

    The values are differentiable, to any order; the pattern is constant. Duplicate
    entries add up. The pattern is analysed once, on the host, in O(nnz log nnz): a matrix
    of few diagonals is applied by shifts, any other by rows of equal length, long rows
    being cut into pieces. The transpose shares all arrays and costs nothing to make.

    The field `values` holds the values in the order of the pattern, and gradients with
    respect to the operator have that order; those with respect to the argument `values`
    have the order given. A cotangent of the values takes O(nnz) memory.

    Where the indices are traced, as arguments of a jitted function, the pattern cannot be
    known: each entry is then added on its own, a product takes two to three times as
    long, and entries outside the matrix are ignored. Close over the indices, or make the
    operator outside.

    **Arguments:**

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
        ```
    """

    values: Inexact[Array, "levels pieces"]
    pattern: AbstractPattern
    transposed: bool = eqx.field(static=True)

    def __init__(self, values: ArrayLike, rows: ArrayLike, columns: ArrayLike, n: int):
        values, n = jnp.asarray(values), check_integer("n", n, 1)
        shapes = values.shape, np.shape(rows), np.shape(columns)
        if not (values.ndim == 1 and len(set(shapes)) == 1):
            raise ValueError(
                "`values`, `rows` and `columns` must be of one shape (nnz,); got "
                f"{shapes[0]}, {shapes[1]} and {shapes[2]}."
            )
        if not jnp.issubdtype(values.dtype, jnp.inexact):
            values = values.astype(jnp.result_type(float))
        known = not any(isinstance(index, Tracer) for index in (rows, columns))
        i, j = _indices("rows", rows, n, known), _indices("columns", columns, n, known)
        if known:
            self.pattern, shape, slots = find_pattern(i, j, n)
            flat = jnp.zeros(shape[0] * shape[1], values.dtype)
            self.values = flat.at[slots].add(values).reshape(shape)
        else:
            inside = (i >= 0) & (i < n) & (j >= 0) & (j < n)
            values, i, j = (
                jnp.where(inside, x, jnp.zeros_like(x)) for x in (values, i, j)
            )
            self.values, self.pattern = values[None], single_entries(i, j, n)
        self.transposed = False

    @property
    def n(self) -> int:
        return self.pattern.n

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
        return self.mm(vector)

    def mm(self, block: Inexact[Array, "n *k"]) -> Inexact[Array, "n *k"]:
        """A X, each row of X being looked up once: faster than `vmap` of `mv`."""
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


def _indices(name: str, index: ArrayLike, n: int, known: bool) -> Any:
    """On the host where both are known, and then inside the matrix."""
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
