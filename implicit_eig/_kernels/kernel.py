"""Functions that are replaced by a kernel if there is one."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, PyTree

from .library import in_use, target


def kernel(name: str, *, in_place: int | None = None) -> Callable[[Callable], "Kernel"]:
    """Marks a function of pytrees of arrays, passed by position, that the kernel `name`
    also computes: on the leaves of its arguments and results, in order.

    The first result may overwrite argument `in_place`. If the kernel cannot be used, the
    function itself is: see `library`. Has no derivatives.
    """

    def of(fn: Callable) -> Kernel:
        made = Kernel(name, fn, in_place)
        functools.update_wrapper(made, fn)
        return made

    return of


class Kernel:
    def __init__(self, name: str, fn: Callable[..., PyTree[Array]], in_place: int | None):
        self.name, self.fn, self.in_place = name, fn, in_place

    def __call__(self, *args: PyTree[Array]) -> PyTree[Array]:
        if not in_use():
            return self.fn(*args)
        leaves, structure = jtu.tree_flatten(args)
        call = _Call(self, structure)
        out = _kernel_p.bind(*map(jnp.asarray, leaves), call=call)
        return jtu.tree_unflatten(jtu.tree_structure(jax.eval_shape(self.fn, *args)), out)


@dataclasses.dataclass(frozen=True)
class _Call:
    """A kernel, and the structure of its arguments."""

    kernel: Kernel
    structure: Any

    def plain(self, *leaves: Array) -> list[Array]:
        """The same without the kernel."""
        args = jtu.tree_unflatten(self.structure, leaves)
        return jtu.tree_leaves(self.kernel.fn(*args))

    def shapes(self, *leaves: Any) -> list[jax.ShapeDtypeStruct]:
        """The shapes of the results."""
        return jax.eval_shape(
            self.plain, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
        )

    def aliases(self) -> dict[int, int]:
        """Maps leaves of the arguments to the leaves of the results that may overwrite
        them."""
        if self.kernel.in_place is None:
            return {}
        each = jtu.treedef_children(self.structure)
        first = sum(x.num_leaves for x in each[: self.kernel.in_place])
        return {first + i: i for i in range(each[self.kernel.in_place].num_leaves)}


_kernel_p = Primitive("implicit_eig_kernel")
_kernel_p.multiple_results = True


@functools.partial(jax.jit, static_argnames="call")
def _compiled(*leaves: Array, call: _Call) -> list[Array]:
    return _kernel_p.bind(*leaves, call=call)


def _impl(*leaves: Array, call: _Call) -> list[Array]:
    with jax.disable_jit(False):
        return _compiled(*leaves, call=call)


def _abstract(*leaves: Any, call: _Call) -> list[Any]:
    return [jax.core.ShapedArray(x.shape, x.dtype) for x in call.shapes(*leaves)]  # pyright: ignore[reportAttributeAccessIssue]


def _plain(*leaves: Array, call: _Call) -> list[Array]:
    return call.plain(*leaves)


_lower_plain = mlir.lower_fun(_plain, multiple_results=True)


def _lower(ctx: mlir.LoweringRuleContext, *leaves: Any, call: _Call) -> Any:
    # A reader of an exported program may not have the kernels. (A JAX that does not tell
    # whether it exports gets none, which a test detects.)
    if getattr(ctx.module_context.lowering_parameters, "for_export", True):
        return _lower_plain(ctx, *leaves, call=call)
    name = target(call.kernel.name)
    return jax.ffi.ffi_lowering(name, operand_output_aliases=call.aliases())(ctx, *leaves)


def _batch(args, axes, *, call: _Call):
    """Runs members one after the other, like all iterations on CPUs (`one_by_one`)."""
    moved = [
        x if at is None else jnp.moveaxis(x, at, 0)
        for x, at in zip(args, axes, strict=True)
    ]
    batched = [x for x, at in zip(moved, axes, strict=True) if at is not None]

    def one(members: list[Array]) -> list[Array]:
        rest = iter(members)
        leaves = [
            x if at is None else next(rest) for x, at in zip(moved, axes, strict=True)
        ]
        return _kernel_p.bind(*leaves, call=call)

    out = jax.lax.map(one, batched)
    return out, [0] * len(out)


_kernel_p.def_impl(_impl)
_kernel_p.def_abstract_eval(_abstract)
mlir.register_lowering(_kernel_p, _lower_plain)
mlir.register_lowering(_kernel_p, _lower, platform="cpu")
batching.primitive_batchers[_kernel_p] = _batch
