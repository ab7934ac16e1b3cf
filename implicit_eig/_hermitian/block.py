"""What is found of a Hermitian pencil, before derivatives."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Bool, Float, Inexact

from .._eigensolver import InvariantBlock
from .._numerics import largest_part
from .._operator import complex_dtype, Pencil
from .._solution import RESULTS
from .._spectral import AbstractTransformation


class HermitianBlock(eqx.Module):
    """Pairs with `A V = B V Λ` and `Vᴴ B V = I`, the wanted ones first, best first; all
    others after them where they are known. The rest as in `InvariantBlock`."""

    eigenvalues: Float[Array, " m"]
    vectors: Inexact[Array, "n m"]
    active: Bool[Array, " m"]
    residuals: Float[Array, " m"]
    norm: Float[Array, ""]
    mass_norm: Float[ArrayLike, ""]
    stats: dict[str, Any]
    result: RESULTS
    outside: Float[Array, " m"] | None = None
    transformation: AbstractTransformation | None = None

    def as_invariant(self) -> InvariantBlock:
        """As solvers of linear systems see it."""
        dtype = complex_dtype(self.vectors.dtype)
        outside = None if self.outside is None else self.outside.astype(dtype)
        return InvariantBlock(
            basis=self.vectors,
            matrix=jnp.diag(self.eigenvalues).astype(self.vectors.dtype),
            eigenvalues=self.eigenvalues.astype(dtype),
            coordinates=jnp.eye(self.active.size, dtype=dtype),
            left_basis=None,
            active=self.active,
            residuals=self.residuals,
            norm=self.norm,
            mass_norm=self.mass_norm,
            stats=self.stats,
            result=self.result,
            outside=outside,
            transformation=self.transformation,
        )


def hermitian_part(pencil: Pencil) -> tuple[Pencil, Bool[Array, ""]]:
    """The pencil with the Hermitian part of what is a matrix, and whether that is less
    than the whole."""
    wrong = jnp.asarray(False)

    def part(operator):
        nonlocal wrong
        if not isinstance(operator, lx.MatrixLinearOperator):
            return operator
        a = operator.matrix
        wrong = wrong | crooked(jax.lax.stop_gradient(a))
        return lx.MatrixLinearOperator((a + a.conj().T) / 2)

    return Pencil(part(pencil.operator), part(pencil.mass)), wrong


def crooked(a: Inexact[Array, "n n"]) -> Bool[Array, ""]:
    """Whether a matrix is not Hermitian."""
    size = jnp.linalg.norm(a)
    return jnp.linalg.norm(a - a.conj().T) > jnp.finfo(size.dtype).eps ** 0.5 * size


def asymmetric(x: Inexact[Array, "n 2"], image: Inexact[Array, "n 2"]) -> Bool[Array, ""]:
    """Whether the operator with this `image` of two random vectors x, y is not Hermitian,
    by `⟨x, A y⟩ = ⟨A x, y⟩`."""
    left, right = x[:, 0].conj() @ image[:, 1], image[:, 0].conj() @ x[:, 1]
    size = jnp.linalg.norm(image) * jnp.linalg.norm(x)
    return jnp.abs(left - right) > jnp.finfo(size.dtype).eps ** 0.5 * size


def of_extreme_size(
    x: Inexact[Array, "n 2"], image: Inexact[Array, "n 2"]
) -> Bool[Array, ""]:
    """Whether squares of what the operator makes of x under- or overflow, to rounding.
    Where entries are at hand they were scaled."""
    info = jnp.finfo(image.dtype)
    size = jnp.max(largest_part(image)) / jnp.max(largest_part(x))
    least = float(info.tiny) ** 0.5 / float(info.eps)
    return (size > 0) & jnp.isfinite(size) & ((size < least) | (size > 1 / least))


def without(block: HermitianBlock, none: Bool[Array, ""], why: RESULTS) -> HermitianBlock:
    """The block, or no pairs."""
    return dataclasses.replace(
        block,
        active=block.active & ~none,
        stats=block.stats
        | {"num_converged": jnp.where(none, 0, block.stats["num_converged"])},
        result=RESULTS.where(none, why, block.result),
    )
