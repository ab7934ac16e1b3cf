"""Turns arrays, sparse matrices, callables and lineax operators into lineax operators."""

import functools
import types
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
from jaxtyping import Array, Inexact, PyTree

from .._check import check_numbers
from .._program import TracedFunction
from .host_operator import HostOperator, is_linear_operator
from .pencil import Domain, Pencil
from .sparse import SparseOperator
from .triplets import is_sparse, triplets


_DTYPES = ("float32", "float64", "complex64", "complex128")


def as_pencil(operator: Any, mass: Any, like: Any) -> Pencil:
    """The pencil A − λB made from what the user passed, in one dtype, checked."""
    a = as_operator(operator, like)
    if mass is None:
        return Pencil(a, None)
    b = as_operator(mass, a.in_structure(), name="mass")
    da, db = Domain.of(a.in_structure()), Domain.of(b.in_structure())
    if da.treedef != db.treedef or any(
        s.shape != t.shape for s, t in zip(da.leaves, db.leaves, strict=True)
    ):
        raise ValueError(
            "`mass` must act on the same space as `operator`; got "
            f"{b.in_structure()} and {a.in_structure()}."
        )
    if da.dtype != db.dtype:
        dtype = np.promote_types(da.dtype, db.dtype)
        a, b = _astype(a, dtype, "operator"), _astype(b, dtype, "mass")
    return Pencil(a, b)


def as_operator(
    operator: Any, like: PyTree | None = None, *, name: str = "operator"
) -> lx.AbstractLinearOperator:
    """A square lineax operator from what the user passed; raises `ValueError` or
    `TypeError`."""
    if isinstance(operator, lx.AbstractLinearOperator):
        result = _traced(operator)
    elif is_sparse(operator):
        result = SparseOperator(*triplets(operator, name))
    elif is_linear_operator(operator):
        result = HostOperator.of(operator, name)
    elif callable(operator):
        result = _from_callable(operator, like, name, _other_object(operator, name))
    else:
        matrix = as_matrix(operator, name)
        if matrix.ndim != 2:
            raise ValueError(
                f"`{name}` must be one square matrix; got an array of shape "
                f"{matrix.shape}. Use `jax.vmap` for batches."
            )
        return lx.MatrixLinearOperator(matrix)
    check_axes(name, result)
    _check_square(result, name)
    return result


def as_matrix(a: Any, name: str = "operator") -> Inexact[Array, "*batch n n"]:
    """An array of square matrices in a dtype that LAPACK has; integers are promoted."""
    if isinstance(a, np.ndarray):
        check_numbers(name, a)
    try:
        a = jnp.asarray(a)
    except (TypeError, ValueError) as error:
        if isinstance(a, list | tuple):  # NumPy's message says what is wrong
            raise
        raise TypeError(
            f"`{name}` must be a square array, a sparse matrix, a lineax operator or a "
            f"callable; got {type(a).__name__}, of which JAX makes no array: {error}"
        ) from error
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"`{name}` must be square; got an array of shape {a.shape}.")
    if jnp.issubdtype(a.dtype, jnp.integer) or a.dtype == jnp.bool_:
        a = a.astype(jnp.result_type(float))
    _check_dtype(a.dtype, name)
    check_axes(name, a)
    return a


def check_axes(name: str, tree: PyTree) -> None:
    """Refuses arrays sharded over axes of type `Explicit`, of which JAX wants to know how
    each result is sharded."""
    for leaf in jtu.tree_leaves(tree):
        if not isinstance(leaf, jax.Array):
            continue
        sharding = jax.typeof(leaf).sharding
        if any(axes is not None for axes in sharding.spec):
            raise ValueError(
                f"`{name}` has an array sharded over mesh axes of type `Explicit`: "
                f"{sharding.spec}. Make the mesh with `axis_types=("
                "jax.sharding.AxisType.Auto,)`, or wrap the call in "
                "`jax.sharding.auto_axes(..., out_sharding=...)`."
            )


def _check_dtype(dtype: Any, name: str) -> None:
    if jnp.dtype(dtype).name not in _DTYPES:
        raise TypeError(f"`{name}` must have dtype {', '.join(_DTYPES)}; got {dtype}.")


