"""A guard on reverse passes: does a loss depend on a phase that nobody chose?

The phase of an eigenvector is a convention. If the user chose none, the cotangent that
arrives at the vectors is tested for a component along the phase, and a warning reports
one. Numbers are not changed, except for cotangents that are pure gauge.
"""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Complex, DTypeLike, Float, PyTree

from .._ad import linear_map, root
from .._operator import times_real
from .._program import callers_level, is_plain, value_of
from .gauge import AbstractGauge, DefaultGauge, Lapack, LargestReal, scale_of, UnitNorm


class GaugeDependenceWarning(UserWarning):
    """A gradient belongs to a loss that depends on the phase of eigenvectors, and no
    gauge was chosen.

    It is the gradient in the default gauge, [`implicit_eig.LargestReal`][]. Pass a gauge
    (`gauge=ieig.LargestReal()` says that this one is meant), or take a loss that does not
    depend on the phase; [`implicit_eig.check_gauge_invariance`][] tells on which pairs it
    depends.

    The warning appears where Python sees a gradient: in a plain `jax.grad`, not in a
    compiled program. It only looks at derivatives where they are taken: it misses a loss
    of real vectors that depends on their sign alone, and may report a cotangent made of
    rounding errors alone (e.g. for the Rayleigh quotient of a normal matrix, which is
    stationary in v).

    !!! Example

        ```python
        import warnings
        import jax, jax.numpy as jnp, implicit_eig as ieig

        loss = lambda a: ieig.eig(a).eigenvectors[0, 0].imag
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ieig.GaugeDependenceWarning)
            jax.grad(loss)(jnp.array([[0.0, 2.0], [-1.0, 0.5]]))
        print(*(w.message for w in caught))
        ```
    """


# Right vectors, and left ones if there are any: v → c v goes with u → u / c̄.
Vectors = tuple[Complex[Array, "*batch n k"], ...]


def tolerance(dtype: DTypeLike) -> float:
    """A relative dependence above that of rounding: 5e-7 in double, 2e-3 in single.

    Phase-invariant losses stayed below a dependence of 1e-9 (single: 2e-4): |v|², |aᴴv|,
    vᴴOv, uᴴOv, κ, projectors, ratios of entries, for normal and ill-conditioned matrices.
    """
    return float(jnp.finfo(dtype).eps) ** 0.4


