"""Bundles that the package makes for itself."""

import dataclasses
from typing import dataclass_transform, TypeVar

import jax


T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """A frozen dataclass that is a pytree; fields marked `static` are its structure.

    What `eqx.Module` is for classes that users meet, but made as fast as any dataclass;
    and its methods are no pytrees, of which a plain call would make one at each access.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    return jax.tree_util.register_dataclass(cls)
