"""The entries of operators that are sparse matrices, or made of them."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from .counting import CountingOperator
from .pencil import complex_dtype
from .sparse import SparseOperator


Triplets = tuple[Array, Array, Array]


@functools.singledispatch
def entries(operator: lx.AbstractLinearOperator) -> Triplets | None:
    """Values, rows and columns of an operator, each of shape `(nnz,)`, where duplicates
    add up; `None` if the entries are not available.

    Works for [`implicit_eig.SparseOperator`][], lineax's identity, diagonal and
    tridiagonal operators, sums and multiples of these, and the A − σB passed to a linear
    solver. Values are differentiable. Indices are known under `jit` if they were known
    when the operators were made.

    !!! Example

        ```python
        import jax.numpy as jnp, lineax, implicit_eig as ieig
        op = ieig.SparseOperator([2.0, 1.0], [0, 1], [1, 0], n=2)
        values, rows, columns = ieig.entries(op * 3.0)   # [6, 3], [0, 1], [1, 0]
        ```
    """
    del operator
    return None


@entries.register(SparseOperator)
def _(operator):
    if operator.pattern.stored is not None:
        return operator.entries
    values, rows, columns = operator.pattern.triplets(operator.values)
    if operator.transposed:
        rows, columns = columns, rows
    return values.ravel(), rows.ravel(), columns.ravel()


@entries.register(lx.IdentityLinearOperator)
def _(operator):
    structure = operator.in_structure()
    if not isinstance(structure, jax.ShapeDtypeStruct):  # a pytree
        return None
    return _diagonal(jnp.ones(structure.shape, structure.dtype))


@entries.register(lx.DiagonalLinearOperator)
def _(operator):
    if not isinstance(operator.diagonal, jax.Array):
        return None
    return _diagonal(operator.diagonal)


@entries.register(lx.TridiagonalLinearOperator)
def _(operator):
    index = jnp.arange(operator.diagonal.size, dtype=jnp.int32)
    lower, upper = index[1:], index[:-1]
    return (
        jnp.concatenate(
            [operator.diagonal, operator.lower_diagonal, operator.upper_diagonal]
        ),
        jnp.concatenate([index, lower, upper]),
        jnp.concatenate([index, upper, lower]),
    )


@entries.register(CountingOperator)
def _(operator):
    return entries(operator.operator)


@entries.register(lx.TaggedLinearOperator)
def _(operator):
    return entries(operator.operator)


@entries.register(lx.NegLinearOperator)
def _(operator):
    return _scaled(entries(operator.operator), -1)


@entries.register(lx.MulLinearOperator)
def _(operator):
    return _scaled(entries(operator.operator), operator.scalar)


@entries.register(lx.DivLinearOperator)
def _(operator):
    return _scaled(entries(operator.operator), 1 / operator.scalar)


@entries.register(lx.AddLinearOperator)
def _(operator):
    return together(entries(operator.operator1), entries(operator.operator2))


def together(first: Triplets | None, second: Triplets | None) -> Triplets | None:
    """The entries of a sum."""
    if first is None or second is None:
        return None
    dtype = np.promote_types(first[0].dtype, second[0].dtype)
    index = np.promote_types(first[1].dtype, second[1].dtype)

    def joined(i: int, dtype) -> Array:
        return jnp.concatenate([x[i].astype(dtype) for x in (first, second)])

    with jax.ensure_compile_time_eval():  # indices that are known stay known
        rows, columns = joined(1, index), joined(2, index)
    return joined(0, dtype), rows, columns


def _scaled(triplets: Triplets | None, scalar) -> Triplets | None:
    if triplets is None:
        return None
    values, rows, columns = triplets
    scalar = jnp.asarray(scalar)
    dtype = values.dtype
    if jnp.iscomplexobj(scalar):
        dtype = complex_dtype(dtype)
    return values.astype(dtype) * scalar.astype(dtype), rows, columns


def _diagonal(values: Array) -> Triplets | None:
    if values.ndim != 1:
        return None
    with jax.ensure_compile_time_eval():
        index = jnp.arange(values.size, dtype=jnp.int32)
    return values, index, index
