"""Numbers of any size, scaled exactly."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact


def times_real(
    x: Inexact[Array, "*n"], size: Float[Array, "*#n"]
) -> Inexact[Array, "*n"]:
    """`x · size`, part by part: nothing overflows on the way."""
    size = jnp.broadcast_to(size, jnp.broadcast_shapes(x.shape, jnp.shape(size)))
    if jnp.iscomplexobj(x):
        return jax.lax.complex(x.real * size, x.imag * size)
    return x * size


def largest_part(x: Inexact[Array, "*n"]) -> Float[Array, "*n"]:
    """|x| up to a factor of √2, for x of any size."""
    if jnp.iscomplexobj(x):
        return jnp.maximum(jnp.abs(x.real), jnp.abs(x.imag))
    return jnp.abs(x)


def power_of_two(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The power of two below x, such that its inverse is a normal number."""
    most = -jnp.finfo(x.dtype).minexp - 1
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(x) & (x > 0), x, 1))
    return jnp.ldexp(jnp.ones_like(x), jnp.clip(exponent - 1, -most, most))
