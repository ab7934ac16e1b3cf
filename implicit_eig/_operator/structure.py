"""What lineax requires of a custom operator class."""

from typing import Any, TypeVar

import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx


def _no(operator: lx.AbstractLinearOperator) -> bool:
    del operator
    return False


_Class = TypeVar("_Class", bound=type)


def promises_nothing(cls: _Class) -> _Class:
    """Class decorator: operators of this class have no structure lineax could use.

    lineax dispatches on the class for every such question and raises for a class it does
    not know.
    """
    for question in (
        lx.is_symmetric,
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.has_unit_diagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
        lx.is_positive_semidefinite,
        lx.is_negative_semidefinite,
    ):
        question.register(cls)(_no)
    lx.linearise.register(cls)(lambda operator: operator)
    lx.materialise.register(cls)(
        lambda operator: lx.MatrixLinearOperator(operator.as_matrix())
    )
    lx.diagonal.register(cls)(lambda operator: jnp.diagonal(operator.as_matrix()))
    lx.conj.register(cls)(_conjugate)
    return cls


def _conjugate(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    leaves = jtu.tree_leaves((operator.in_structure(), operator.out_structure()))
    if not any(jnp.issubdtype(s.dtype, jnp.complexfloating) for s in leaves):
        return operator
    return _Conjugate(operator)


def _conj(tree: Any) -> Any:
    return jtu.tree_map(jnp.conj, tree)


class _Conjugate(lx.AbstractLinearOperator):
    """x ↦ conj(A conj(x))."""

    operator: lx.AbstractLinearOperator

    def mv(self, vector: Any) -> Any:
        return _conj(self.operator.mv(_conj(vector)))

    def as_matrix(self) -> Any:
        return self.operator.as_matrix().conj()

    def transpose(self) -> "_Conjugate":
        return _Conjugate(self.operator.transpose())

    def in_structure(self) -> Any:
        return self.operator.in_structure()

    def out_structure(self) -> Any:
        return self.operator.out_structure()


promises_nothing(_Conjugate)
lx.conj.register(_Conjugate)(lambda operator: operator.operator)


def transposed(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """Aᵀ, of which the transpose is A itself."""
    function = isinstance(operator, lx.FunctionLinearOperator)
    if function and not lx.is_symmetric(operator):
        return _Transposed(operator)
    return operator.transpose()


class _Transposed(lx.AbstractLinearOperator):
    """A function transposed. What JAX makes of a function by transposing it twice takes
    longer to trace, and may gather a sharded vector where the function does not."""

    operator: lx.FunctionLinearOperator

    def mv(self, vector: Any) -> Any:
        return self.operator.transpose().mv(vector)

    def as_matrix(self) -> Any:
        return self.operator.as_matrix().T

    def transpose(self) -> lx.FunctionLinearOperator:
        return self.operator

    def in_structure(self) -> Any:
        return self.operator.out_structure()

    def out_structure(self) -> Any:
        return self.operator.in_structure()


promises_nothing(_Transposed)
