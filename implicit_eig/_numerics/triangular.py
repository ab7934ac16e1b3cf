"""Eigenvectors from a Schur form. The batch is the last axis."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Inexact

from .scaling import largest_part, times_real
from .turns import magnifier, negligible, square


class Triangular(NamedTuple):
    """`A = Q T Qᴴ`, T complex and upper triangular."""

    values: Complex[Array, "n b"]
    above: Complex[Array, "n n b"]  # T without its diagonal
    basis: Complex[Array, "n n b"]  # Q
    # Qᴴ Q* for a real A: its diagonal, subdiagonal and superdiagonal.
    conjugation: tuple[
        Complex[Array, "n b"], Complex[Array, "n b"], Complex[Array, "n b"]
    ]


def larger_root(
    half: Inexact[Array, "*n"], product: Inexact[Array, "*n"]
) -> Complex[Array, "*n"]:
    """The root x of larger modulus of `x² − 2 half x − product`; if the roots are
    conjugate, the one with positive imaginary part. The other one is `−product / x`."""
    inside = half * half + product
    if jnp.iscomplexobj(half):
        root = jnp.sqrt(inside)
        away = half.real * root.real + half.imag * root.imag < 0
        return half + jnp.where(away, -root, root)
    root = jnp.sqrt(jnp.abs(inside))
    real = inside >= 0
    x = half + jnp.where(real, jnp.where(half < 0, -root, root), 0)
    return jax.lax.complex(x, jnp.where(real, 0, root))


def quotient(x: Complex[Array, "*n"], y: Complex[Array, "*n"]) -> Complex[Array, "*n"]:
    """x / y if that can be represented, however small y is; zero if y is zero."""
    size = largest_part(y)
    inverse = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
    y = times_real(y, inverse)
    ratio = times_real(x * y.conj(), inverse)
    return times_real(ratio, 1 / jnp.where(size > 0, square(y), 1))


def triangular(
    t: Inexact[Array, "n n b"], q: Inexact[Array, "n n b"], cut: Bool[Array, "k b"]
) -> Triangular:
    """Makes a Schur form with blocks of at most two rows triangular, all blocks at once.

    A block `(a b; c d)` has the eigenvector `(λ − d, c)` for an eigenvalue λ, with a
    small residual if λ is the one farther from d.
    """
    n = len(t)
    flat = t.reshape(n * n, -1)
    diagonal, below, b = (
        flat[i :: n + 1][:k] for i, k in ((0, n), (n, n - 1), (1, n - 1))
    )
    a, c, d = diagonal[:-1], jnp.where(cut, 0, below), diagonal[1:]
    much = magnifier(t.real.dtype)
    root = larger_root((a - d) / 2 * much, (b * much) * (c * much))
    half = ((a - d) / 2).astype(root.dtype)
    b, c, d = (x.astype(root.dtype) for x in (b, c, d))
    norm = jnp.sqrt(jnp.where(cut, 1, square(root) + square(c * much)))
    cosine = jnp.where(cut, 1, jax.lax.complex(root.real / norm, root.imag / norm))
    sine = jnp.where(cut, 0, times_real(c * much, 1 / norm))
    # XLA may decide twice, and differently, whether a root is real or which one is
    # larger. It computes quotients once: from here on the root is that of the vector.
    cosine, sine, norm = jax.lax.optimization_barrier((cosine, sine, norm))
    root = times_real(cosine, norm)
    first, second = d + root / much, d - quotient(b * much, root) * c
    if not jnp.iscomplexobj(t):
        second = jnp.where(first.imag > 0, first.conj(), second)
    values = diagonal.astype(root.dtype)
    values = jnp.where(_above(cut, True), values, _above(first, 0))
    values = jnp.where(_below(cut, True), values, _below(second, 0))
    # Each block is rotated by (p, −q*; q, p*).
    p, q_ = cosine, sine
    turns = jnp.where(_below(cut, True), _above(p, 1), _below(p.conj(), 1))
    right = turns, _above(q_, 0), _below(-q_.conj(), 0)
    t, q = (_mixed(x.astype(root.dtype), 1, *right) for x in (t, q))
    t = _mixed(t, 0, *(x.conj() for x in right))
    # For close eigenvalues this entry is small, but rounding of the diagonal is not.
    inside = b * p.conj() ** 2 - c * q_.conj() ** 2 - 2 * half * (p * q_).conj()
    row, column = jnp.arange(n)[:, None, None], jnp.arange(n)[:, None]
    across = ~_above(cut, True)[:, None] & (column == row + 1)
    t = jnp.where(across, _above(inside, 0)[:, None], t)
    squares = p * p + q_ * q_
    twist = p * q_.conj() - q_ * p.conj()
    conjugation = (
        jnp.where(_below(cut, True), _above(squares.conj(), 1), _below(squares, 1)),
        _above(twist, 0),
        _below(twist, 0),
    )
    return Triangular(values, jnp.where(column > row, t, 0), q, conjugation)


def adjoint_of(schur: Triangular) -> Triangular:
    """`Aᴴ = (Q J) (J Tᴴ J) (Q J)ᴴ`, J the reversal: its eigenvalues stand in reverse."""
    above = schur.above.conj().swapaxes(0, 1)[::-1, ::-1]
    return schur._replace(
        values=schur.values[::-1].conj(), above=above, basis=schur.basis[:, ::-1]
    )


def _mixed(
    x: Complex[Array, "n n b"],
    axis: int,
    diagonal: Complex[Array, "n b"],
    below: Complex[Array, "n b"],
    above: Complex[Array, "n b"],
) -> Complex[Array, "n n b"]:
    """x with each row (`axis` 0) or column replaced by a combination of itself, the one
    after it and the one before it."""
    size = x.shape[axis]
    zero = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), zero], axis)
    before = jnp.concatenate(
        [zero, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis
    )
    diagonal, below, above = (
        jnp.expand_dims(y, 1 - axis) for y in (diagonal, below, above)
    )
    return x * diagonal + after * below + before * above


def _above(x: Array, fill) -> Array:
    """Puts a value per block at the first row of the block."""
    return jnp.pad(x, ((0, 1), (0, 0)), constant_values=fill)


def _below(x: Array, fill) -> Array:
    return jnp.pad(x, ((1, 0), (0, 0)), constant_values=fill)


class Vectors(NamedTuple):
    inside: Complex[Array, "n n b"]  # of T, X: upper triangular
    vectors: Complex[Array, "n n b"]  # Q X


def vectors_of(schur: Triangular) -> Vectors:
    """All vectors at once by back substitution, each scaled down when it grows.

    Works row by row from the last one: the part of X that is known is eliminated from all
    rows above, and its part of Q X is added.
    """
    values, above, basis, _ = schur
    n, dtype = len(values), values.real.dtype
    eps = float(jnp.finfo(dtype).eps)
    large = float(jnp.finfo(dtype).max) ** 0.125
    least = jnp.maximum(eps * largest_part(values), negligible(dtype))
    columns = jnp.concatenate([above, basis])
    index, row = jnp.arange(n)[:, None], jnp.arange(2 * n)[:, None, None]

    def step(count, x):
        i = n - 1 - count
        gap = values - jax.lax.dynamic_index_in_dim(values, i, 0)
        gap = jnp.where(largest_part(gap) <= least, least.astype(gap.dtype), gap)
        rest = jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False)
        new = jnp.where(index > i, quotient(rest, gap), 0)
        new = jnp.where(index == i, 1, new)
        grown = largest_part(new)
        scale = jnp.where(grown > large, 1 / jnp.where(grown > 0, grown, 1), 1)
        new = times_real(new, scale)
        column = jax.lax.dynamic_index_in_dim(columns, i, 1, keepdims=False)
        moved = times_real(x, scale) + column[:, None] * new
        return jnp.where(row == i, new, moved)

    start = jnp.zeros((2 * n, n, values.shape[-1]), values.dtype)
    x = jax.lax.fori_loop(0, n, step, start)
    return Vectors(x[:n], x[n:])


def conjugates(schur: Triangular, x: Vectors) -> Vectors:
    """For a real matrix: real vectors for real eigenvalues, conjugate ones for pairs.

    Vectors of tied eigenvalues differ by more than rounding if they are computed one by
    one. X is changed with them, or its inverse would belong to other vectors.
    """
    inside, vectors = x
    real, second = schur.values.imag == 0, schur.values.imag < 0
    # Both parts of a vector are eigenvectors, but one of them may be only rounding.
    imag = jnp.sum(vectors.real**2, axis=0) < jnp.sum(vectors.imag**2, axis=0)
    turn = jnp.where(real & imag, -1j, 1).astype(vectors.dtype)
    inside, vectors = inside * turn, vectors * turn
    mirrored = _mixed(inside.conj(), 0, *schur.conjugation)
    inside = jnp.where(real, (inside + mirrored) / 2, inside)
    inside = jnp.where(second, jnp.roll(mirrored, 1, axis=1), inside)
    plain = jax.lax.complex(vectors.real, jnp.zeros_like(vectors.real))
    vectors = jnp.where(real, plain, vectors)
    return Vectors(
        inside, jnp.where(second, jnp.roll(vectors, 1, axis=1).conj(), vectors)
    )


def duals_of(
    schur: Triangular, inside: Complex[Array, "n n b"]
) -> Complex[Array, "n n b"]:
    """`(Q X)⁻¹ = X⁻¹ Qᴴ`, by back substitution.

    For dependent vectors it is finite, but too large to be trusted: the diagonal of X is
    taken to be at least eps.
    """
    n, dtype = len(inside), inside.real.dtype
    size = jnp.sqrt(jnp.max(square(inside), axis=0))
    least = float(jnp.finfo(dtype).eps) * size
    row = jnp.arange(n)[:, None, None]

    def step(count, u):
        i = n - 1 - count
        column = jax.lax.dynamic_index_in_dim(inside, i, 1, keepdims=False)
        pivot = jax.lax.dynamic_index_in_dim(column, i, 0, keepdims=False)
        floor = jax.lax.dynamic_index_in_dim(least, i, 0, keepdims=False)
        pivot = jnp.where(square(pivot) < floor**2, floor.astype(pivot.dtype), pivot)
        new = jax.lax.dynamic_index_in_dim(u, i, 0, keepdims=False)
        new = quotient(new, pivot)
        moved = u - jnp.where(row < i, column[:, None], 0) * new
        return jnp.where(row == i, new, moved)

    return jax.lax.fori_loop(0, n, step, schur.basis.conj().swapaxes(0, 1))
