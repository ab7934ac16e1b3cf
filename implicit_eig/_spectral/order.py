"""Eigenvalues in the order of a selection, as far as their accuracy tells."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Int

from .which import AbstractSelection


class Order(eqx.Module):
    """A permutation of eigenvalues, best first, conjugate pairs kept together."""

    permutation: Int[Array, " m"]
    second: Bool[Array, " m"]  # in permuted order: partner of the one before


def order(
    selection: AbstractSelection,
    eigenvalues: Complex[Array, " m"],
    overlaps: Float[Array, " m"] | None,
    is_real: bool,
    accuracy: Float[Array, " m"],
) -> Order:
    """Sorts by key. Keys that the `accuracy` of their eigenvalues cannot tell apart (±λ
    under "LM", an imaginary spectrum under "LR") are sorted by real part, then by
    imaginary part, the largest first, so that rounding decides nothing. In a conjugate
    pair of a real operator, the better one comes first, the one with positive imaginary
    part if their keys are equal, and nothing comes between them.

    The key of an eigenvalue is an interval. Its place is the number of those that are
    certainly better: two that can be told apart never swap, however many lie between
    them (Fishburn's interval orders).

    For a real operator the eigenvalues must come as LAPACK's `geev` returns them,
    partners side by side. NaN sorts last.
    """
    index, seen = jnp.arange(eigenvalues.size), selection.seen(eigenvalues)
    lowest, highest = _intervals(selection, eigenvalues, overlaps, is_real, accuracy)
    first = behind = jnp.zeros_like(index)
    if is_real:
        # Pairs are recognised by position: geev puts the positive imaginary part first,
        # possibly that of 1 / (λ − σ) while λ is what is `seen`.
        up, down = eigenvalues.imag > 0, eigenvalues.imag < 0

        def partner(x: Array) -> Array:
            return jnp.where(up, jnp.roll(x, -1), jnp.where(down, jnp.roll(x, 1), x))

        better = lowest > partner(highest)
        behind = (partner(better) | (~better & (seen.imag < 0))).astype(index.dtype)
        lowest, highest = (jnp.maximum(x, partner(x)) for x in (lowest, highest))
        seen = jnp.where(down, jnp.roll(seen, 1), seen)
        first = index - down.astype(index.dtype)
    place = jnp.sum(lowest[None, :] > highest[:, None], axis=1, dtype=index.dtype)
    # If real parts are equal up to rounding, imaginary parts decide.
    tilted = seen.real + jnp.finfo(seen.dtype).eps ** 0.5 * seen.imag
    _, _, first, _, permutation = jax.lax.sort(
        (place, -tilted, first, behind, index), num_keys=4
    )
    second = (first[1:] == first[:-1]) & is_real
    return Order(permutation, jnp.concatenate([jnp.zeros(1, bool), second]))


def surely_worse(
    selection: AbstractSelection,
    eigenvalues: Complex[Array, " m"],
    wanted: Bool[Array, " m"],
    is_real: bool,
    accuracy: Float[Array, " m"],
) -> Bool[Array, " m"]:
    """Which eigenvalues have smaller keys than all `wanted` ones, as far as their
    `accuracy` tells. (A selection with a target has no such order.)"""
    lowest, highest = _intervals(selection, eigenvalues, None, is_real, accuracy)
    return highest < jnp.min(jnp.where(wanted, lowest, jnp.inf))


def _intervals(
    selection: AbstractSelection,
    eigenvalues: Complex[Array, " m"],
    overlaps: Float[Array, " m"] | None,
    is_real: bool,
    accuracy: Float[Array, " m"],
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """The least and the largest key that an eigenvalue may have: at itself, or moved by
    its `accuracy` in four directions."""
    around = jnp.asarray([0, 1, -1, 1j, -1j], eigenvalues.dtype)[:, None]
    near = eigenvalues[None, :] + around * accuracy.astype(around.dtype)[None, :]
    if overlaps is not None:
        # A vector is at best as accurate as its eigenvalue, relative to all of them.
        size = jnp.max(jnp.where(jnp.isnan(eigenvalues), 0, jnp.abs(eigenvalues)))
        size = jnp.where(size > 0, size, 1)
        change = (around.real + around.imag) * (accuracy / size)[None, :]
        overlaps = (overlaps[None, :] + change).ravel()
    keys = selection.keys(near.ravel(), overlaps, is_real).reshape(near.shape)
    keys = jnp.where(jnp.isnan(keys), -jnp.inf, keys)
    return jnp.min(keys, axis=0), jnp.max(keys, axis=0)
