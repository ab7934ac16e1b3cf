"""What a tag `Aᵀ = A` implies: left vectors are the conjugates of right ones."""

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Inexact

from .._krylov import random_pair
from .._numerics import inv
from .._operator import Pencil


def tagged_symmetric(pencil: Pencil) -> bool:
    """Whether operator and mass matrix are symmetric by lineax's tags or by class."""

    def one(operator: lx.AbstractLinearOperator | None) -> bool:
        try:
            return operator is None or lx.is_symmetric(operator)
        except NotImplementedError:  # a class that lineax does not know
            return False

    return one(pencil.operator) and one(pencil.mass)


def untrue_tag(pencil: Pencil) -> Bool[Array, ""]:
    """Whether `xᵀ A y` and `yᵀ A x` differ for two random vectors, or likewise for B."""
    x = random_pair(pencil.n, pencil.dtype)

    def differs(image: Inexact[Array, "n 2"]) -> Bool[Array, ""]:
        gap = jnp.abs(x[:, 0] @ image[:, 1] - x[:, 1] @ image[:, 0])
        size = jnp.linalg.norm(image) * jnp.linalg.norm(x)
        return gap > jnp.finfo(size.dtype).eps ** 0.5 * size

    wrong = differs(pencil.mm(x))
    return wrong if pencil.mass is None else wrong | differs(pencil.mass_mm(x))


def symmetric_left(
    pencil: Pencil, basis: Inexact[Array, "n m"], active: Bool[Array, " m"]
) -> Inexact[Array, "n m"]:
    """C with `Cᴴ A = L Cᴴ B` and `Cᴴ B X = I` for a symmetric pencil: `Cᴴ = G⁻¹ Xᵀ`,
    since `G = Xᵀ B X` satisfies `G L = Xᵀ A X = Lᵀ G`. G is singular if the selected
    eigenvalues are defective together with others."""
    x = jnp.where(active, basis, 0)
    return _with(x, inv(_gram(x, pencil.mass_mm(x), active)))


def symmetric_left_tangent(pencil, t_mass_x, x, t_x, active):
    """Ċ, from Ẋ and ḂX, without a solve of its own."""
    image = pencil.mass_mm(x)
    inverse = inv(_gram(x, image, active))
    t_image = t_mass_x + pencil.mass_mm(t_x)
    t_gram = t_x.T @ image + x.T @ t_image
    return _with(t_x, inverse) - _with(x, inverse @ t_gram @ inverse)


def _gram(x: Array, image: Array, active: Bool[Array, " m"]) -> Inexact[Array, "m m"]:
    both = active[:, None] & active[None, :]
    return jnp.where(both, x.T @ image, jnp.eye(active.size, dtype=x.dtype))


def _with(x: Inexact[Array, "n m"], g: Inexact[Array, "m m"]) -> Inexact[Array, "n m"]:
    """(g Xᵀ)ᴴ"""
    return x.conj() @ g.conj().T
