"""Regions of the complex plane, by their boundaries."""

import abc
import itertools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex


class AbstractRegion(eqx.Module):
    """A bounded region. A subclass says what is inside, and gives nodes and weights of a
    quadrature along its boundary, anticlockwise: `∮ f dz ≈ Σ w f(z)`."""

    @abc.abstractmethod
    def contains(self, z: Complex[Array, " *k"]) -> Bool[Array, " *k"]: ...

    @abc.abstractmethod
    def quadrature(
        self, num_nodes: int
    ) -> tuple[Complex[Array, " q"], Complex[Array, " q"]]:
        """Nodes and weights."""

    @abc.abstractmethod
    def scale(self) -> tuple[Complex[Array, ""], Array]:
        """A centre and a radius, about: moments are taken in these units."""


class Ellipse(AbstractRegion):
    """Half-axes `a` and `b`, the first one turned by `angle` from the real axis."""

    center: ArrayLike
    a: ArrayLike
    b: ArrayLike
    angle: ArrayLike = 0.0

    def __check_init__(self):
        for name in ("a", "b"):
            size = getattr(self, name)
            if isinstance(size, int | float) and not size > 0:
                raise ValueError(f"`{name}` of an ellipse must be positive; got {size}.")

    def _turn(self) -> Array:
        return jnp.exp(1j * jnp.asarray(self.angle, float))

    def contains(self, z):
        w = (z - jnp.asarray(self.center)) * self._turn().conj()
        return (w.real / self.a) ** 2 + (w.imag / self.b) ** 2 < 1

    def quadrature(self, num_nodes):
        # The trapezoidal rule, which converges geometrically.
        t = 2 * np.pi * (np.arange(num_nodes) + 0.5) / num_nodes
        a, b = jnp.asarray(self.a, float), jnp.asarray(self.b, float)
        z = (a * np.cos(t) + 1j * b * np.sin(t)) * self._turn()
        dz = (-a * np.sin(t) + 1j * b * np.cos(t)) * self._turn()
        return self.center + z, dz * (2 * np.pi / num_nodes)

    def scale(self):
        size = jnp.maximum(jnp.asarray(self.a, float), jnp.asarray(self.b, float))
        return jnp.asarray(self.center, complex), size


class Disk(Ellipse):
    """All within `radius` of `center`."""

    def __init__(self, center: ArrayLike, radius: ArrayLike):
        if isinstance(radius, int | float) and not radius > 0:
            raise ValueError(f"`radius` must be positive; got {radius}.")
        self.center, self.a, self.b, self.angle = center, radius, radius, 0.0


class Rectangle(AbstractRegion):
    """Sides parallel to the axes, between two corners."""

    lower_left: ArrayLike
    upper_right: ArrayLike

    def __check_init__(self):
        corners = self.lower_left, self.upper_right
        if all(isinstance(z, int | float | complex) for z in corners):
            low, high = map(complex, corners)
            if not (low.real < high.real and low.imag < high.imag):
                raise ValueError(
                    f"`lower_left` must be below and left of `upper_right`; got {low} "
                    f"and {high}."
                )

    def contains(self, z):
        low, high = jnp.asarray(self.lower_left), jnp.asarray(self.upper_right)
        real = (z.real > low.real) & (z.real < high.real)
        return real & (z.imag > low.imag) & (z.imag < high.imag)

    def quadrature(self, num_nodes):
        # Gauss's rule on each side.
        x, w = np.polynomial.legendre.leggauss(max(num_nodes // 4, 2))
        low = jnp.asarray(self.lower_left, complex)
        high = jnp.asarray(self.upper_right, complex)
        right = high.real + 1j * low.imag
        left = low.real + 1j * high.imag
        corners = (low, right, high, left, low)
        nodes, weights = [], []
        for start, end in itertools.pairwise(corners):
            nodes.append((start + end) / 2 + (end - start) / 2 * x)
            weights.append((end - start) / 2 * w)
        return jnp.concatenate(nodes), jnp.concatenate(weights)

    def scale(self):
        low = jnp.asarray(self.lower_left, complex)
        high = jnp.asarray(self.upper_right, complex)
        return (low + high) / 2, jnp.abs(high - low) / 2
