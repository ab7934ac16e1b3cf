"""Internal data classes, and methods, that cost little in a plain call."""

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

    The counterpart of `eqx.Module` for internal classes: instances are made as fast as
    those of any dataclass, and methods are not pytrees, which a plain call would make at
    each access.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    return jax.tree_util.register_dataclass(cls)


class quick:
    """A method of an `eqx.Module` that every plain call uses: bound in Python's usual way
    instead of as a pytree, which takes as long to make as a small matrix to diagonalise.
    """

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn
        self.__doc__ = fn.__doc__

    def __get__(self, obj: Any, owner: Any = None) -> Callable[..., Any]:
        return self.fn if obj is None else functools.partial(self.fn, obj)
