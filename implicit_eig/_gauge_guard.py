"""A guard on reverse passes: does a loss depend on a phase that nobody chose?

The phase of an eigenvector is a convention. Where the user chose none, the cotangent that
arrives at the vectors is asked for its part along the phase, and a warning says when
there is one. The numbers are not touched, but for cotangents that are nothing but gauge.
"""

import functools
import warnings
from typing import Any, NamedTuple

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, DTypeLike, Float, Int

from ._eigensolver import times_real
from ._gauge import (
    AbstractGauge,
    DefaultGauge,
    Lapack,
    LargestReal,
    scale_of,
    UnitNorm,
)
from ._linear_map import linear_map


class GaugeDependenceWarning(UserWarning):
    """A gradient belongs to a loss that depends on the phase of eigenvectors, and no
    gauge was chosen.

    It is the gradient in the default gauge, [`implicit_eig.LargestReal`][]. Pass a gauge
    (`gauge=ieig.LargestReal()` says that this one is meant), or take a loss that does not
    depend on the phase; [`implicit_eig.check_gauge_invariance`][] tells which pairs it
    depends on.

    It looks at derivatives where they are taken: a loss of real vectors that depends on
    their sign alone is not seen, and a cotangent made of rounding errors alone (of the
    Rayleigh quotient of a normal matrix, which is stationary in v) may be.
    """


# Right vectors, and left ones where there are any: v → c v goes with u → u / c̄.
Vectors = tuple[Complex[Array, "*batch n k"], ...]


def tolerance(dtype: DTypeLike) -> float:
    """Relative dependence above that of rounding: 5e-7 in double, 2e-3 in single.

    Phase-invariant losses stayed below 1e-9 (single: 2e-4) of it: |v|², |aᴴv|, vᴴOv,
    uᴴOv, κ, projectors, ratios of entries, of normal and ill-conditioned matrices.
    """
    return float(jnp.finfo(dtype).eps) ** 0.4


def relative_dependence(
    cotangents: Vectors, vectors: Vectors
) -> tuple[Float[Array, "*batch k"], Float[Array, "*batch k"]]:
    """|∂f/∂φ| and |∂f/∂log‖v‖| for each pair, relative to the size of its cotangent.

    The size is ‖∂f/∂v‖ ‖v‖ + ‖∂f/∂u‖ ‖u‖. Cotangents are JAX's: `df = Re Σ ct dv`.
    A cotangent that is nothing but rounding errors of those of other pairs counts as
    zero; zero has no dependence.
    """
    scale = jnp.stack([scale_of(ct, (-2, -1)) for ct in cotangents]).min(axis=0)
    along, size = [], 0.0
    for ct, x in zip(cotangents, vectors, strict=True):
        ct = times_real(ct, scale)
        along.append(jnp.sum(ct * x, axis=-2))
        size = size + _norm(ct) * _norm(x)
    # dv = (s + iφ) v, and du = (−s + iφ) u.
    phase = jnp.abs(sum(z.imag for z in along))
    norm = jnp.abs(along[0].real - sum(z.real for z in along[1:]))
    floor = 100 * jnp.finfo(size.dtype).eps * jnp.max(size, axis=-1, keepdims=True)
    counts = ~(size <= floor)  # NaN stays NaN
    size = jnp.where(counts, size, 1)
    return jnp.where(counts, phase / size, 0), jnp.where(counts, norm / size, 0)


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.abs(x) ** 2, axis=-2))


class _Task(NamedTuple):
    """What the reverse pass does with cotangents of vectors in a gauge."""

    watch: bool  # for dependence on the phase
    phase_free: bool  # whether the gauge leaves the phase as it came


def guarded(gauge: AbstractGauge, *vectors: Complex[Array, "*batch n k"]) -> Vectors:
    """The vectors; in reverse mode, unless the gauge was chosen, under watch.

    Only first derivatives are: the cotangent a loss sends to the vectors of a plain
    evaluation. That is where invariance shows. The cotangents of second derivatives have
    parts along the phase for invariant losses too, which cancel over vectors and
    tangents.

    Where the gauge fixes the norm of the right vectors, a cotangent along them has no
    effect. One with nothing else but rounding errors is made zero, before it is divided
    by gaps between eigenvalues.
    """
    if not isinstance(gauge, LargestReal | Lapack | UnitNorm):
        return vectors
    phase_free = isinstance(gauge, UnitNorm) and gauge.index is None
    return _guarded(vectors, _Task(isinstance(gauge, DefaultGauge), phase_free))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _guarded(vectors: Vectors, task: _Task) -> Vectors:
    del task
    return vectors


@_guarded.defjvp
def _(task, primals, tangents):
    (vectors,), (tangents,) = primals, tangents
    return vectors, tuple(_guard(tangents, vectors, task=task))


def _backward(cotangents, vectors, *, task):
    asked = [
        jnp.zeros_like(v) if ct is None else ct
        for ct, v in zip(cotangents, vectors, strict=True)
    ]
    if task.watch:
        _look(tuple(asked), tuple(vectors))
    right, *left = cotangents
    if right is not None:
        right = _without_gauge(right, vectors[0], task.phase_free)
    return [right, *left]


_guard = linear_map(
    "implicit_eig_guard", lambda t, *_, **__: list(t), _backward, first_only=True
)


def _without_gauge(
    ct: Complex[Array, "*batch n k"],
    vectors: Complex[Array, "*batch n k"],
    phase_free: bool,
) -> Complex[Array, "*batch n k"]:
    """The cotangent; zero in columns where it is v̄ times a number, to rounding."""
    fixed, v = jax.lax.stop_gradient((ct, vectors))
    unit = times_real(fixed, scale_of(fixed, (-2, -1)))
    square = _norm(v)[..., None, :] ** 2
    along = jnp.sum(unit * v, axis=-2, keepdims=True)
    along = along / square.astype(ct.dtype)
    if not phase_free:
        along = along.real.astype(ct.dtype)
    rounding = 10 * jnp.finfo(square.dtype).eps * _norm(unit)
    nothing = _norm(unit - along * v.conj()) <= rounding
    # Its derivatives are not zero, and stay.
    return ct - jnp.where(nothing[..., None, :], fixed, 0)


def _look(cotangents: Vectors, vectors: Vectors) -> None:
    """Warns on the host, where a cotangent depends on the phase. What goes there is one
    number: vectors may be sharded."""
    cotangents, vectors = jax.lax.stop_gradient((cotangents, vectors))
    phase, _ = relative_dependence(cotangents, vectors)
    count = eqxi.unvmap_max(jnp.sum(phase > tolerance(phase.dtype)))
    jax.lax.cond(count > 0, lambda c: jax.debug.callback(_warn, c), lambda c: None, count)


def _warn(count: Int[Any, ""]) -> None:
    warnings.warn(
        "A gradient was taken of a loss that depends on the phase of (at least "
        f"{int(count)}) eigenvectors, which is arbitrary, and no gauge was chosen: it is "
        "the gradient in the default gauge `LargestReal()`. Pass `gauge=` to choose, or "
        "see `implicit_eig.check_gauge_invariance`.",
        GaugeDependenceWarning,
        stacklevel=1,
    )
