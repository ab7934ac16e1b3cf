"""How iterations run under `vmap`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, PyTree


def one_by_one(fn: Callable[..., PyTree], *args: Any) -> PyTree:
    """`fn(*args)`; under `vmap` on CPUs, one member after the other.

    A batched `while_loop` runs until its slowest member is done, takes both branches of
    every `cond`, and copies the state of all members in each step to keep that of the
    finished ones. One at a time, a member stays in cache and ends when it is done: about
    8 times as fast for a Krylov run on 64 operators of order 2000. (On accelerators, a
    batch is what fills the device.)

    `fn` must not close over arrays.
    """
    if jax.default_backend() != "cpu":
        return fn(*args)
    dynamic, static = eqx.partition(args, eqx.is_array)
    statics = []

    @jax.custom_batching.sequential_vmap
    def call(dynamic):
        dynamic, static_out = eqx.partition(
            fn(*eqx.combine(dynamic, static)), eqx.is_array
        )
        statics.append(static_out)
        return dynamic

    out = call(dynamic)
    return eqx.combine(out, statics[0])


def each(fn: Callable[[PyTree], PyTree], rows: PyTree) -> PyTree:
    """`fn` of every row; on CPUs one after the other, because batched factorisations that
    run side by side there can deadlock over threads; elsewhere all at once."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(fn, rows)
    return jax.vmap(fn)(rows)


def either(
    which: Bool[Array, ""],
    true: Callable[[PyTree[Array]], PyTree[Array]],
    false: Callable[[PyTree[Array]], PyTree[Array]],
    x: PyTree[Array],
) -> Any:
    """`true(x)` if `which`, else `false(x)`. In a batch, both run if `which` is true for
    any member, otherwise only `false`; a `cond` would always run both."""

    def run(x):
        return jtu.tree_map(lambda t, f: jnp.where(which, t, f), true(x), false(x))

    return jax.lax.cond(eqxi.unvmap_any(which), run, false, x)


def only_if(
    true: Bool[Array, ""], fn: Callable[[PyTree[Array]], PyTree[Array]], x: PyTree[Array]
) -> Any:
    """`fn(x)` if `true`, else x."""
    return either(true, fn, lambda x: x, x)