def relative_dependence(
    cotangents: Vectors, vectors: Vectors
) -> tuple[Float[Array, "*batch k"], Float[Array, "*batch k"]]:
    """|∂f/∂φ| and |∂f/∂log‖v‖| for each pair, relative to the size of its cotangent.

    The size is ‖∂f/∂v‖ ‖v‖ + ‖∂f/∂u‖ ‖u‖. Cotangents follow JAX: `df = Re Σ ct dv`.
    A cotangent that is only rounding errors of those of other pairs counts as zero, and
    zero has no dependence.
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
    floor = 100 * jnp.finfo(size.dtype).eps * jnp.max(size, axis=-1, keepdims=True)  # pyright: ignore[reportAttributeAccessIssue]
    counts = ~(size <= floor)  # NaN stays NaN
    size = jnp.where(counts, size, 1)
    return jnp.where(counts, phase / size, 0), jnp.where(counts, norm / size, 0)


_relative_dependence = jax.jit(relative_dependence)


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.abs(x) ** 2, axis=-2))


def without_gauge(
    gauge: AbstractGauge, vectors: Complex[Array, "*batch n k"]
) -> Complex[Array, "*batch n k"]:
    """Right vectors in a gauge. If it fixes the norm, a cotangent along them has no
    effect: one that is along them up to rounding errors is set to zero in reverse mode,
    before it is divided by gaps between eigenvalues."""
    if not isinstance(gauge, LargestReal | Lapack | UnitNorm):
        return vectors
    phase_free = isinstance(gauge, UnitNorm) and gauge.index is None
    return _cleaned(vectors, None, phase_free=phase_free)


@root
def _cleaned(vectors, t, _, _t, *, phase_free):
    return _clean([t], [vectors], phase_free=phase_free)[0]


def _clean_back(cotangents, vectors, *, phase_free):
    return [_without_gauge(cotangents[0], vectors[0], phase_free)]


_clean = linear_map(
    "implicit_eig_clean", lambda t, *_, **__: list(t), _clean_back, first_only=True
)


def watched_phases(
    gauge: AbstractGauge, *vectors: PyTree[Array], axes: int | None = None
) -> tuple[PyTree[Array], ...]:
    """Right vectors in a gauge, and left ones if there are any. Unless the gauge was
    chosen, they are watched in a plain reverse pass.

    Vectors are columns. The axes before the last one are those of one vector; with
    `axes`, only that many are, and those before them belong to a batch.

    Only first derivatives are watched: the cotangent that a loss sends to the vectors of
    a plain evaluation, where invariance shows. In second derivatives, cotangents of
    invariant losses have parts along the phase too, which cancel over vectors and
    tangents.
    """
    leaves, treedef = jtu.tree_flatten(vectors)
    moving = bool(leaves) and isinstance(leaves[0], Tracer) and is_plain(leaves[0])
    if not (moving and isinstance(gauge, DefaultGauge)):
        return vectors
    ranks = tuple(x.ndim - 1 if axes is None else axes for x in leaves)
    return jtu.tree_unflatten(treedef, _watched(tuple(leaves), (len(vectors), ranks)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _watched(leaves: tuple[Array, ...], layout: tuple) -> tuple[Array, ...]:
    del layout
    return leaves


@_watched.defjvp
def _(layout, primals, tangents):
    (leaves,), (tangents,) = primals, tangents
    return leaves, tuple(_watch(list(tangents), list(leaves), layout=layout))


def _watch_back(cotangents, leaves, *, layout):
    sent: list[Any] = [
        np.zeros(x.shape, x.dtype) if ct is None else value_of(ct)
        for ct, x in zip(cotangents, leaves, strict=True)
    ]
    known: list[Any] = [value_of(x) for x in leaves]
    if all(x is not None for x in (*sent, *known)):
        with jax.ensure_compile_time_eval():
            phase, _ = _relative_dependence(
                _blocks(sent, *layout), _blocks(known, *layout)
            )
        count = np.max(np.sum(np.asarray(phase) > tolerance(phase.dtype), axis=-1))
        if count:
            message = _WARNING.format(count)
            warnings.warn(message, GaugeDependenceWarning, stacklevel=callers_level())
    return cotangents


_watch = linear_map(
    "implicit_eig_guard", lambda t, *_, **__: list(t), _watch_back, first_only=True
)


def _blocks(leaves: list[np.ndarray], count: int, ranks: tuple[int, ...]) -> Vectors:
    """`count` sets of vectors, each as a block of flat columns."""

    def flat(x: np.ndarray, rank: int) -> np.ndarray:
        batch = x.shape[: x.ndim - rank - 1]
        return x.reshape(*batch, -1, x.shape[-1])

    columns = [flat(x, rank) for x, rank in zip(leaves, ranks, strict=True)]
    size = len(columns) // count
    sets = [columns[i * size : (i + 1) * size] for i in range(count)]
    return tuple(np.concatenate(x, axis=-2) for x in sets)  # pyright: ignore[reportReturnType]


_WARNING = (
    "A gradient was taken of a loss that depends on the phase of (at least) {} "
    "eigenvectors, which is arbitrary, and no gauge was chosen: it is the gradient in "
    "the default gauge `LargestReal()`. Pass `gauge=` to choose, or see "
    "`implicit_eig.check_gauge_invariance`."
)


def _without_gauge(
    ct: Complex[Array, "*batch n k"],
    vectors: Complex[Array, "*batch n k"],
    phase_free: bool,
) -> Complex[Array, "*batch n k"]:
    """The cotangent; zero in columns where it is a multiple of v̄ to rounding."""
    fixed, v = jax.lax.stop_gradient((ct, vectors))
    unit = times_real(fixed, scale_of(fixed, (-2, -1)))
    square = _norm(v)[..., None, :] ** 2
    along = jnp.sum(unit * v, axis=-2, keepdims=True)
    along = along / square.astype(ct.dtype)
    if not phase_free:
        along = along.real.astype(ct.dtype)
    rounding = 10 * jnp.finfo(square.dtype).eps * _norm(unit)
    nothing = _norm(unit - along * v.conj()) <= rounding
    # Derivatives of the cotangent are not zero, and are kept.
    return ct - jnp.where(nothing[..., None, :], fixed, 0)
