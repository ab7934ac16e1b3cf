"""Reflections and rotations of many vectors at once; the batch is the last axis."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact

from .scaling import largest_part, times_real


def square(x: Inexact[Array, "*n"]) -> Float[Array, "*n"]:
    """|x|², without the square root that `abs` of a complex number takes."""
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2


def magnifier(dtype) -> float:
    """A power of two: after multiplication by it, numbers from about one to far below
    have normal squares and products."""
    return 2.0 ** int(-0.4 * jnp.finfo(dtype).minexp)


def negligible(dtype) -> float:
    """The bound above which magnified squares are accurate to rounding."""
    info = jnp.finfo(dtype)
    return float(info.tiny) ** 0.5 / float(info.eps) / magnifier(dtype)


def _unit(
    x: Inexact[Array, "w b"],
) -> tuple[Inexact[Array, "w b"], Bool[Array, " b"]]:
    """x over its norm, and whether that is not negligible."""
    dtype = x.real.dtype
    x = x * magnifier(dtype)
    norm = jnp.sqrt(jnp.sum(square(x), axis=0))
    there = norm > negligible(dtype) * magnifier(dtype)
    norm = jnp.where(there, norm, 1)
    # Quotients are computed once and kept: what is made of them later does not read the
    # matrix again, for which XLA would have to keep a copy.
    if jnp.iscomplexobj(x):
        return jax.lax.complex(x.real / norm, x.imag / norm), there
    return x / norm, there


def phase_of(x: Inexact[Array, " b"]) -> Inexact[Array, " b"]:
    """x / |x|; 1 for zero."""
    if not jnp.iscomplexobj(x):
        return jnp.where(x < 0, -1, 1).astype(x.dtype)
    # Squares of the parts themselves may underflow, one of them or both.
    part = largest_part(x)
    there = part >= float(jnp.finfo(part.dtype).tiny)
    x = times_real(x, 1 / jnp.where(there, part, 1))
    size = jnp.sqrt(square(x))
    return jnp.where(there, times_real(x, 1 / jnp.where(there, size, 1)), 1)


def reflector(
    x: Inexact[Array, "w b"], first: Bool[Array, "w #b"]
) -> tuple[Inexact[Array, "w b"], Inexact[Array, "w b"]]:
    """v and `g v` of the reflection `1 − g v vᴴ` that maps x to a multiple of e, the unit
    vector given by `first`. Zero wherever x is, except there."""
    unit, there = _unit(x)
    head = jnp.sum(jnp.where(first, unit, 0), axis=0)
    v = jnp.where(first, unit + phase_of(head), unit)
    g = jnp.where(there, 2 / jnp.sum(square(v), axis=0), 0)
    return v, times_real(v, g)


class Reflection(NamedTuple):
    """`1 − g v vᴴ` on three rows or columns; maps a vector to a multiple of e₁."""

    v: Inexact[Array, "3 b"]
    scaled: Inexact[Array, "3 b"]  # g v

    @classmethod
    def of(cls, x: Inexact[Array, "3 b"]) -> "Reflection":
        return cls(*reflector(x, jnp.arange(len(x))[:, None] == 0))

    def rows(self, x: Inexact[Array, "3 p b"]) -> Inexact[Array, "3 p b"]:
        # Sums of few terms, which XLA fuses into the kernel that uses them.
        image = sum(self.v[i].conj() * x[i] for i in range(len(self.v)))
        return x - self.scaled[:, None] * image

    def columns(self, x: Inexact[Array, "m 3 b"]) -> Inexact[Array, "m 3 b"]:
        image = sum(x[:, i] * self.v[i] for i in range(len(self.v)))
        return x - image[:, None] * self.scaled.conj()  # pyright: ignore[reportIndexIssue]


class Rotation(NamedTuple):
    """`(c, s; −s*, c)` on two rows, or its inverse on two columns."""

    c: Float[Array, " b"]
    s: Inexact[Array, " b"]

    @classmethod
    def of(cls, x: Inexact[Array, "2 b"]) -> "Rotation":
        unit, there = _unit(x)
        phase = phase_of(unit[0])
        c = jnp.where(there, (unit[0] * phase.conj()).real, 1)
        s = phase * unit[1].conj()
        return cls(c, jnp.where(there, s, 0))

    def rows(self, x: Inexact[Array, "2 p b"]) -> Inexact[Array, "2 p b"]:
        across = jnp.stack([self.s, -self.s.conj()])[:, None]
        return times_real(x, self.c) + across * x[::-1]

    def columns(self, x: Inexact[Array, "m 2 b"]) -> Inexact[Array, "m 2 b"]:
        across = jnp.stack([self.s.conj(), -self.s])
        return times_real(x, self.c) + across * x[:, ::-1]
