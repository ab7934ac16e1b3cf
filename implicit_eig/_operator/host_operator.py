"""SciPy's `LinearOperator`: products on the host."""

import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Inexact

from .._host import host_call
from .structure import promises_nothing


def is_linear_operator(x: Any) -> bool:
    # Anyone who holds one has imported the module.
    module = sys.modules.get("scipy.sparse.linalg")
    return module is not None and isinstance(x, module.LinearOperator)


@promises_nothing
class HostOperator(lx.AbstractLinearOperator):
    """A SciPy `LinearOperator`: `matvec` on the host, `rmatvec` for the transpose, which
    left vectors need. It is constant: derivatives do not reach inside it.
    """

    operator: Any = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    transposed: bool = eqx.field(static=True, default=False)

    @classmethod
    def of(cls, operator: Any, name: str) -> "HostOperator":
        dtype = np.dtype(float if operator.dtype is None else operator.dtype)
        if not np.issubdtype(dtype, np.inexact):
            dtype = np.dtype(float)
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        if operator.shape[0] != operator.shape[1]:
            raise ValueError(
                f"`{name}` must be square; got a LinearOperator of shape "
                f"{operator.shape}."
            )
        return cls(operator, dtype)

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
        transposed = self.transpose()
        # Linear in the vector, and its transpose is known.
        return jax.lax.custom_linear_solve(
            lambda x: x,
            vector,
            lambda _, x: self._product(x),
            lambda _, x: transposed._product(x),
        )

    def _product(self, x: Array) -> Array:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        fn = _rmatvec if self.transposed else _matvec
        (y,) = host_call(fn, (shape,), x, operator=self.operator)
        return y

    def transpose(self) -> "HostOperator":
        return HostOperator(self.operator, self.dtype, not self.transposed)

    def as_matrix(self) -> Inexact[Array, "n n"]:
        eye = jnp.eye(self.in_structure().shape[0], dtype=self.dtype)
        return jax.vmap(self.mv, in_axes=1, out_axes=1)(eye)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.operator.shape[1],), self.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.in_structure()


def _matvec(x: np.ndarray, *, operator: Any) -> tuple[np.ndarray]:
    return (_columns(operator.matvec, x),)


def _rmatvec(x: np.ndarray, *, operator: Any) -> tuple[np.ndarray]:
    try:
        return (_columns(operator.rmatvec, x.conj()).conj(),)
    except NotImplementedError as error:
        raise NotImplementedError(
            "Left vectors and derivatives need products with the adjoint: give the "
            "LinearOperator an `rmatvec`."
        ) from error


def _columns(fn: Any, x: np.ndarray) -> np.ndarray:
    """Applies `fn` to the vectors of a batch one after the other."""
    flat = [np.asarray(fn(v)).reshape(-1) for v in x.reshape(-1, x.shape[-1])]
    return np.stack(flat).reshape(x.shape).astype(x.dtype)
