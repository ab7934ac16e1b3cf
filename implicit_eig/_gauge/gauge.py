"""The scale of an eigenvector, applied last.

A gauge maps a nonzero vector to the representative of its line, by ordinary traced
operations, so derivatives follow it.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact, PyTree

from .._operator import complex_dtype, Domain, times_real
from .._program import TracedFunction
from .._spectral import check_vector


class AbstractGauge(eqx.Module):
    """Base class of gauges: `__call__(v)` returns a multiple of the vector `v`.

    The multiple must not depend on the original scale of `v` (up to what a gauge leaves
    free on purpose), and should be smooth near `v`.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig

        class UnitSum(ieig.AbstractGauge):
            def __call__(self, v):
                return v / jnp.sum(v)

        v = ieig.eig(jnp.array([[2.0, 1.0], [0.5, 3.0]]), gauge=UnitSum()).eigenvectors
        assert jnp.allclose(v.sum(axis=0), 1.0, atol=1e-5)
        ```
    """

    @abc.abstractmethod
    def __call__(self, v: Complex[Array, " n"]) -> Complex[Array, " n"]: ...

    def margin(self, v: Complex[Array, " n"]) -> Float[Array, ""] | None:
        """The size, relative to v, of the quantity that determines the scale: if it does
        not exceed the error of v, the gauge would turn noise into a phase. `None` if it
        cannot be small."""
        del v


def vanishing(
    gauge: AbstractGauge, v: Complex[Array, "n k"], blur: Float[Array, " k"]
) -> Bool[Array, " k"]:
    """Which vectors, known to a relative error of `blur`, have no representative."""
    v = jax.lax.stop_gradient(v)
    margin = jax.eval_shape(gauge.margin, v[:, 0])
    if margin is None:
        return jnp.zeros(blur.shape, bool)
    margins = jax.vmap(gauge.margin, in_axes=1)(v)
    return ~(margins > blur)  # pyright: ignore[reportOptionalOperand]


def scale_of(x: Array, axis: tuple[int, ...] | None = None) -> Float[Array, "..."]:
    """The power of two that scales the largest entry of x to about one: squares then
    neither over- nor underflow, and nothing is rounded."""
    x = jax.lax.stop_gradient(x)
    parts = jnp.maximum(jnp.abs(x.real), jnp.abs(x.imag))
    _, exponent = jnp.frexp(jnp.max(parts, axis=axis, keepdims=axis is not None))
    most = jnp.finfo(parts.dtype).maxexp - 3
    one = jnp.ones((), parts.dtype)
    return jnp.ldexp(one, -jnp.clip(exponent, -most, most))


def _moderate(v: Array) -> Array:
    """v, scaled: gauges and their derivatives do not depend on the constant."""
    return times_real(v, scale_of(v))


def _norm(v: Array) -> Array:
    return jnp.sqrt(jnp.sum(v.real**2 + v.imag**2)).astype(v.dtype)


def largest(v: Array, rtol: float | None = None) -> Array:
    """The entry of largest modulus; the first one if several tie.

    Symmetry makes exact ties, which rounding would break. So moduli within a relative
    `rtol`, √eps by default, tie, and the choice stays the same near such a vector.
    """
    size = jax.lax.stop_gradient(jnp.abs(v))
    if rtol is None:
        rtol = float(jnp.finfo(size.dtype).eps) ** 0.5
    index = jnp.arange(v.size)
    large = size >= (1 - rtol) * jnp.max(size)  # pyright: ignore[reportOperatorIssue]
    first = jnp.min(jnp.where(large, index, v.size))
    # A sum, because its transpose is no scatter.
    return jnp.sum(jnp.where(index == first, v, 0))


def phase(z: Array) -> Array:
    return z / jnp.abs(z).astype(z.dtype)


class LargestReal(AbstractGauge):
    """Unit 2-norm, the entry of largest modulus real and positive (the default).

    If several entries tie for the largest modulus, as all do for a circulant matrix, the
    first of them is taken. Moduli within √eps of the largest count as tied, so that
    rounding does not choose and derivatives exist there. The phase jumps when another
    entry takes the lead by more than that.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        v = ieig.eig(a, gauge=ieig.LargestReal()).eigenvectors
        assert (jnp.max(jnp.abs(v), axis=0) == jnp.max(v.real, axis=0)).all()
        ```
    """

    def __call__(self, v):
        v = _moderate(v)
        return v * (phase(largest(v)).conj() / _norm(v))


class DefaultGauge(LargestReal):
    """`LargestReal` when the user chose no gauge: reverse passes are watched
    (`guard.py`)."""


class Lapack(AbstractGauge):
    """As `geev` returns vectors: unit 2-norm, the entry of largest modulus real.

    Its sign is that of the computed vector: LAPACK leaves it free, so it may flip under a
    perturbation. If several entries tie for the largest modulus, LAPACK takes the one
    that is first in floating point, and the phase may jump under a perturbation. Take
    `LargestReal` if that matters.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        v = ieig.eig(a, gauge=ieig.Lapack()).eigenvectors
        assert jnp.allclose(v, jnp.linalg.eig(a).eigenvectors, atol=1e-5)
        ```
    """

    def __call__(self, v):
        v = _moderate(v)
        turn = phase(largest(v, rtol=0.0))
        sign = jnp.where(jax.lax.stop_gradient(turn.real) < 0, -1, 1).astype(v.dtype)
        return v * (sign * turn.conj() / _norm(v))


class UnitNorm(AbstractGauge):
    """Unit 2-norm; entry `index` real and positive, or the phase left free.

    With `index=None` the phase is the one the solver happened to return, and derivatives
    have no component along the vector: right for functions that do not depend on the
    phase. With an `index`, a vector that vanishes there gives NaN.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        v = ieig.eig(a, gauge=ieig.UnitNorm(index=0)).eigenvectors
        assert (v[0].real > 0).all() and (v[0].imag == 0).all()
        ```
    """

    index: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if not isinstance(self.index, int | None) or isinstance(self.index, bool):
            raise TypeError(f"`index` must be an integer; got {self.index!r}.")

    def __call__(self, v):
        v = _moderate(v)
        if self.index is None:
            # Im(v₀ᴴv) = 0 pins the phase to the one v came with.
            turn = phase(jnp.sum(jax.lax.stop_gradient(v).conj() * v))
        else:
            turn = phase(v[self.index])
        return v * (turn.conj() / _norm(v))

    def margin(self, v):
        if self.index is None:
            return None
        v = _moderate(v)
        return jnp.abs(v[self.index]) / jnp.linalg.norm(v)


class Functional(AbstractGauge):
    """`cᴴv = 1` for a vector `c` of the operator's domain. Derivatives reach `c`.

    A vector with `cᴴv = 0`, to within its own accuracy, has no such multiple: it is NaN,
    and so are its derivatives.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        v = ieig.eig(a, gauge=ieig.Functional(jnp.array([1.0, 0.0]))).eigenvectors
        assert jnp.allclose(v[0], 1.0, atol=1e-5)
        ```
    """

    c: PyTree[Inexact[Array, "..."]]

    def __call__(self, v):
        return v / jnp.sum(self._flat(v).conj() * v)

    def _flat(self, v):
        c = Domain.of(jax.eval_shape(lambda: self.c)).flatten(self.c)
        return c.astype(v.dtype)

    def margin(self, v):
        c, v = _moderate(jax.lax.stop_gradient(self._flat(v))), _moderate(v)
        size = jnp.linalg.norm(c) * jnp.linalg.norm(v)
        return jnp.abs(jnp.sum(c.conj() * v)) / size


class Bilinear(AbstractGauge):
    """`vᵀv = 1`, the entry of largest modulus with positive real part.

    The natural scale for complex symmetric operators. NaN for a vector with `vᵀv = 0` to
    within its own accuracy, as happens at exceptional points.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        v = ieig.eig(a, gauge=ieig.Bilinear()).eigenvectors
        assert jnp.allclose((v**2).sum(axis=0), 1.0, atol=1e-5)
        ```
    """

    def __call__(self, v):
        # Rotate first, so that the branch of the square root depends only on v's line.
        v = v / largest(v)
        return v / jnp.sqrt(jnp.sum(v * v))

    def margin(self, v):
        v = _moderate(v)
        return jnp.abs(jnp.sum(v * v)) / jnp.sum(v.real**2 + v.imag**2)


class _User(AbstractGauge):
    fn: Callable[[Any], Any]
    domain: Domain = eqx.field(static=True)

    def __call__(self, v):
        scaled = self.fn(self.domain.unflatten(v))
        return self.domain.flatten(scaled).astype(v.dtype)


# Made once, as every plain call would pay for it again.
_DEFAULT = DefaultGauge()


# What users pass for `gauge`: a callable scales one vector.
Gauge = AbstractGauge | Callable[..., Any]


def as_gauge(
    gauge: Any, domain: Domain, *, default: AbstractGauge | None = None, dtype: Any = None
) -> AbstractGauge:
    """The gauge for what the user passed; `dtype` is that of the vectors, by default
    complex."""
    if gauge is None:
        return _DEFAULT if default is None else default
    if isinstance(gauge, UnitNorm) and gauge.index is not None:
        if not -domain.n <= gauge.index < domain.n:
            raise ValueError(
                f"`UnitNorm(index={gauge.index})` is outside a vector of length "
                f"{domain.n}."
            )
    if isinstance(gauge, Functional):
        check_vector(gauge.c, domain, "the vector of `Functional`")
    if isinstance(gauge, AbstractGauge):
        return gauge
    if callable(gauge):
        dtype = complex_dtype(domain.dtype) if dtype is None else dtype
        return _User(_traced(gauge, domain, dtype), domain)
    raise TypeError(
        f"`gauge` must be a gauge such as `LargestReal()`, or a callable; got {gauge!r}."
    )


def _traced(fn: Callable[[Any], Any], domain: Domain, dtype: Any) -> TracedFunction:
    n = domain.n
    one = jax.eval_shape(domain.unflatten, jax.ShapeDtypeStruct((n,), dtype))
    traced = TracedFunction.of(fn, one)
    treedef, leaves = traced.out_structure
    if treedef != domain.treedef or [x.shape for x in leaves] != [
        s.shape for s in domain.leaves
    ]:
        raise ValueError(
            "A callable `gauge` must return a multiple of its vector; for "
            f"{one} it returned {jax.tree_util.tree_unflatten(treedef, leaves)}."
        )
    return traced
