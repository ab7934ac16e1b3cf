"""From the root (λ, V) to what a user sees: the gauge, and which have no derivatives."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Inexact

from .._ad import absent, nan_tangent, tied_values
from .._gauge import DefaultGauge, largest, phase, vanishing, without_gauge
from .._operator import Pencil
from .._rule import blur, PairOptions, tied


class MassOrthonormal(DefaultGauge):
    """`vᴴ B v = 1`, which the vectors bring along, and the entry of largest modulus real
    and positive."""

    def __call__(self, v):
        return v * phase(largest(v)).conj()


def ties_of(
    values: Float[Array, " m"], active: Bool[Array, " m"], rtol: Float[ArrayLike, ""]
) -> tuple[Bool[Array, "m m"], Bool[Array, "m m"]]:
    """Which pairs of indices tie, and which are apart."""
    ties = tied(values, active, rtol)
    both = active[:, None] & active[None, :]
    return ties, both & ~ties & ~jnp.eye(values.size, dtype=bool)


def pairs_of_hermitian(
    pencil: Pencil,
    values: Float[Array, " m"],
    vectors: Inexact[Array, "n m"],
    mark: Float[Array, " m"],
    *,
    active: Bool[Array, " m"],
    outside: Float[Array, " m"] | None,
    error: Float[Array, ""],
    options: PairOptions,
) -> tuple[Float[Array, " k"], Inexact[Array, "n k"]]:
    """The first k pairs in the gauge, NaN derivatives where there are none.

    `error` is that of the pencil, as a change of the eigenvalues; `outside` the nearest
    eigenvalues that are not among these. One of several tied eigenvalues has no
    derivative, only symmetric functions of all have; a vector of a tie has none, nor has
    what ties with an eigenvalue outside.
    """
    k, gauge, tie_rtol = options.k, options.gauge, options.tie_rtol
    assert tie_rtol is not None
    fixed, drop = jax.lax.stop_gradient(values), options.ties == "drop"
    ties, _ = ties_of(fixed, active, tie_rtol)
    largest_value = jnp.max(jnp.where(active, jnp.abs(fixed), 0))
    cut = jnp.zeros_like(active)
    if outside is not None:
        cut = active & (jnp.abs(fixed - outside) <= tie_rtol * largest_value)
    eps = float(jnp.finfo(values.dtype).eps)
    rtol = jnp.inf if drop else jnp.maximum(eps**0.5, 10 * jnp.asarray(tie_rtol))
    values = tied_values(values, ties, rtol)
    right = jax.vmap(gauge, in_axes=1, out_axes=1)(vectors[:, :k])
    blurred = blur(fixed, active, tie_rtol, error, outside)
    scaleless = vanishing(gauge, right, blurred[:k])
    missing = ~active[:k]
    no_value, in_tie = missing, jnp.zeros_like(missing)
    if not drop:
        no_value = missing | cut[:k]
        in_tie = jnp.any(ties, axis=0)[:k]
    whole = jnp.all(in_tie)
    # Of columns that are not there, and where all tie, NaN would not reach the pencil.
    nan = jnp.where(scaleless, jnp.nan, 0).astype(fixed.dtype)
    nan = nan + absent(pencil, missing | whole)
    right = nan_tangent(
        right + nan.astype(right.dtype), no_value | in_tie | scaleless, whole
    )
    right = right + mark[:k].astype(right.dtype)
    values = nan_tangent(values[:k] + absent(pencil, missing), no_value)
    return values, without_gauge(gauge, right)
