"""Eigenpairs of a pencil from what a Krylov run of its transformation found."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int

from .._krylov import KrylovResult, leading, steps_to_purify
from .._spectral import AbstractTransformation
from .rayleigh_ritz import galerkin


class Pairs(NamedTuple):
    """Eigenpairs of a pencil from a run's Schur vectors, with their residuals and whether
    these verify the pairs."""

    basis: Inexact[Array, "n m"]
    matrix: Inexact[Array, "m m"]
    eigenvalues: Complex[Array, " m"]
    coordinates: Complex[Array, "m m"]
    residuals: Float[Array, " m"]
    mass_norm: Float[Array, ""]
    verified: Bool[Array, ""]


def pairs_of_inverse(
    transformation: AbstractTransformation,
    found: KrylovResult,
    rtol: float,
    norm: Float[Array, ""],
) -> tuple[Pairs, Int[Array, ""]]:
    """The pairs; and the number of solves that repairing them took. If the shift is close
    to one eigenvalue, the rounding errors of its θ drown the others."""
    first = _pairs(transformation, found, rtol, norm)

    def worst(pairs: Pairs) -> Float[Array, ""]:
        return jnp.max(jnp.where(found.active, pairs.residuals, 0))

    def repaired(found: KrylovResult) -> Pairs:
        pairs = _pairs(transformation, _multiplied(transformation, found), rtol, norm)
        # Not beside a θ near zero, by which it divides.
        better = worst(pairs) < worst(first)
        return jtu.tree_map(lambda a, b: jnp.where(better, a, b), pairs, first)

    pairs = jax.lax.cond(first.verified, lambda _: first, repaired, found)
    return pairs, jnp.where(first.verified, 0, found.active.size)


def _pairs(
    transformation: AbstractTransformation,
    found: KrylovResult,
    rtol: float,
    norm: Float[Array, ""],
) -> Pairs:
    pencil = transformation.pencil
    values, coordinates = transformation.eigenvalues(found.eigenvalues), found.coordinates
    matrix, residuals, _, bx = galerkin(pencil, found.basis, values, coordinates)
    mass_norm = jnp.linalg.norm(bx) / found.active.size**0.5
    size = jnp.abs(values) * mass_norm
    # The recurrence may claim more accuracy than the pairs have.
    eps = jnp.finfo(pencil.dtype).eps
    enough = jnp.maximum(10 * rtol * size, 1e3 * eps * norm)
    verified = jnp.all(jnp.where(found.active, residuals <= enough, True))
    return Pairs(found.basis, matrix, values, coordinates, residuals, mass_norm, verified)


def pairs_if_finite(
    transformation: AbstractTransformation,
    found: KrylovResult,
    rtol: float,
    norm: Float[Array, ""],
) -> Pairs:
    """In a branch of its own, so that the blocks needed for residuals, A X and two more,
    are freed before vectors are made of X: 18 of 47 n-vectors in a real run for 6 pairs.
    """

    def nothing(found: KrylovResult) -> Pairs:
        shapes = jax.eval_shape(lambda f: _pairs(transformation, f, rtol, norm), found)
        return jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    return jax.lax.cond(
        found.finite, lambda f: _pairs(transformation, f, rtol, norm), nothing, found
    )


def _multiplied(
    transformation: AbstractTransformation, found: KrylovResult
) -> KrylovResult:
    """X after one more product with C, `C X L⁻¹`, orthonormalised again.

    Works on eigenvectors instead of Schur vectors, unless they are close to dependent: a
    Schur vector coupled to one with a far larger θ would pick up its rounding errors.
    """
    active = found.active
    both = active[:, None] & active[None, :]
    eye = jnp.eye(active.size, dtype=found.matrix.dtype)
    inside = jnp.where(both, found.matrix, eye)
    w = jnp.where(both, found.coordinates, eye.astype(found.coordinates.dtype))
    if not jnp.iscomplexobj(inside):
        # A conjugate pair (w, w̄) is replaced by Re w and Im w.
        w = jnp.where(found.eigenvalues.imag < 0, w.imag, w.real)
    w = w / jnp.linalg.norm(w, axis=0).astype(w.dtype)
    apart = jnp.linalg.svd(w, compute_uv=False)[-1] > jnp.finfo(w.dtype).eps ** 0.5
    w = jnp.where(apart, w, eye)
    inverse = jnp.linalg.inv(w)
    image = jax.vmap(transformation.mv)((found.basis @ w).T).T
    image = image @ jnp.linalg.inv(inverse @ inside @ w)
    basis, r = jnp.linalg.qr(jnp.where(active, image, found.basis))
    coordinates = (r @ inverse).astype(found.coordinates.dtype) @ found.coordinates
    return found._replace(basis=basis, coordinates=leading(active, coordinates))


def purified(found: KrylovResult) -> KrylovResult:
    """X after one more product with A, which costs none: `A X L⁻¹ = X + x bᵀL⁻¹`.

    It removes what A maps to almost zero: for a shift-inverted operator, components along
    infinite and far-away eigenvalues, which weigh most in a residual (Ericsson and Ruhe
    1980; Nour-Omid, Parlett, Ericsson and Jensen 1987).
    """
    step = steps_to_purify(found.matrix, found.coupling, found.active)
    eye = jnp.eye(step.size, dtype=step.dtype)
    # For an eigenvalue near zero the coupling is rounding, and its quotient meaningless.
    least = float(jnp.finfo(step.dtype).eps) ** 0.5 * found.norm
    known = jnp.all(~found.active | (jnp.abs(found.eigenvalues) > least))
    step = jnp.where(known & (jnp.linalg.norm(step) <= 1), step, 0)
    # [X x] has orthonormal columns, so the Gram matrix is known.
    triangle = jnp.linalg.cholesky(eye + jnp.outer(step.conj(), step)).conj().T
    inverse = jnp.linalg.inv(triangle)
    return found._replace(
        basis=(found.basis + jnp.outer(found.rest, step)) @ inverse,
        matrix=triangle @ found.matrix @ inverse,
        coordinates=triangle.astype(found.coordinates.dtype) @ found.coordinates,
    )
