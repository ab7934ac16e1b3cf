"""The user's T(λ): a lineax operator whose arrays are functions of λ."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Complex, PyTree

from .._krylov import default_start
from .._operator import as_operator, Domain, Pencil, SparseOperator
from .._program import TracedFunction
from .._rule import tagged_symmetric


class NonlinearOperator(eqx.Module):
    """λ ↦ T(λ); the arrays that T closes over are leaves."""

    traced: TracedFunction
    static: PyTree
    domain: Domain = eqx.field(static=True)
    transposed: bool = eqx.field(static=True, default=False)
    symmetric: bool = eqx.field(static=True, default=False)  # by lineax's tag
    # Why JAX cannot transpose T(λ), if it cannot.
    fault: str | None = eqx.field(static=True, default=None)

    @classmethod
    def of(cls, fn: Any, like: PyTree | None) -> "NonlinearOperator":
        """Wraps the user's function, traced at a complex λ of the widest precision."""
        if not callable(fn):
            raise TypeError(f"`T` must be a function of λ; got {type(fn).__name__}.")
        static, symmetric = None, False

        def arrays(z: Array) -> PyTree:
            nonlocal static, symmetric
            operator = as_operator(fn(z), like, name="T(λ)")
            symmetric = tagged_symmetric(Pencil(operator, None))
            dynamic, static = eqx.partition(untagged(operator), eqx.is_array)
            return dynamic

        dtype = np.result_type(jnp.result_type(float), np.complex64)
        traced = TracedFunction.of(arrays, jax.ShapeDtypeStruct((), dtype))
        shapes = jax.eval_shape(traced, jax.ShapeDtypeStruct((), dtype))
        structure = eqx.combine(shapes, static).in_structure()
        fault = _fault(shapes, static)
        domain = Domain.of(structure)
        if not jnp.issubdtype(domain.dtype, jnp.complexfloating):
            raise TypeError(
                "`T(λ)` must be complex for a complex λ, like `A - λ * B`; got "
                f"{domain.dtype}: does it depend on λ?"
            )
        return cls(traced, static, domain, symmetric=symmetric, fault=fault)

    @property
    def n(self) -> int:
        return self.domain.n

    @property
    def dtype(self) -> Any:
        return self.domain.dtype

    def transpose(self) -> "NonlinearOperator":
        """λ ↦ T(λ)ᵀ."""
        if self.symmetric:
            return self
        return dataclasses.replace(self, transposed=not self.transposed)

    def at(self, z: Complex[Array, ""]) -> lx.AbstractLinearOperator:
        """T(z)."""
        return self._turned(eqx.combine(self.traced(z), self.static))

    def _turned(self, operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
        return operator.transpose() if self.transposed else operator

    def derivative(self, z: Complex[Array, ""], along: complex = 1.0) -> Any:
        """T′(z), or the derivative of T along another direction."""
        step = jnp.asarray(along, z.dtype)
        arrays, moved = jax.jvp(self.traced, (z,), (step,))
        operator = eqx.combine(arrays, self.static)
        if isinstance(operator, lx.MatrixLinearOperator | SparseOperator):
            return self._turned(eqx.combine(_inexact(moved, arrays), self.static))
        structure = operator.in_structure()

        def product(v: PyTree) -> PyTree:
            def at(z: Array) -> PyTree:
                return self.at(z).mv(v)

            return jax.jvp(at, (z,), (step,))[1]

        return lx.FunctionLinearOperator(product, structure)

    def pencil(self, z: Complex[Array, ""]) -> Pencil:
        """A − μB with A = T(z), B = −T′(z), which is T(z + μ) to first order: a pair of T
        at z is a pair of the pencil at μ = 0, and their derivatives are the same."""
        return Pencil(self.at(z), self.derivative(z, -1.0))

    def is_holomorphic(self, z: Complex[Array, ""]) -> Bool[Array, ""]:
        """Whether T's derivative along i is i times that along 1, by a product each."""
        x = default_start(self.n, self.dtype)
        one, i = (Pencil(self.derivative(z, d), None).mv(x) for d in (1.0, 1.0j))
        size = jnp.linalg.norm(one) + jnp.linalg.norm(i)
        return jnp.linalg.norm(i - 1j * one) <= jnp.finfo(size.dtype).eps ** 0.5 * size


def untagged(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """The matrix inside lineax's tags, if it is one; anything else as it is."""
    inner = operator
    while isinstance(inner, lx.TaggedLinearOperator):
        inner = inner.operator
    known = isinstance(inner, lx.MatrixLinearOperator | SparseOperator)
    return inner if known else operator


def _fault(shapes: PyTree, static: PyTree) -> str | None:
    """What JAX says if it cannot transpose the operator."""
    operator = eqx.combine(shapes, static)
    if isinstance(operator, lx.MatrixLinearOperator | SparseOperator):
        return None

    def product(arrays: PyTree, v: PyTree) -> PyTree:
        return eqx.combine(arrays, static).transpose().mv(v)

    try:
        jax.eval_shape(product, shapes, operator.in_structure())
    except Exception as error:
        return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
    return None


def _inexact(moved: PyTree, arrays: PyTree) -> PyTree:
    """Tangents of numbers; indices are left as they are."""

    def one(t: Array, x: Array) -> Array:
        return t if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return jax.tree.map(one, moved, arrays)
