"""A watch on reverse passes: does a loss depend on a phase that nobody chose?

The phase of an eigenvector is a convention. Where the user chose none, the cotangent that
arrives at the vectors is asked for its part along the phase, and a warning says when
there is one. The numbers are not touched.
"""

import warnings
from typing import Any

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Complex, DTypeLike, Float, Int

from ._gauge import AbstractGauge, DefaultGauge


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
    largest = jnp.stack([_largest(ct) for ct in cotangents]).max(axis=0)
    unit = jnp.where(largest > 0, largest, 1)
    along, size = [], 0.0
    for ct, x in zip(cotangents, vectors, strict=True):
        ct = ct / unit.astype(ct.dtype)  # no square underflows
        along.append(jnp.sum(ct * x, axis=-2))
        size = size + _norm(ct) * _norm(x)
    # dv = (s + iφ) v, and du = (−s + iφ) u.
    phase = jnp.abs(sum(z.imag for z in along))
    norm = jnp.abs(along[0].real - sum(z.real for z in along[1:]))
    floor = 100 * jnp.finfo(size.dtype).eps * jnp.max(size, axis=-1, keepdims=True)
    counts = ~(size <= floor)  # NaN stays NaN
    size = jnp.where(counts, size, 1)
    return jnp.where(counts, phase / size, 0), jnp.where(counts, norm / size, 0)


def _largest(x: Array) -> Array:
    return jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x.real**2 + x.imag**2, axis=-2))


def guarded(gauge: AbstractGauge, *vectors: Complex[Array, "*batch n k"]) -> Vectors:
    """The vectors; in reverse mode, unless the gauge was chosen, under watch.

    Only first derivatives are: the cotangent a loss sends to the vectors of a plain
    evaluation. That is where invariance shows. The cotangents of second derivatives have
    parts along the phase for invariant losses too, which cancel over vectors and
    tangents.
    """
    return _watched(vectors) if isinstance(gauge, DefaultGauge) else vectors


@jax.custom_jvp
def _watched(vectors: Vectors) -> Vectors:
    return vectors


@_watched.defjvp
def _(primals, tangents):
    (vectors,), (tangents,) = primals, tangents
    # The vectors go on without watch: of nested derivatives one is watched.
    return vectors, tuple(_watch_p.bind(*tangents, *vectors))


# (tangents, vectors) ↦ tangents, linear in the tangents. Its transposed rule looks at the
# cotangents. A `custom_linear_solve` could do that too, but would carry the callback
# along in programs that are never transposed.
_watch_p = Primitive("implicit_eig_watch")
_watch_p.multiple_results = True


def _tangents(args):
    return list(args[: len(args) // 2])


_watch_p.def_impl(lambda *args: _tangents(args))
_watch_p.def_abstract_eval(lambda *avals: _tangents(avals))
mlir.register_lowering(_watch_p, lambda ctx, *args: _tangents(args))


def _jvp(primals, tangents):
    moving = _tangents(tangents)
    if all(type(t) is ad.Zero for t in moving):
        return _tangents(primals), moving
    vectors = primals[len(moving) :]
    moving = [ad.instantiate_zeros(t) for t in moving]
    return _tangents(primals), _watch_p.bind(*moving, *vectors)


ad.primitive_jvps[_watch_p] = _jvp


def _transposed(cotangents, *args):
    half = len(args) // 2
    if not all(type(ct) is ad.Zero for ct in cotangents):
        cotangents = [ad.instantiate_zeros(ct) for ct in cotangents]
        _look(tuple(cotangents), args[half:])
    return [*cotangents, *[None] * half]


ad.primitive_transposes[_watch_p] = _transposed


def _batched(args, axes):
    size = next(
        x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None
    )
    args = [
        jnp.broadcast_to(x, (size, *x.shape))
        if axis is None
        else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(args, axes, strict=True)
    ]
    out = _watch_p.bind(*args)
    return out, [0] * len(out)


batching.primitive_batchers[_watch_p] = _batched


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
