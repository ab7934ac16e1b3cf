"""The pencil A − λB acting on flat vectors and on blocks of them.

Everything behind the public functions works on flat vectors of length n; only this module
knows the pytree on which a user's operator acts.
"""

import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
from jaxtyping import Array, DTypeLike, Inexact, PyTree

from .._record import record
from .sparse import SparseOperator
from .structure import transposed


def complex_dtype(dtype: DTypeLike) -> np.dtype:
    """The complex dtype of the same precision (also under strict promotion)."""
    return np.result_type(dtype, np.complex64)


_LEAF = jtu.tree_structure(0)


@dataclass(frozen=True)
class Domain:
    """The vector space an operator acts on: a pytree of arrays of one dtype."""

    leaves: tuple[jax.ShapeDtypeStruct, ...]
    treedef: Any

    @classmethod
    def of(cls, structure: PyTree[jax.ShapeDtypeStruct]) -> "Domain":
        leaves, treedef = jtu.tree_flatten(structure)
        return cls(tuple(jax.ShapeDtypeStruct(s.shape, s.dtype) for s in leaves), treedef)

    @classmethod
    def of_operator(cls, operator: lx.AbstractLinearOperator) -> "Domain":
        """The domain of an operator. Avoids lineax's method for plain matrices, for which
        every plain call would wait."""
        if type(operator) is lx.MatrixLinearOperator:
            shape, dtype = operator.matrix.shape[-1:], operator.matrix.dtype
            return cls((jax.ShapeDtypeStruct(shape, dtype),), _LEAF)
        return cls.of(operator.in_structure())

    @property
    def n(self) -> int:
        return sum(math.prod(s.shape) for s in self.leaves)

    @property
    def dtype(self) -> jnp.dtype:
        return self.leaves[0].dtype

    def flatten(self, tree: PyTree[Array]) -> Inexact[Array, " n"]:
        leaves = [leaf.reshape(-1) for leaf in jtu.tree_leaves(tree)]
        return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)

    def unflatten(self, x: Inexact[Array, "n *k"]) -> PyTree[Array]:
        """Back to the user's structure; a trailing axis is kept."""
        leaves, start = [], 0
        for s in self.leaves:
            size = math.prod(s.shape)
            leaves.append(x[start : start + size].reshape(s.shape + x.shape[1:]))
            start += size
        return jtu.tree_unflatten(self.treedef, leaves)


@record
class Pencil:
    """A − λB with products on flat vectors. `mass=None` is the identity.

    Real operators are only applied to real vectors: a complex block is multiplied as its
    real and imaginary parts side by side.
    """

    operator: lx.AbstractLinearOperator
    mass: lx.AbstractLinearOperator | None
    domain: Domain = eqx.field(static=True, default=None)  # that of `operator`

    def __post_init__(self):
        if self.domain is None:
            object.__setattr__(self, "domain", Domain.of_operator(self.operator))

    @property
    def n(self) -> int:
        return self.domain.n

    @property
    def dtype(self) -> jnp.dtype:
        return self.domain.dtype

    @property
    def is_real(self) -> bool:
        return not jnp.issubdtype(self.dtype, jnp.complexfloating)

    def mv(self, x: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
        return self.mm(x[:, None])[:, 0] if self._splits(x) else self._mv(x)

    def mm(self, x: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """A X."""
        return _block_product(self.operator, self.domain, self._splits(x), x)

    def mass_mm(self, x: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """B X."""
        if self.mass is None:
            return x
        return _block_product(self.mass, self.domain, self._splits(x), x)

    def sylvester(
        self, y: Inexact[Array, "n k"], l: Inexact[Array, "k k"]
    ) -> Inexact[Array, "n k"]:
        """A Y − B Y L."""
        return self.mm(y) - self.mass_mm(y) @ l

    def transpose(self) -> "Pencil":
        mass = None if self.mass is None else transposed(self.mass)
        return Pencil(transposed(self.operator), mass)

    def adjoint_mm(self, x: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Aᴴ X, by the transpose, which every lineax operator has."""
        return self.transpose().mm(x.conj()).conj()

    def adjoint_mass_mm(self, x: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Bᴴ X."""
        return self.transpose().mass_mm(x.conj()).conj()

    def _splits(self, x: Array) -> bool:
        return self.is_real and jnp.iscomplexobj(x)

    def _mv(self, x: Array) -> Array:
        return self.domain.flatten(self.operator.mv(self.domain.unflatten(x)))


def _block_product(
    operator: lx.AbstractLinearOperator, domain: Domain, split: bool, x: Array
) -> Array:
    if split:
        k = x.shape[1]
        y = _block_product(
            operator, domain, False, jnp.concatenate([x.real, x.imag], axis=1)
        )
        return jax.lax.complex(y[:, :k], y[:, k:])
    if isinstance(operator, lx.MatrixLinearOperator):
        return operator.matrix @ x
    if isinstance(operator, SparseOperator):
        return operator.mm(x)

    def column(v: Array) -> Array:
        return domain.flatten(operator.mv(domain.unflatten(v)))

    # With `in_axes=1`, transposes end up between the slices of a stencil; XLA then misses
    # its halo and gathers the whole block.
    return jax.vmap(column)(x.T).T
