"""Rayleigh–Ritz: A and B on the span of a basis."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact

from .._krylov import default_start, leading
from .._operator import Pencil, safe_norm


class Galerkin(NamedTuple):
    """`matrix` is L with `A X ≈ B X L`; `residuals` are the true ones, `‖Av − λBv‖/‖v‖`,
    of the pairs (λ, X W)."""

    matrix: Inexact[Array, "m m"]
    residuals: Float[Array, " m"]
    ax: Inexact[Array, "n m"]
    bx: Inexact[Array, "n m"]


def galerkin(
    pencil: Pencil,
    basis: Inexact[Array, "n m"],
    eigenvalues: Complex[Array, " m"],
    coordinates: Complex[Array, "m m"],
) -> Galerkin:
    """A and B on the span of X, at one block product with each.

    With R = A X − B X L, the defect of a pair is `R w + B X (L w − λ w)`. Its norm needs
    m×m matrices only: no further block of n-vectors is formed.
    """
    ax, bx = pencil.mm(basis), pencil.mass_mm(basis)
    if pencil.mass is None:
        matrix = basis.conj().T @ ax
    else:
        q, r = jnp.linalg.qr(bx)
        # B may map an unused column to zero.
        size = jnp.abs(jnp.diagonal(r))
        kept = size > r.shape[0] * jnp.finfo(size.dtype).eps * jnp.max(size)
        r = jnp.where(kept[:, None], r, jnp.eye(r.shape[0], dtype=r.dtype))
        right = jnp.where(kept[:, None], q.conj().T @ ax, 0)
        matrix = jax.scipy.linalg.solve_triangular(r, right)
    rest = ax - bx @ matrix
    inside = matrix.astype(coordinates.dtype) @ coordinates - coordinates * eigenvalues

    def products(left, gram, right):
        inner = jnp.sum(left.conj() * (gram.astype(right.dtype) @ right), axis=0)
        return inner.real

    square = (
        products(coordinates, rest.conj().T @ rest, coordinates)
        + 2 * products(coordinates, rest.conj().T @ bx, inside)
        + products(inside, bx.conj().T @ bx, inside)
    )
    size = products(coordinates, basis.conj().T @ basis, coordinates)
    size = jnp.where(size > 0, size, 1)
    return Galerkin(matrix, jnp.sqrt(jnp.maximum(square, 0) / size), ax, bx)


def norms(
    pencil: Pencil, ax: Inexact[Array, "n m"], bx: Inexact[Array, "n m"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Estimates ‖A‖ and ‖B‖ from AX and BX, X orthonormal, and from products with a
    random vector: if A maps X to zero, AX says nothing about ‖A‖."""
    x = default_start(pencil.n, pencil.dtype)[:, None]
    x = x / jnp.linalg.norm(x).astype(x.dtype)

    def norm(inside: Array, product: Array) -> Array:
        own = safe_norm(inside.ravel()) / inside.shape[1] ** 0.5
        return jnp.maximum(own, safe_norm(product.ravel()))

    return norm(ax, pencil.mm(x)), norm(bx, pencil.mass_mm(x))


def biorthogonal(
    pencil: Pencil,
    left: Inexact[Array, "n m"],
    basis: Inexact[Array, "n m"],
    active: Bool[Array, " m"],
) -> Inexact[Array, "n m"]:
    """The basis C of the span of the active columns of `left`, with `Cᴴ B X = I`."""
    left = jnp.where(active, left, 0)
    gram = left.conj().T @ pencil.mass_mm(basis)
    both = active[:, None] & active[None, :]
    gram = jnp.where(both, gram, jnp.eye(active.size, dtype=gram.dtype))
    return left @ jnp.linalg.inv(gram).conj().T


def left_defect(
    pencil: Pencil,
    left: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
    active: Bool[Array, " m"],
) -> Float[Array, ""]:
    """‖Cᴴ A − L Cᴴ B‖ for the active columns C."""
    inside = jnp.where(active, leading(active, matrix), 0).conj().T
    defect = pencil.adjoint_mm(left) - pencil.adjoint_mass_mm(left) @ inside
    return safe_norm(jnp.where(active, defect, 0).ravel())


def combine(
    basis: Inexact[Array, "n m"], coordinates: Complex[Array, "m k"]
) -> Complex[Array, "n k"]:
    """X W; a real X is never cast to complex."""
    if jnp.iscomplexobj(basis):
        return basis @ coordinates
    return jax.lax.complex(basis @ coordinates.real, basis @ coordinates.imag)
