"""Derivatives that do not exist: NaN in exactly those columns, in either mode."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Inexact

from .._operator import Pencil
from .linear_map import linear_map
from .root import root


def nothing_where(missing: Bool[Array, "*k"], dtype: DTypeLike) -> Inexact[Array, "*k"]:
    """NaN (in both parts of a complex number) where `missing`, zero elsewhere."""
    nan = (
        complex(jnp.nan, jnp.nan)
        if jnp.issubdtype(dtype, jnp.complexfloating)
        else jnp.nan
    )
    return jnp.where(missing, jnp.asarray(nan, dtype), jnp.zeros((), dtype))


def nan_tangent(
    x: Inexact[Array, "*n k"],
    missing: Bool[Array, " k"],
    nowhere: Bool[ArrayLike, ""] = False,
) -> Inexact[Array, "*n k"]:
    """x, marked as having no derivative in the `missing` columns.

    Tangents of those columns are NaN. A nonzero cotangent there becomes NaN, a zero one
    stays zero, so that a function of other columns, or of other members of a batch, keeps
    its gradient. If `nowhere` is true, zero becomes NaN as well: if no column has a
    derivative, a function that uses one has none, even if it is stationary.
    """
    return _marked(x, (missing, missing & nowhere))


@root
def _marked(_, t, marks, _t_marks):
    return _nan(t, *marks)


def _nan(t: Array, missing: Bool[Array, " k"], surely: Bool[Array, " k"]) -> Array:
    return _nan_map([t], [missing, surely])[0]


def _forward(tangents, known):
    (t,), (missing, _) = tangents, known
    return [jnp.where(_beside(t, missing), jnp.nan, t)]


def _backward(cotangents, known):
    (ct,) = cotangents
    missing, surely = (_beside(ct, mark) for mark in known)
    return [jnp.where(missing & (ct != 0) | surely, jnp.nan, ct)]


def tied_values(
    x: Inexact[Array, " k"], ties: Bool[Array, "k k"], rtol: Float[ArrayLike, ""]
) -> Inexact[Array, " k"]:
    """x, with tied entries that are only differentiable in symmetric functions of them,
    and only once.

    Symmetric functions have equal cotangents in a tie. Entries whose cotangents differ by
    more than `rtol` of their size get NaN instead. First tangents pass; second ones are
    NaN.
    """
    rtol = jax.lax.stop_gradient(jnp.asarray(rtol, x.real.dtype))
    return _tied(x, (ties, rtol))


@root
def _tied(x, t, known, _):
    missing = jnp.any(known[0], axis=0)
    return _tied_map([nan_tangent(t, missing)], [x, *known])[0]


def _symmetric(cotangents, known):
    (ct,), (x, ties, rtol) = cotangents, known
    size = jnp.abs(ct)
    largest = rtol[..., None, None] * jnp.maximum(size[..., None], size[..., None, :])
    differ = ties & (jnp.abs(ct[..., None] - ct[..., None, :]) > largest)
    ct = jnp.where(jnp.any(differ, axis=-1), jnp.nan, ct)
    return [_first_order(ct, x, missing=jnp.any(ties, axis=-1))]


_tied_map = linear_map("implicit_eig_tied", lambda t, _: t, _symmetric)


@root
def _first_order(ct, t, _x, _t_x, *, missing):
    """A cotangent of x; its derivative with respect to x does not exist if `missing`."""
    t = jnp.zeros_like(ct) if t is None else t
    return _second_map([t], [ct, missing])[0]


def _moving(tangents, known):
    (t,), (ct, missing) = tangents, known
    return [jnp.where(missing & ((ct != 0) | (t != 0)), jnp.nan, t)]


def _used(cotangents, known):
    # Not if `ct` is zero: the cotangent of an unused entry has no effect either.
    (t,), (ct, missing) = cotangents, known
    return [jnp.where(missing & (ct != 0), jnp.nan, t)]


_second_map = linear_map("implicit_eig_second", _moving, _used)


def _beside(x: Array, mark: Bool[Array, "*batch #k"]) -> Array:
    """The mark, with axes added between batch and k to match x."""
    axes = range(mark.ndim - 1, x.ndim - 1)
    return jnp.expand_dims(mark, tuple(axes))


_nan_map = linear_map("implicit_eig_nan", _forward, _backward)


def absent(pencil: Pencil, missing: Bool[Array, " k"]) -> Float[Array, " k"]:
    """Zeros to add to results that have no derivative where `missing`: columns that do
    not exist depend on nothing, and a NaN on them would not reach the pencil."""
    return _absent(jnp.zeros(missing.shape, pencil.dtype).real, pencil, missing=missing)


@root
def _absent(zeros, _, _pencil, t_pencil, *, missing):
    moving = [t for t in jtu.tree_leaves(t_pencil) if eqx.is_inexact_array(t)]
    total = sum((jnp.sum(t.real).astype(zeros.dtype) for t in moving), 0 * zeros)
    return _nan(0 * total, missing, jnp.zeros_like(missing))
