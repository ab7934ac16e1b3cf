"""All eigenpairs of a dense pencil A − λB, infinite eigenvalues left out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Inexact

from .._numerics import device_eig_from_both_sides
from .._operator import entries_of_matrix, safe_norm, times_real, uneven


class PencilEig(NamedTuple):
    """Eigenvalues, left and right eigenvectors (columns); which eigenvalues are infinite
    (NaN in `eigenvalues`); and whether the pencil is singular, in which case no value
    means anything."""

    eigenvalues: Complex[Array, " n"]
    left: Complex[Array, "n n"]
    right: Complex[Array, "n n"]
    infinite: Bool[Array, " n"]
    singular: Bool[Array, ""]


# Shifts in units of ‖A‖/‖B‖: A − σB is far from singular at one of them.
_SHIFTS = 0.3779644, -0.6180339, 1.4142135


def eig_of_pencil(a: Inexact[Array, "n n"], b: Inexact[Array, "n n"]) -> PencilEig:
    """Uses B⁻¹A if B is well-conditioned, otherwise (A − σB)⁻¹B, whose zero eigenvalues
    are the infinite ones and are deflated first.

    Columns whose sizes differ by more than the precision can hold are equilibrated first.
    JAX does not have `ggev`.
    """
    entries = [entries_of_matrix(x) for x in (a, b)]
    columns = 1 / uneven(entries, [jnp.max(x.sizes) for x in entries], 1)
    found = _eig_of_even_pencil(*(times_real(x, columns[None, :]) for x in (a, b)))
    right = times_real(found.right, columns[:, None])
    size = safe_norm(right)
    right = times_real(right, (1 / jnp.where(size > 0, size, 1))[None, :])
    return found._replace(right=right)


def _eig_of_even_pencil(a: Inexact[Array, "n n"], b: Inexact[Array, "n n"]) -> PencilEig:
    sizes = jnp.linalg.svd(b, compute_uv=False)
    eps = jnp.finfo(b.dtype).eps
    regular = sizes[-1] > eps**0.5 * sizes[0]
    return jax.lax.cond(regular, _of_regular_mass, _of_singular_mass, a, b)


def _of_regular_mass(a: Array, b: Array) -> PencilEig:
    w, u, v = device_eig_from_both_sides(jnp.linalg.solve(b, a))
    # A left vector z of B⁻¹A from geev gives u = B⁻ᴴz.
    u = jnp.linalg.solve(b.conj().T.astype(u.dtype), u)
    return PencilEig(w, u, v, jnp.zeros(w.shape, bool), jnp.asarray(False))


def _of_singular_mass(a: Array, b: Array) -> PencilEig:
    n = a.shape[0]
    eps = jnp.finfo(a.dtype).eps
    size_a, size_b = jnp.linalg.norm(a), jnp.linalg.norm(b)
    unit = jnp.where(size_a > 0, size_a, 1) / jnp.where(size_b > 0, size_b, 1)
    shifts = unit * jnp.asarray(_SHIFTS, unit.dtype)

    def condition(shift: Array) -> Array:
        sizes = jnp.linalg.svd(a - shift.astype(a.dtype) * b, compute_uv=False)
        return sizes[-1] / jnp.where(sizes[0] > 0, sizes[0], 1)

    conditions = jax.lax.map(condition, shifts)
    best = jnp.argmax(conditions)
    sigma = shifts[best].astype(a.dtype)
    singular = ~(conditions[best] > n * eps)
    shifted = jnp.where(singular, jnp.eye(n, dtype=a.dtype), a - sigma * b)
    c = jnp.linalg.solve(shifted, b)
    basis, inside, rank, rounds = _deflated(c)

    theta, z, y = device_eig_from_both_sides(inside)
    # Deflated eigenvalues are zero, whatever rounding makes of them.
    place = jnp.argsort(jnp.argsort(-jnp.abs(theta)))
    infinite = place >= rank
    theta = jnp.where(infinite, 1, theta)
    basis = basis.astype(y.dtype)

    def apply(_, x: Array) -> Array:
        # Restores the components in the deflated coordinates, where C is nilpotent.
        return c.astype(x.dtype) @ x / theta

    x = jax.lax.fori_loop(0, rounds, apply, basis @ y)
    x = x / jnp.where(infinite, 1, jnp.linalg.norm(x, axis=0)).astype(x.dtype)
    x = jnp.where(infinite, basis @ y, x)
    u = jnp.linalg.solve(shifted.conj().T.astype(z.dtype), basis @ z)
    w = jnp.where(infinite, jnp.nan, sigma.astype(theta.dtype) + 1 / theta)
    if not jnp.iscomplexobj(a):
        # The inverse swaps conjugate partners; restore geev's order.
        w, u, x = w.conj(), u.conj(), x.conj()
    return PencilEig(w, u, x, infinite, singular)


def _deflated(c: Inexact[Array, "n n"]):
    """Unitary V with `Vᴴ C V = [[C₁ 0], [* N]]`, C₁ regular and N nilpotent. Returns V,
    C₁ padded with zeros, the order of C₁, and the number of steps taken.

    Each step splits the null space off (Kublanovskaya 1966; Golub and Wilkinson 1976), by
    singular values: eigenvalues of a Jordan block at zero are as large as eps^(1/order).
    """
    n = c.shape[0]
    nothing = 10 * n * jnp.finfo(c.dtype).eps * jnp.linalg.norm(c)

    def split(state):
        basis, inside, rank, _, rounds = state
        _, sizes, vh = jnp.linalg.svd(inside)
        turn = vh.conj().T
        index = jnp.arange(n)
        left = jnp.sum((sizes > nothing) & (index < rank))
        lead = index < left
        inside = turn.conj().T @ inside @ turn
        inside = jnp.where(lead[:, None] & lead[None, :], inside, 0)
        return basis @ turn, inside, left, left < rank, rounds + 1

    eye = jnp.eye(n, dtype=c.dtype)
    state = eye, c, jnp.asarray(n), jnp.asarray(True), jnp.asarray(0)
    basis, inside, rank, _, rounds = jax.lax.while_loop(lambda s: s[3], split, state)
    return basis, inside, rank, rounds