def _check_square(operator: lx.AbstractLinearOperator, name: str) -> None:
    into, out = operator.in_structure(), operator.out_structure()
    leaves = jtu.tree_leaves(into)
    if not leaves:
        raise ValueError(f"`{name}` acts on an empty structure: {into}.")
    for leaf in leaves:
        _check_dtype(leaf.dtype, name)
    if len({leaf.dtype for leaf in leaves}) > 1:
        raise TypeError(f"`{name}` must act on arrays of one dtype; got {into}.")

    def plain(tree: Any) -> Any:
        return jtu.tree_map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), tree)

    if not eqx.tree_equal(plain(into), plain(out)):
        raise ValueError(
            f"`{name}` must be square: its input and output structures differ.\n"
            f"  input:  {into}\n  output: {out}"
        )


def _other_object(x: Any, name: str) -> str | None:
    """What to say about an object that can be called, but does not multiply vectors."""
    kind = type(x).__name__
    if isinstance(x, type):
        return f"`{name}` is the class {x.__name__}, and not an object of it."
    if isinstance(x, types.FunctionType | types.MethodType | functools.partial):
        return None
    if all(hasattr(x, part) for part in "ABCD"):
        return (
            f"`{name}` is a {kind}, a state-space model, and calling it evaluates its "
            "transfer function. Its poles are the eigenvalues of its matrix: pass "
            f"`{name}.A` (and `mass=` its E, if it has one)."
        )
    for method in ("full", "toarray", "todense", "to_numpy", "__array__"):
        if callable(getattr(x, method, None)):
            call = (
                f"numpy.asarray({name})"
                if method == "__array__"
                else f"{name}.{method}()"
            )
            return (
                f"`{name}` is a {kind}, which holds a matrix and is called for something "
                f"else than its product with a vector: pass the matrix, `{call}`."
            )
    return None


def _from_callable(
    fn: Callable, like: PyTree | None, name: str, other: str | None
) -> lx.AbstractLinearOperator:
    if like is None:
        if other is not None:
            raise TypeError(other)
        raise ValueError(
            f"`{name}` is a callable, so the space it acts on must be given: pass "
            "`like=`, a vector (or pytree of arrays, or `jax.ShapeDtypeStruct`s)."
        )

    def leaf(x: Any) -> jax.ShapeDtypeStruct:
        if not isinstance(x, jax.ShapeDtypeStruct):
            x = jnp.asarray(x)
        dtype = x.dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            dtype = jnp.result_type(float)
        return jax.ShapeDtypeStruct(x.shape, dtype)

    check_axes("like", like)
    structure = jtu.tree_map(leaf, like)
    try:
        traced = TracedFunction.of(fn, structure)
        result = lx.FunctionLinearOperator(traced, structure, closure_convert=False)
        if other is not None:
            _check_square(result, name)
    except Exception as error:
        if other is None:
            raise
        raise TypeError(other) from error
    return result


def _traced(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """The operator, with functions inside it traced."""
    kinds = lx.FunctionLinearOperator, lx.JacobianLinearOperator

    def one(x: Any) -> Any:
        if not isinstance(x, kinds) or isinstance(x.fn, TracedFunction):
            return x
        args = [x.in_structure()]
        if isinstance(x, lx.JacobianLinearOperator):
            args = [x.x, x.args]
        fn = TracedFunction.of(x.fn, *args)
        return eqx.tree_at(lambda x: x.fn, x, fn, is_leaf=lambda y: y is x.fn)

    return jtu.tree_map(one, operator, is_leaf=lambda x: isinstance(x, kinds))


def _astype(operator: Any, dtype: Any, name: str) -> lx.AbstractLinearOperator:
    got = Domain.of(operator.in_structure()).dtype
    if got == dtype:
        return operator
    if isinstance(operator, lx.MatrixLinearOperator):
        return lx.MatrixLinearOperator(operator.matrix.astype(dtype), operator.tags)
    if isinstance(operator, SparseOperator):
        return operator.astype(dtype)
    raise TypeError(
        f"`operator` and `mass` must have one dtype; `{name}` acts on {got} where "
        f"{dtype} is needed."
    )
