"""Regions of the complex plane, given by their boundaries."""

import abc
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex


class AbstractRegion(eqx.Module):
    """A bounded region. A subclass defines what is inside, and the nodes and weights of a
    quadrature along its boundary, anticlockwise: `∮ f dz ≈ Σ w f(z)`.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        z, w = ieig.Disk(0.0, 1.0).quadrature(64)
        assert abs(jnp.sum(w / z) - 2j * jnp.pi) < 1e-5  # ∮ dz / z
        ```
    """

    @abc.abstractmethod
    def contains(self, z: Complex[Array, " *k"]) -> Bool[Array, " *k"]:
        """Whether each of the points lies inside."""

    @abc.abstractmethod
    def quadrature(
        self, num_nodes: int
    ) -> tuple[Complex[Array, " q"], Complex[Array, " q"]]:
        """Nodes and weights."""

    @abc.abstractmethod
    def scale(self) -> tuple[Complex[Array, ""], Array]:
        """An approximate centre and radius: moments are taken in these units."""


class Inside(eqx.Module):
    """`which=Inside(region)`: all eigenvalues in a region.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.diag(jnp.array([1.0, 1.2, 3.0]))
        s = ieig.eigs(a, 3, ieig.Inside(ieig.Disk(1.0, 0.5)))
        s.stats["num_inside"]  # 2; the third place is NaN
        ```
    """

    region: AbstractRegion

    def __check_init__(self):
        if not isinstance(self.region, AbstractRegion):
            raise TypeError(
                f"`Inside` takes a region such as `Disk`; got {self.region!r}."
            )


def _number(x: ArrayLike, like: Array) -> Array:
    return jnp.asarray(x).astype(like.dtype)


class Ellipse(AbstractRegion):
    """An ellipse with half-axes `a` and `b`, the first at `angle` to the real axis.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        ieig.Ellipse(0.0, 2.0, 0.5).contains(jnp.array([1.0, 1.0j]))  # True, False
        ```
    """

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
        angle = jnp.asarray(self.angle, float)
        return jax.lax.complex(jnp.cos(angle), jnp.sin(angle))

    def contains(self, z):
        turned = (z - _number(self.center, z)) * self._turn().conj().astype(z.dtype)
        x, y = turned.real, turned.imag
        return (x / _number(self.a, x)) ** 2 + (y / _number(self.b, y)) ** 2 < 1

    def quadrature(self, num_nodes):
        # The trapezoidal rule, which converges geometrically.
        t = 2 * np.pi * (np.arange(num_nodes) + 0.5) / num_nodes
        a, b = jnp.asarray(self.a, float), jnp.asarray(self.b, float)
        cos, sin = (jnp.asarray(x, a.dtype) for x in (np.cos(t), np.sin(t)))
        z = jax.lax.complex(a * cos, b * sin) * self._turn()
        dz = jax.lax.complex(-a * sin, b * cos) * self._turn()
        return _number(self.center, z) + z, dz * (2 * np.pi / num_nodes)

    def scale(self):
        size = jnp.maximum(jnp.asarray(self.a, float), jnp.asarray(self.b, float))
        return jnp.asarray(self.center, complex), size


class Disk(Ellipse):
    """All points within `radius` of `center`.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        ieig.Disk(1.0, 0.5).contains(jnp.array([1.2, 2.0j]))  # True, False
        ```
    """

    def __init__(self, center: ArrayLike, radius: ArrayLike):
        if isinstance(radius, int | float) and not radius > 0:
            raise ValueError(f"`radius` must be positive; got {radius}.")
        self.center, self.a, self.b, self.angle = center, radius, radius, 0.0


class Rectangle(AbstractRegion):
    """A rectangle with sides parallel to the axes, given by two corners.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        ieig.Rectangle(-1.0, 1.0j).contains(jnp.array([-0.5 + 0.5j, 1.0]))  # True, False
        ```
    """

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
        low, high = _number(self.lower_left, z), _number(self.upper_right, z)
        real = (z.real > low.real) & (z.real < high.real)
        return real & (z.imag > low.imag) & (z.imag < high.imag)

    def quadrature(self, num_nodes):
        # Gauss's rule on each side.
        x, w = np.polynomial.legendre.leggauss(max(num_nodes // 4, 2))
        low = jnp.asarray(self.lower_left, complex)
        high = jnp.asarray(self.upper_right, complex)
        right = jax.lax.complex(high.real, low.imag)
        left = jax.lax.complex(low.real, high.imag)
        corners = (low, right, high, left, low)
        nodes, weights = [], []
        for start, end in itertools.pairwise(corners):
            half = (end - start) / 2
            nodes.append((start + end) / 2 + half * jnp.asarray(x, low.dtype))
            weights.append(half * jnp.asarray(w, low.dtype))
        return jnp.concatenate(nodes), jnp.concatenate(weights)

    def scale(self):
        low = jnp.asarray(self.lower_left, complex)
        high = jnp.asarray(self.upper_right, complex)
        return (low + high) / 2, jnp.abs(high - low) / 2
