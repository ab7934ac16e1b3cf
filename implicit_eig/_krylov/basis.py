"""The vectors of a Krylov space: their storage, and the arithmetic of a basis.

A complex vector is stored as two real rows. On CPUs, XLA's products of real row-major
bases run at BLAS speed, complex ones 3 to 6 times slower.

A vector may be a pytree of arrays, so that a part of order n stays sharded over devices
next to a small one that every device holds.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Inexact, Int, PyTree

from .._kernels import kernel


# Least width of the pieces in which a basis is rotated: products of this width run at
# full speed.
_PIECE = 4096


def to_rows(x: PyTree[Inexact[Array, " _n"]]) -> PyTree[Float[Array, "c _parts _size"]]:
    def rows(x):
        parts = jax.device_count()
        parts = parts if x.size % parts == 0 else 1
        rows = jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x[None]
        return rows.reshape(-1, parts, x.size // parts)

    return jtu.tree_map(rows, x)


def from_rows(
    x: PyTree[Float[Array, "c *_m _parts _size"]],
) -> PyTree[Inexact[Array, "*_m _n"]]:
    def vectors(x):
        x = x.reshape(*x.shape[:-2], -1)
        return jax.lax.complex(x[0], x[1]) if x.shape[0] == 2 else x[0]

    return jtu.tree_map(vectors, x)


def vector_of(
    basis: PyTree[Float[Array, "m1 c _parts _size"]], j: Int[Array, ""]
) -> PyTree[Float[Array, "c _parts _size"]]:
    return jtu.tree_map(
        lambda b: jax.lax.dynamic_index_in_dim(
            b, j, keepdims=False, allow_negative_indices=False
        ),
        basis,
    )


def with_vector(
    basis: PyTree[Float[Array, "m1 c _parts _size"]],
    j: Int[Array, ""],
    v: PyTree[Float[Array, "c _parts _size"]],
) -> PyTree[Float[Array, "m1 c _parts _size"]]:
    """The basis with v in place of its vector j."""
    return jtu.tree_map(
        lambda b, v: jax.lax.dynamic_update_index_in_dim(
            b, v, j, 0, allow_negative_indices=False
        ),
        basis,
        v,
    )


def coefficients(
    basis: PyTree[Float[Array, "m1 c _parts _size"]],
    w: PyTree[Float[Array, "c _parts _size"]],
) -> Inexact[Array, " m1"]:
    """⟨v_i, w⟩ for every basis vector."""

    def part(basis, w):
        m1, c, *_ = basis.shape
        rows, w = basis.reshape(m1 * c, -1), w.reshape(c, -1)
        if c == 1:
            return rows @ w[0]
        with_real, with_imag = ((rows @ x).reshape(m1, 2) for x in (w[0], w[1]))
        return jax.lax.complex(
            with_real[:, 0] + with_imag[:, 1], with_imag[:, 0] - with_real[:, 1]
        )

    return _sum(jtu.tree_map(part, basis, w))


def combination(
    h: Inexact[Array, " m1"], basis: PyTree[Float[Array, "m1 c _parts _size"]]
) -> PyTree[Float[Array, "c _parts _size"]]:
    """Σ h_i v_i."""

    def part(basis):
        m1, c, *shape = basis.shape
        rows = basis.reshape(m1 * c, -1)
        if c == 1:
            return (h @ rows).reshape(c, *shape)
        real = jnp.stack([h.real, -h.imag], axis=1).reshape(-1)
        imag = jnp.stack([h.imag, h.real], axis=1).reshape(-1)
        return (jnp.stack([real, imag]) @ rows).reshape(c, *shape)

    return jtu.tree_map(part, basis)


def combinations(
    h: Inexact[Array, "m1 k"], basis: PyTree[Float[Array, "m1 c _parts _size"]]
) -> PyTree[Float[Array, "c k _parts _size"]]:
    """Σ h_ij v_i for every j."""
    return jax.vmap(combination, (1, None), 1)(h, basis)


@kernel("project", in_place=2)
def project(
    used: Int[Array, ""],
    basis: PyTree[Float[Array, "m1 c _parts _size"]],
    w: PyTree[Float[Array, "c _parts _size"]],
    image: PyTree[Float[Array, "c _parts _size"]] | None = None,
) -> tuple[PyTree[Float[Array, "c _parts _size"]], Inexact[Array, " m1"], Array]:
    """The rest w − Σ h_i v_i, where h_i = ⟨v_i, w⟩, or ⟨v_i, `image`⟩ if an image of w is
    given; the h_i; and the norm of the rest. Unused vectors are zero (or anything, for
    the kernel, which leaves them out)."""
    del used
    h = coefficients(basis, w if image is None else image)
    rest = minus(w, combination(h, basis))
    return rest, h, norm(rest)


@kernel("rotate", in_place=2)
def rotate(
    p: Int[Array, ""],
    q: Inexact[Array, "m1 m1"],
    basis: Float[Array, "m1 c parts size"],
) -> Float[Array, "m1 c parts size"]:
    """The vectors Σ_i q_ij v_i, in the memory of the old ones plus about one vector.

    The first p columns of q rotate all vectors but the last, the next one picks the last,
    and the others are zero. (The kernel leaves the vectors after those undefined.)

    Works piece by piece, on a piece of every part at once. There are as many parts as
    devices: if n is sharded over them, each device holds one part, and no piece leaves
    it.
    """
    m1, c, parts, size = basis.shape
    del p
    if c == 2:
        real = jnp.stack([q.real, -q.imag], axis=1).reshape(2 * m1, m1)
        imag = jnp.stack([q.imag, q.real], axis=1).reshape(2 * m1, m1)
        q = jnp.stack([real, imag], axis=2).reshape(2 * m1, 2 * m1)
    width = min(size, max(_PIECE, size // (2 * m1)))

    def turn(start, width, basis):
        old = jax.lax.dynamic_slice_in_dim(basis, start, width, axis=3)
        new = (q.T @ old.reshape(m1 * c, parts * width)).reshape(old.shape)
        return jax.lax.dynamic_update_slice_in_dim(basis, new, start, axis=3)

    basis = jax.lax.fori_loop(
        0, size // width, lambda i, b: turn(i * width, width, b), basis
    )
    if size % width:
        basis = turn(size - size % width, size % width, basis)
    return basis


def _sum(tree: PyTree[Array]) -> Array:
    return jtu.tree_reduce(jnp.add, tree)


def inner(x: PyTree[Array], y: PyTree[Array]) -> Float[Array, ""]:
    """Re ⟨x, y⟩."""
    return _sum(jtu.tree_map(lambda x, y: jnp.sum(x * y), x, y))


def norm(x: PyTree[Float[Array, "c _parts _size"]]) -> Float[Array, ""]:
    return jnp.sqrt(inner(x, x))


def scaled(x: PyTree[Array], size: Array) -> PyTree[Array]:
    return jtu.tree_map(lambda x: x / size, x)


def minus(x: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
    return jtu.tree_map(jnp.subtract, x, y)


def random_vector(
    shape: tuple[int, ...], dtype, seed: Int[Array, ""]
) -> Float[Array, "..."]:
    """Numbers between -1 and 1 from a hash of their indices (Wellons' lowbias32).

    `jax.random` takes longer to compile than the rest of a Krylov step, for a direction
    that most runs never need.
    """
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        index = index * jnp.uint32(shape[axis])
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    x = index + jnp.uint32(0x9E3779B9) * (seed.astype(jnp.uint32) + 1)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    x = x ^ (x >> 16)
    return x.astype(dtype) / jnp.asarray(2**31, dtype) - 1


def default_start(n: int, dtype) -> Inexact[Array, " n"]:
    """A fixed random vector, so that runs are reproducible."""
    return _fixed((n,), dtype)


def random_pair(n: int, dtype) -> Inexact[Array, "n 2"]:
    """Two independent random vectors, the same ones each time. (One and its mirror image
    are not enough: for these xᵀAy = yᵀAx where A − Aᵀ is its own mirror image.)"""
    return _fixed((n, 2), dtype)


def _fixed(shape: tuple[int, ...], dtype) -> Inexact[Array, "..."]:
    real = jnp.finfo(dtype).dtype
    parts = [random_vector(shape, real, jnp.asarray(seed)) for seed in (0, 1)]
    is_real = not jnp.issubdtype(dtype, jnp.complexfloating)
    return parts[0] if is_real else jax.lax.complex(*parts)


def norm_estimate(mv: Callable[[Array], Array], n: int, dtype) -> Float[Array, ""]:
    """A rough estimate of ‖A‖: how much A stretches an average vector."""
    random = default_start(n, dtype)
    return jnp.linalg.norm(mv(random)) / jnp.linalg.norm(random)


def start_vector(v0: Inexact[Array, " n"] | None, n: int, dtype) -> Inexact[Array, " n"]:
    """`v0` plus a random part of relative size `eps^(1/6)`. It brings modes without a
    component in `v0` (of another symmetry, in another block, or because `v0` is a mode
    itself) into the Krylov space from the first step. If it were smaller, they would not
    show before worse ones converge; if larger, it would spoil a good `v0`."""
    random = default_start(n, dtype)
    if v0 is None:
        return random
    # The squares of its entries may underflow.
    v0 = v0.astype(dtype)
    largest = jnp.max(jnp.abs(v0))
    v0 = v0 / jnp.where(largest > 0, largest, 1).astype(dtype)
    part = jnp.finfo(dtype).eps ** (1 / 6) * jnp.linalg.norm(v0) / jnp.linalg.norm(random)
    return v0 + part.astype(dtype) * random
