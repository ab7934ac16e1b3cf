"""Linear maps of tangents with a custom transpose, and a workaround for JAX's own."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Inexact


Arrays = list[Array]


def promoting(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` under NumPy's rules of rank promotion, whatever the user has set: for code
    traced when a derivative is taken. (A user's own functions are traced earlier, under
    the user's rules.)"""

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_rank_promotion("allow"):
            return fn(*args, **kwargs)

    return run


def linear_map(
    name: str,
    forward: Callable[..., Arrays],
    backward: Callable[..., Sequence[Array | None]],
    *,
    first_only: bool = False,
    thin: bool = False,
) -> Callable[..., Arrays]:
    """A function `(tangents, known, **options)` that is `forward`, with `backward` as
    its transpose.

    `forward(tangents, known)` is linear in the tangents and returns as many, of the same
    shapes. `backward(cotangents, known)` receives None for an absent cotangent, and
    returns None for one that is not needed: unlike a `custom_linear_solve`, it can tell
    that from zero. All arrays may have the same batch axes in front.

    With `first_only`, only one of several nested derivatives is mapped. With `thin`,
    unbatched arrays in `known` have an axis of length one in place of a batch axis.
    """
    forward, backward = promoting(forward), promoting(backward)
    map_p = Primitive(name)
    map_p.multiple_results = True

    def apply(*args: Array, count: int, **options: Any) -> Arrays:
        return forward(args[:count], args[count:], **options)

    map_p.def_impl(apply)
    map_p.def_abstract_eval(lambda *avals, count, **options: list(avals[:count]))
    mlir.register_lowering(map_p, mlir.lower_fun(apply, multiple_results=True))

    def bind(tangents, known, **options) -> Arrays:
        return map_p.bind(*tangents, *known, count=len(tangents), **options)

    def jvp(primals, tangents, *, count, **options):
        known = primals[count:]
        values = list(primals[:count])
        if not first_only:
            values = bind(values, known, **options)
        moving = tangents[:count]
        if all(type(t) is ad.Zero for t in moving):
            return values, list(moving)
        moving = [ad.instantiate_zeros(t) for t in moving]
        return values, bind(moving, known, **options)

    def transpose(cotangents, *args, count, **options):
        asked = [None if type(ct) is ad.Zero else ct for ct in cotangents]
        if any(ct is not None for ct in asked):
            asked = backward(asked, args[count:], **options)
        return [*asked, *[None] * (len(args) - count)]

    def batch(args, axes, *, count, **options):
        size = next(
            x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None
        )

        def in_front(i, x, axis):
            if axis is not None:
                return jnp.moveaxis(x, axis, 0)
            return jnp.broadcast_to(x, (1 if thin and i >= count else size, *x.shape))

        args = [in_front(i, *x) for i, x in enumerate(zip(args, axes, strict=True))]
        out = map_p.bind(*args, count=count, **options)
        return out, [0] * len(out)

    ad.primitive_jvps[map_p] = jvp
    ad.primitive_transposes[map_p] = transpose
    batching.primitive_batchers[map_p] = batch
    return bind


def joined(*solution: Inexact[Array, "..."]) -> tuple[Inexact[Array, "..."], ...]:
    """The parts of the solution of one `custom_linear_solve`, unchanged.

    Ties the cotangent of an unused part to those of the others, by a branch that is never
    taken: JAX (0.10) cannot differentiate a transposed solve in which one part of the
    right side is constant.
    """
    unused = sum(jnp.sum(x.real) for x in solution)
    return tuple(jnp.where(False, unused.astype(x.dtype), x) for x in solution)  # pyright: ignore[reportAttributeAccessIssue]
