"""Bundles that the package makes for itself."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, dataclass_transform, TypeVar

import equinox as eqx
import jax


T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(eqx.field,))
def record(cls: type[T]) -> type[T]:
    """A frozen dataclass that is a pytree; fields marked `static` are its structure.

    What `eqx.Module` is for classes that users meet, but made as fast as any dataclass;
    and its methods are no pytrees, of which a plain call would make one at each access.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    return jax.tree_util.register_dataclass(cls)


class quick:
    """A method of an `eqx.Module` that every plain call asks for: bound as Python binds
    methods, and no pytree of its own, which takes as long to make as a small matrix
    takes to be diagonalised."""

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn
        self.__doc__ = fn.__doc__

    def __get__(self, obj: Any, owner: Any = None) -> Callable[..., Any]:
        return self.fn if obj is None else functools.partial(self.fn, obj)
