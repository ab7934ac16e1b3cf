"""A = Z D Z⁻¹ with D block-diagonal in clusters of eigenvalues: the rule for X = I.

A diagonal D splits nearly defective eigenvalues, and Z is then ill-conditioned. Here
eigenvalues that cannot be told apart stay together in one upper triangular block, and
divisions are only by differences between blocks. Functions of A, and their derivatives,
follow from those of the blocks, and are right at repeated and defective eigenvalues.

A partition into clusters is a symmetric n×n matrix `same`: true if two eigenvalues share
a cluster.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Inexact

from .._ad import root
from .._operator import complex_dtype


Same = Bool[Array, "n n"]

# Bounds as powers of eps, level by level: how far apart eigenvalues of different clusters
# must be and which sep two clusters must have, relative to max|λ|, and how large their
# projectors may become. The first level leaves second derivatives nearly all digits; the
# next one is tried if its blocks are too large for the function.
_GAP_POWERS = (0.1, 0.2, 0.3, 0.4)
_SEP_POWERS = (0.1, 0.25, 0.4, 0.6)
_GROWTH_POWERS = (-1 / 6, -1 / 4, -1 / 3, -0.42)


class BlockDiagonal(NamedTuple):
    """`A = right @ blocks @ left`, `left @ right = I`; blocks are upper triangular."""

    right: Complex[Array, "n n"]
    blocks: Complex[Array, "n n"]
    left: Complex[Array, "n n"]


class Partition(NamedTuple):
    """T R = R D with D confined to the clusters `same`, and R⁻¹."""

    same: Same
    r: Complex[Array, "n n"]
    d: Complex[Array, "n n"]
    left: Complex[Array, "n n"]


# Level, partition, and what `fit` said of it.
_State = tuple[Array, Partition, Array, Array]


def schur(
    a: Inexact[Array, "n n"],
) -> tuple[Complex[Array, "n n"], Complex[Array, "n n"]]:
    """The complex Schur form (Q, T), without derivative. By LAPACK, on the CPU only."""
    a = jax.lax.stop_gradient(a).astype(complex_dtype(a.dtype))
    t, q = jax.lax.linalg.schur(a)
    return q, jnp.triu(t)


def _separate(
    t: Complex[Array, "n n"], same: Same
) -> tuple[Complex[Array, "n n"], Complex[Array, "n n"]]:
    """(R, D) with T R = R D: D block-diagonal, R unit upper triangular.

    Off the diagonal, R is zero where D is not, so clusters need not be contiguous and T
    is not reordered. Column j is one triangular system: its unknowns are the entries of
    R in rows of other clusters, and those of D in rows of its own cluster
    (Bavely and Stewart 1979, without their exchanges).
    """
    n = t.shape[-1]
    eye, index = jnp.eye(n, dtype=t.dtype), jnp.arange(n)

    def column(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        r, d = carry
        above, own = index < j, same[:, j]
        system = jnp.where(own, -r, t - t[j, j] * eye)
        system = jnp.where(above[:, None] & above, system, eye)
        x = _solve_upper(system, jnp.where(above, -t[:, j], 0))
        r = r.at[:, j].set(jnp.where(above & ~own, x, eye[:, j]))
        return r, d.at[:, j].set(jnp.where(above & own, x, d[:, j]))

    return jax.lax.fori_loop(0, n, column, (eye, jnp.diag(jnp.diagonal(t))))


def _solve_upper(system: Array, x: Array, **options: bool) -> Array:
    return jax.scipy.linalg.solve_triangular(system, x, lower=False, **options)


def partitioned(t: Complex[Array, "n n"], same: Same) -> Partition:
    r, d = _separate(t, same)
    left = _solve_upper(r, jnp.eye(r.shape[-1], dtype=r.dtype), unit_diagonal=True)
    return Partition(same, r, d, left)


def _solve_across(
    d: Complex[Array, "n n"], g: Complex[Array, "n n"], same: Same
) -> Complex[Array, "n n"]:
    """Y D − D Y = G across clusters, Y = G inside them, for upper triangular D."""
    n = d.shape[-1]
    eye, index = jnp.eye(n, dtype=d.dtype), jnp.arange(n)

    def column(j: Array, y: Array) -> Array:
        own = same[:, j]
        right = g[:, j] - y @ jnp.where(index < j, d[:, j], 0)
        system = jnp.where(own[:, None] | own, eye, d[j, j] * eye - d)
        x = _solve_upper(system, jnp.where(own, 0, right))
        return y.at[:, j].set(jnp.where(own, 0, x))

    def blocks() -> Array:
        return jax.lax.fori_loop(0, n, column, jnp.zeros_like(g))

    def eigenvalues() -> Array:
        values = jnp.diagonal(d)
        return g / jnp.where(same, 1, values[None, :] - values[:, None])

    y = jax.lax.cond(jnp.any(same & ~jnp.eye(n, dtype=bool)), blocks, eigenvalues)
    return jnp.where(same, g, y)


def block_diagonal(
    a: Inexact[Array, "n n"], q: Complex[Array, "n n"], partition: Partition
) -> BlockDiagonal:
    """From A = Q T Qᴴ and T R = R D, differentiable in both modes and to any order."""
    same, r, d, left = partition
    found = BlockDiagonal(q @ r, d, left @ q.conj().T)
    return _block_diagonal_root(found, a, same=same)


@root
def _block_diagonal_root(found, _, a, t_a, *, same):
    """A Z = Z D, W Z = I, with D confined to the clusters.

    With G = WȦZ the tangents are Ḋ = G inside clusters and Ż = Z Y, Ẇ = −Y W, where
    Y D − D Y = G across them. The basis of a cluster, and its motion inside the cluster,
    are arbitrary, and no function of A depends on them.
    """
    del a
    z, d, w = found
    g = w @ t_a.astype(z.dtype) @ z
    known = jax.lax.stop_gradient(d)
    # U Dᵀ − Dᵀ U = G is the same equation for Uᵀ, with the opposite sign.
    sign = jnp.where(same, 1, -1).astype(g.dtype)
    y = jax.lax.custom_linear_solve(
        lambda y: jnp.where(same, y, y @ d - d @ y),
        jnp.where(same, 0, g),
        lambda _, g: _solve_across(known, g, same),
        lambda _, g: sign * _solve_across(known, g.T, same).T,
    )
    return BlockDiagonal(z @ y, jnp.where(same, g, 0), -y @ w)


def _connected(links: Same) -> Same:
    """The connected components of a symmetric graph."""
    n = links.shape[-1]

    def spread(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        label, _ = carry
        least = jnp.min(jnp.where(links, label[None, :], n), axis=1)
        return jnp.minimum(least, label), jnp.any(least < label)

    start = jnp.arange(n), jnp.array(True)
    label, _ = jax.lax.while_loop(lambda carry: carry[1], spread, start)
    return label[:, None] == label[None, :]


def projector_norms(partition: Partition) -> Float[Array, " n"]:
    """‖P_C‖_F of the spectral projector of each index's cluster."""
    same, r, _, left = partition
    gram = (r.conj().T @ r) * (left @ left.conj().T).T
    rows = jnp.sum(jnp.where(same, gram.real, 0), axis=1)
    return jnp.sqrt(jnp.sum(jnp.where(same, rows, 0), axis=1))


