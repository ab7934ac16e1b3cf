"""Reduces many small matrices at once to Hessenberg form.

The batch is the last axis, so that all arithmetic is elementwise in it: an operation is
one kernel for any number of matrices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from .scaling import times_real
from .turns import reflector, square


def balanced(
    a: Inexact[Array, "n n b"],
) -> tuple[Inexact[Array, "n n b"], Float[Array, "n b"]]:
    """`D⁻¹ A D` and D, powers of two, such that rows and columns are about equally large.

    Sizes are 2-norms of rows and columns including the diagonal, so that rounding below
    a triangular matrix is not taken for data (James, Langou & Lowery 2014). All scales
    change at the same time, by half of what would make a row as large as its column,
    since its neighbours change too. Sizes within a factor of 4 are left alone.
    """
    dtype = a.real.dtype
    most = -jnp.finfo(dtype).minexp // 8

    def step(state):
        # The last wanted scales are read from memory, both for A and for D: if XLA
        # computes a number twice, it need not round it in the same way.
        a, exponent, wanted, count = state
        change = jnp.ldexp(jnp.ones_like(a[0].real), wanted - exponent)
        a = times_real(times_real(a, change[None]), 1 / change[:, None])
        rows, columns = (jnp.sum(square(a), axis=axis) for axis in (1, 0))
        there = (rows > 0) & (columns > 0)
        ratio = jnp.log2(jnp.where(there, rows, 1)) - jnp.log2(
            jnp.where(there, columns, 1)
        )
        moved = wanted + jnp.round(ratio / 8).astype(wanted.dtype)
        return a, wanted, jnp.clip(moved, -most, most), count + 1

    def unbalanced(state):
        _, exponent, wanted, count = state
        return (count == 0) | (jnp.any(wanted != exponent) & (count < 20))

    start = jnp.zeros_like(a[0], dtype=jnp.int32)
    a, exponent, *_ = jax.lax.while_loop(unbalanced, step, (a, start, start, 0))
    return a, jnp.ldexp(jnp.ones_like(exponent, dtype=dtype), exponent)


def hessenberg(a: Inexact[Array, "n n b"], pad: int) -> Inexact[Array, "m p b"]:
    """H, padded by `pad` rows and columns of zeros, stacked on Q, where `A = Q H Qᴴ`."""
    n = a.shape[0]
    q = jnp.broadcast_to(jnp.eye(n, dtype=a.dtype)[:, :, None], a.shape)
    grown = ((0, pad), (0, pad), (0, 0))
    hq = jnp.concatenate([jnp.pad(a, grown), jnp.pad(q, ((0, 0), *grown[1:]))])
    row, column = jnp.arange(2 * n + pad)[:, None], jnp.arange(n + pad)[:, None]

    def step(k, hq):
        x = jax.lax.dynamic_index_in_dim(hq, k, 1, keepdims=False)
        x = jnp.where((row > k) & (row < n), x, 0)
        v, scaled = reflector(x, row == k + 1)
        hq = hq - scaled[:, None] * jnp.sum(v.conj()[:, None] * hq, axis=0)
        v, scaled = v[: n + pad], scaled[: n + pad]
        hq = hq - jnp.sum(hq * v, axis=1)[:, None] * scaled.conj()
        done = ((row > k + 1) & (row < n))[:, None] & (column == k)
        return jnp.where(done, 0, hq)

    return jax.lax.fori_loop(0, n - 2, step, hq) if n > 2 else hq
