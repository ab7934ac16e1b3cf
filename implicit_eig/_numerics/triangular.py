"""Eigenvectors from a Schur form. The batch is the last axis."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Inexact

from .scaling import times_real
from .turns import square


class Triangular(NamedTuple):
    """`A = Q T Qᴴ`, T complex and upper triangular."""

    values: Complex[Array, "n b"]
    above: Complex[Array, "n n b"]  # T without its diagonal
    basis: Complex[Array, "n n b"]  # Q


def larger_root(
    half: Inexact[Array, "*n"], product: Inexact[Array, "*n"]
) -> Complex[Array, "*n"]:
    """The root x of `x² − 2 half x − product` of larger modulus; of two conjugate ones that
    with positive imaginary part. The other one is `−product / x`."""
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
    """x / y of moderate numbers; zero where y vanishes."""
    size = square(y)
    return times_real(
        x * y.conj(), jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
    )


def triangular(
    t: Inexact[Array, "n n b"], q: Inexact[Array, "n n b"], cut: Bool[Array, "k b"]
) -> Triangular:
    """A Schur form with blocks of at most two rows made triangular, all blocks at once.

    A block `(a b; c d)` has the vector `(λ − d, c)` for its eigenvalue λ, with a small
    residual if λ is the one farther from d.
    """
    n = len(t)
    flat = t.reshape(n * n, -1)
    diagonal, below, b = (
        flat[i :: n + 1][:k] for i, k in ((0, n), (n, n - 1), (1, n - 1))
    )
    a, c, d = diagonal[:-1], jnp.where(cut, 0, below), diagonal[1:]
    root = larger_root((a - d) / 2, b * c)
    c, d, product = (x.astype(root.dtype) for x in (c, d, b * c))
    first, second = d + root, d - quotient(product, root)
    if not jnp.iscomplexobj(t):
        second = jnp.where(first.imag > 0, first.conj(), second)
    inverse = 1 / jnp.sqrt(jnp.where(cut, 1, square(root) + square(c)))
    cosine = jnp.where(cut, 1, times_real(root, inverse))
    sine = jnp.where(cut, 0, times_real(c, inverse))
    values = diagonal.astype(root.dtype)
    values = jnp.where(_above(cut, True), values, _above(first, 0))
    values = jnp.where(_below(cut, True), values, _below(second, 0))
    # (cosine, −sine*; sine, cosine*) in each block.
    turns = jnp.where(_below(cut, True), _above(cosine, 1), _below(cosine.conj(), 1))
    down, up = _above(sine, 0), _below(-sine.conj(), 0)

    def turned(x):  # x times the blocks
        after = jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0)))
        before = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
        return x * turns + after * down + before * up

    t, q = turned(t.astype(root.dtype)), turned(q.astype(root.dtype))
    t = turned(t.conj().swapaxes(0, 1)).conj().swapaxes(0, 1)
    strict = jnp.triu(jnp.ones((n, n), bool), 1)[:, :, None]
    return Triangular(values, jnp.where(strict, t, 0), q)


def _above(x: Array, fill) -> Array:
    """What belongs to a block, at its first row."""
    return jnp.pad(x, ((0, 1), (0, 0)), constant_values=fill)


def _below(x: Array, fill) -> Array:
    return jnp.pad(x, ((1, 0), (0, 0)), constant_values=fill)


class Vectors(NamedTuple):
    inside: Complex[Array, "n n b"]  # of T, X: upper triangular
    vectors: Complex[Array, "n n b"]  # Q X


def vectors_of(schur: Triangular) -> Vectors:
    """By back substitution, all vectors at once, each divided by a number where it grows.

    A row at a time, from the last one: what is known of X is taken out of all rows above,
    and its part of Q X is added.
    """
    values, above, basis = schur
    n, dtype = len(values), values.real.dtype
    eps = float(jnp.finfo(dtype).eps)
    large = float(jnp.finfo(dtype).max) ** 0.125
    least = eps * jnp.maximum(
        jnp.max(jnp.sqrt(square(values)), axis=0),
        jnp.sqrt(jnp.max(square(above), axis=(0, 1))),
    )
    columns = jnp.concatenate([above, basis])
    index, row = jnp.arange(n)[:, None], jnp.arange(2 * n)[:, None, None]

    def step(count, x):
        i = n - 1 - count
        gap = values - jax.lax.dynamic_index_in_dim(values, i, 0)
        close = square(gap) <= least**2
        size = jnp.where(least > 0, least, 1).astype(gap.dtype)
        gap = jnp.where(close, size, gap)
        rest = jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False)
        new = jnp.where(index > i, quotient(rest, gap), 0)
        new = jnp.where(index == i, 1, new)
        grown = jnp.sqrt(square(new))
        scale = jnp.where(grown > large, 1 / jnp.where(grown > 0, grown, 1), 1)
        new = times_real(new, scale)
        column = jax.lax.dynamic_index_in_dim(columns, i, 1, keepdims=False)
        moved = times_real(x, scale) + column[:, None] * new
        return jnp.where(row == i, new, moved)

    start = jnp.zeros((2 * n, n, values.shape[-1]), values.dtype)
    x = jax.lax.fori_loop(0, n, step, start)
    return Vectors(x[:n], x[n:])


def duals_of(
    schur: Triangular, inside: Complex[Array, "n n b"]
) -> Complex[Array, "n n b"]:
    """`(Q X)⁻¹ = X⁻¹ Qᴴ`, by back substitution.

    Of dependent vectors it is finite, and too large to be trusted: the diagonal of X is
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
        # Diagonals of X are one, divided by real numbers.
        pivot = jnp.maximum(pivot.real, floor)
        new = jax.lax.dynamic_index_in_dim(u, i, 0, keepdims=False)
        new = times_real(new, 1 / pivot)
        moved = u - jnp.where(row < i, column[:, None], 0) * new
        return jnp.where(row == i, new, moved)

    return jax.lax.fori_loop(0, n, step, schur.basis.conj().swapaxes(0, 1))
