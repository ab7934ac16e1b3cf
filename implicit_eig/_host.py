"""Calls of NumPy functions on the host.

Not `jax.pure_callback`: it passes arrays through JAX, and if XLA has only one thread,
which waits for the callback, none is left to copy them (a deadlock; jax#24255).
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array


_host_call_p = Primitive("implicit_eig_host_call")
_host_call_p.multiple_results = True


def host_call(
    fn: Callable[..., Any],
    results: tuple[jax.ShapeDtypeStruct, ...],
    *args: Array,
    **options: Hashable,
) -> tuple[Array, ...]:
    """`fn(*args, **options)`, run by NumPy on the host.

    Under `vmap`, arguments have a further leading axis, of length 1 if they are not
    batched, and so must the results. `fn` must be pure, up to what it caches. If it is a
    class, an instance is made, without arguments, for each place of a program when that
    is compiled; it lives as long as the program.
    """
    options_ = tuple(sorted(options.items()))
    return tuple(_host_call_p.bind(*args, fn=fn, results=results, options=options_))


@functools.cache
def _compiled(**params):
    return jax.jit(functools.partial(_host_call_p.bind, **params))


@_host_call_p.def_impl
def _(*args, **params):
    return _compiled(**params)(*args)


@_host_call_p.def_abstract_eval
def _(*avals, fn, results, options):
    del fn, options
    return [
        avals[0].update(shape=r.shape, dtype=r.dtype, weak_type=False) for r in results
    ]


def _lowered(ctx, *args, fn, results, options):
    del results
    run = fn() if isinstance(fn, type) else fn

    def call(*arrays):
        return tuple(run(*arrays, **dict(options)))

    out, *_ = mlir.emit_python_callback(
        ctx,
        call,
        None,
        list(args),
        ctx.avals_in,
        ctx.avals_out,
        has_side_effect=False,
        returns_token=False,
    )
    return out


mlir.register_lowering(_host_call_p, _lowered)


def _batched(args, axes, *, fn, results, options):
    size = next(
        x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None
    )
    args = [
        x[None] if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(args, axes, strict=True)
    ]
    results = tuple(jax.ShapeDtypeStruct((size, *r.shape), r.dtype) for r in results)
    out = _host_call_p.bind(*args, fn=fn, results=results, options=options)
    return out, [0] * len(out)


batching.primitive_batchers[_host_call_p] = _batched