def inverse_separations(partition: Partition) -> Float[Array, "n n"]:
    """|Y| for right sides of modulus one and random phase: about 1/sep for two clusters.

    Between two eigenvalues this is 1/gap; between non-normal blocks it is larger.
    """
    same, _, d, _ = partition
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, size=d.shape)
    g = jnp.asarray(np.exp(1j * phases), d.dtype)
    return jnp.where(same, 0, jnp.abs(_solve_across(d, g, same)))


def _distances(t: Complex[Array, "n n"]) -> Float[Array, "n n"]:
    values = jnp.diagonal(t)
    return jnp.abs(values[:, None] - values[None, :])


def _merged(
    t: Complex[Array, "n n"],
    same: Same,
    may: Same,
    sep: Float[Array, ""],
    growth: Float[Array, ""],
) -> Partition:
    """Joins clusters that are not well separated, as far as they `may` be joined.

    Two clusters whose sep is below `sep` are joined, and a cluster whose projector is
    larger than `growth` is joined to its nearest neighbour, until there are none.
    """
    distance = _distances(t)

    def step(carry: tuple[Same, Partition, Array]) -> tuple[Same, Partition, Array]:
        same, _, _ = carry
        now = partitioned(t, same)
        across = may & ~same
        # Written so that NaN, from an overflow, counts as close.
        close = across & ~(inverse_separations(now) * sep <= 1)
        number = jnp.sum(same, axis=1).astype(distance.dtype)
        large = ~(projector_norms(now) <= growth * jnp.sqrt(number))
        nearest = jnp.min(jnp.where(across, distance, jnp.inf), axis=1)
        nearest = jnp.min(jnp.where(same, nearest, jnp.inf), axis=1)
        close = close | (across & large[:, None] & (distance <= nearest[:, None]))
        joined = _connected(same | close | close.T)
        return joined, now, jnp.any(joined != same)

    start = same, Partition(same, t, t, t), jnp.array(True)
    return jax.lax.while_loop(lambda carry: carry[2], step, start)[1]


def cluster(
    t: Complex[Array, "n n"],
    fit: Callable[[Partition], tuple[Float[Array, " n"], Bool[Array, " n"]]],
) -> tuple[Partition, Float[Array, " n"], Bool[Array, " n"]]:
    """A partition whose blocks are well separated and suit the function.

    `fit` returns for each index what the function needs to know about its cluster, and
    whether the cluster suits it. Larger clusters have better conditioned bases, but are
    harder for the function. So clusters begin large, and those that do not suit are
    divided again, with less demanding bounds. Also returns the last results of `fit`.
    """
    n = t.shape[-1]
    distance = _distances(t)
    eps = float(jnp.finfo(t.dtype).eps)
    size = jnp.max(jnp.abs(jnp.diagonal(t)))
    powers = np.array([_GAP_POWERS, _SEP_POWERS, _GROWTH_POWERS])
    gaps, seps, growths = jnp.asarray(eps**powers, distance.dtype)

    def refine(state: _State) -> _State:
        level, now, _, fits = state
        may = now.same & ~fits[:, None]
        links = now.same & (fits[:, None] | (distance <= gaps[level] * size))
        now = _merged(t, _connected(links), may, seps[level] * size, growths[level])
        return level + 1, now, *fit(now)

    whole = Partition(jnp.ones((n, n), bool), t, t, t)
    start = 0, whole, jnp.zeros(n, distance.dtype), jnp.zeros(n, bool)
    _, partition, fitted, fits = jax.lax.while_loop(
        lambda state: (state[0] < len(_GAP_POWERS)) & ~jnp.all(state[3]),
        refine,
        start,  # pyright: ignore[reportArgumentType]
    )
    return partition, fitted, fits
