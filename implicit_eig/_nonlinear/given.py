"""Tells whether what a user passed with given pairs is an operator or a function T(λ)."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
from jaxtyping import PyTree

from .._operator import as_operator
from .companion import polynomial_operator
from .operator import NonlinearOperator


def as_nonlinear(
    operator: Any, like: PyTree | None, vectors: PyTree
) -> NonlinearOperator | None:
    """T(λ) from a function of λ, or from a tuple of coefficients `(A₀, …, A_d)`; `None`
    for anything else: a function of vectors is an operator, a tuple of rows a matrix.
    """
    if isinstance(operator, tuple) and len(operator) > 1:
        given = [a for a in operator if not isinstance(a, lx.AbstractLinearOperator)]
        if any(not callable(a) and np.ndim(a) < 2 for a in given):
            return None
        coefficients = tuple(
            as_operator(a, like, name=f"coefficients[{i}]")
            for i, a in enumerate(operator)
        )
        return polynomial_operator(coefficients, like)[0]
    if not callable(operator) or isinstance(operator, lx.AbstractLinearOperator):
        return None
    shapes = jtu.tree_map(lambda v: (jnp.shape(v)[:-1], jnp.result_type(v)), vectors)
    shapes = jtu.tree_map(
        lambda s: jax.ShapeDtypeStruct(*s), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )
    if _maps(operator, shapes if like is None else like):
        return None
    try:
        return NonlinearOperator.of(operator, like)
    except Exception:
        return None  # the caller says what is wrong with it as an operator


def _maps(fn: Any, structure: PyTree) -> bool:
    """Whether `fn` maps vectors of this structure to vectors of the same structure."""
    try:
        out = jax.eval_shape(fn, structure)
    except Exception:
        return False
    leaves, treedef = jtu.tree_flatten(structure)
    found, same = jtu.tree_flatten(out)
    return treedef == same and [x.shape for x in leaves] == [x.shape for x in found]
