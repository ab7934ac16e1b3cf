"""Derivatives that do not exist: NaN in exactly those columns, in either mode."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Complex, Float, Inexact

from ._linear_map import linear_map
from ._operator import Pencil


@jax.custom_jvp
def nan_tangent(
    x: Inexact[Array, "*n k"], missing: Bool[Array, " k"]
) -> Inexact[Array, "*n k"]:
    """x, whose derivative does not exist in the `missing` columns.

    Tangents of those columns are NaN. A cotangent that is nonzero there turns NaN, one
    that is zero stays zero, so a function of other columns keeps its gradient. Where no
    column has a derivative, zero turns NaN as well: a function that uses any of them has
    none, even if it happens to be stationary.
    """
    del missing
    return x


@nan_tangent.defjvp
def _(primals, tangents):
    x, missing = primals
    return nan_tangent(x, missing), _nan(tangents[0], missing)


def _nan(t: Inexact[Array, "*n k"], missing: Bool[Array, " k"]) -> Inexact[Array, "*n k"]:
    return _nan_map([t], [missing])[0]


def _forward(tangents, known):
    (t,), (missing,) = tangents, known
    return [jnp.where(_beside(t, missing), jnp.nan, t)]


def _backward(cotangents, known):
    (ct,), (missing,) = cotangents, known
    asked = (ct != 0) | _beside(ct, jnp.all(missing, axis=-1, keepdims=True))
    return [jnp.where(_beside(ct, missing) & asked, jnp.nan, ct)]


def _beside(x: Array, mark: Bool[Array, "*batch #k"]) -> Array:
    """The mark, for an x that has axes between batch and k."""
    axes = range(mark.ndim - 1, x.ndim - 1)
    return jnp.expand_dims(mark, tuple(axes))


_nan_map = linear_map("implicit_eig_nan", _forward, _backward)


@eqx.filter_custom_jvp
def absent(
    pencil: Pencil, *, values: Complex[Array, " k"], missing: Bool[Array, " k"]
) -> Float[Array, " k"]:
    """Zeros to be added to what has no derivative where `missing`: columns that are not
    there lead nowhere, and NaN put on them would not arrive at the pencil."""
    del pencil
    # Made of the values: under `vmap` zeros must be batched where their tangent is.
    return jnp.where(missing & (values == 0), 0.0, 0.0).astype(values.real.dtype)


@absent.def_jvp
def _(primals, tangents, *, values, missing):
    zeros = absent(*primals, values=values, missing=missing)
    moving = [t for t in jtu.tree_leaves(tangents) if eqx.is_inexact_array(t)]
    if not moving:
        return zeros, None
    total = sum((jnp.sum(t.real).astype(zeros.dtype) for t in moving), 0 * zeros)
    return zeros, _nan(0 * total, missing)
