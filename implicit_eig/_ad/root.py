"""Results found elsewhere, made differentiable by a rule for their tangents.

`jax.custom_jvp` is not enough. In bodies of `lax.scan` and `lax.map`, JAX takes second
derivatives of the *function* to which the rule belongs instead of the rule: here an
identity, which silently loses the derivative. A primitive keeps its rule wherever it
goes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from .linear_map import promoting


# Takes what was found and its tangents, what it depends on and the tangents of that.
Rule = Callable[..., PyTree]
Root = Callable[..., PyTree[Array]]


def root(rule: Rule) -> Root:
    """A function `(found, given, **options)` that returns `found`, a pytree of arrays,
    whose tangents are `rule(found, t_found, given, t_given, **options)`.

    Tangents of what does not vary are `None`, in and out. `found` is differentiable
    inside the rule too, which thus gives derivatives of every order; `options` are not.
    Under `vmap`, all of `found` is batched.
    """

    def run(found: PyTree[Array], given: PyTree, **options: Any) -> PyTree[Array]:
        arrays, treedef = jtu.tree_flatten(found)
        leaves, structure = jtu.tree_flatten((given, options))
        dynamic = [x for x in leaves if eqx.is_array(x)]
        static = tuple(None if eqx.is_array(x) else x for x in leaves)
        step = _Step(rule, treedef, structure, static)
        out = _root_p.bind(*arrays, *dynamic, step=step, count=len(arrays))
        return jtu.tree_unflatten(treedef, out)

    run.__doc__, run.__name__ = rule.__doc__, rule.__name__
    return run


@dataclasses.dataclass(frozen=True)
class _Step:
    """The rule for flat lists, with one batch axis for each entry of `batches`."""

    rule: Rule
    found: Any
    given: Any
    static: tuple[Any, ...]
    batches: tuple[tuple[Any, tuple[int | None, ...]], ...] = ()

    def tangents(
        self,
        found: list[Array],
        t_found: list[Array | None],
        given: list[Array],
        t_given: list[Array | None],
    ) -> list[Array | None]:
        if not self.batches:
            return self._one(found, t_found, given, t_given)
        (axis, axes), rest = self.batches[-1], self.batches[:-1]
        count = len(found)
        in_axes = [list(axes[:count]), list(axes[count:])]
        inner = dataclasses.replace(self, batches=rest)
        return jax.vmap(
            inner.tangents,
            in_axes=(in_axes[0], in_axes[0], in_axes[1], in_axes[1]),
            axis_name=axis.name,
            axis_size=axis.size,
            spmd_axis_name=axis.spmd_name,
        )(found, t_found, given, t_given)

    def _one(self, found, t_found, given, t_given) -> list[Array | None]:
        def whole(dynamic: list) -> tuple[PyTree, dict[str, Any]]:
            arrays = iter(dynamic)
            return jtu.tree_unflatten(
                self.given, [next(arrays) if s is None else s for s in self.static]
            )

        def moving_part(moving: list) -> tuple[PyTree, dict[str, Any]]:
            arrays = iter(moving)
            return jtu.tree_unflatten(
                self.given, [next(arrays) if s is None else None for s in self.static]
            )

        given, options = whole(given)
        t_given, t_options = moving_part(t_given)
        if jtu.tree_leaves(t_options):
            raise TypeError("The options of a root have no derivatives.")
        found, t_found = (jtu.tree_unflatten(self.found, x) for x in (found, t_found))
        out = promoting(self.rule)(found, t_found, given, t_given, **options)
        return self.found.flatten_up_to(out)


_root_p = Primitive("implicit_eig_root")
_root_p.multiple_results = True


def _same(*args: Array, count: int, **_: Any) -> list[Array]:
    return list(args[:count])


_root_p.def_impl(_same)
_root_p.def_abstract_eval(_same)
mlir.register_lowering(_root_p, mlir.lower_fun(_same, multiple_results=True))


def _jvp(primals, tangents, *, step: _Step, count: int):
    found = _root_p.bind(*primals, step=step, count=count)
    moving = [_or_none(t) for t in tangents]
    given = list(primals[count:])
    out = step.tangents(found, moving[:count], given, moving[count:])
    still = [
        t if type(t) is ad.Zero else jnp.zeros_like(x)
        for t, x in zip(tangents[:count], found, strict=True)
    ]
    return found, [s if t is None else t for t, s in zip(out, still, strict=True)]


def _or_none(t: Any) -> Array | None:
    still = type(t) is ad.Zero or jnp.result_type(t) == jax.dtypes.float0
    return None if still else t  # pyright: ignore[reportReturnType]


def _batch(axis, args, axes, *, step: _Step, count: int):
    if all(at is None for at in axes):
        return _root_p.bind(*args, step=step, count=count), [None] * count

    def in_front(x: Array, at: int | None) -> Array:
        if at is None:
            return jnp.broadcast_to(x, (axis.size, *x.shape))
        return jnp.moveaxis(x, at, 0)

    found = [in_front(*x) for x in zip(args[:count], axes[:count], strict=True)]
    axes = (*[0] * count, *axes[count:])
    step = dataclasses.replace(step, batches=(*step.batches, (axis, axes)))
    out = _root_p.bind(*found, *args[count:], step=step, count=count)
    return out, [0] * count


def _transpose(cotangents, *args, step: _Step, count: int):
    del step  # the map is the identity in what was found
    return [*cotangents, *[None] * (len(args) - count)]


ad.primitive_jvps[_root_p] = _jvp
ad.primitive_transposes[_root_p] = _transpose
batching.fancy_primitive_batchers[_root_p] = _batch
