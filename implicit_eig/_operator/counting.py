"""An operator that counts its products."""

from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import lineax as lx
import numpy as np
from jaxtyping import Array

from .structure import promises_nothing, transposed


class _Tally:
    """Counters on the host; compared by identity, so a jitted program keeps its own."""

    def __init__(self):
        self.products = 0
        self.transposed = 0

    def tick(self, leaf: Array, transposed: bool) -> Array:
        """`leaf`, counted when the program gets here.

        A pure callback whose result is used, not an effect: an effect would keep linear
        solves alive that nothing needs, and so change what is being counted.
        """

        def add(entry: Any) -> Any:
            if transposed:
                self.transposed += 1
            else:
                self.products += 1
            return np.ones_like(entry)

        entry = leaf.reshape(-1)[0]
        one = jax.pure_callback(
            add, jax.ShapeDtypeStruct((), leaf.dtype), entry, vmap_method="sequential"
        )
        return leaf * one


@promises_nothing
class CountingOperator(lx.AbstractLinearOperator):
    """Wraps an operator and counts, on the host, every product with it.

    Counts are exact under `jit`, `vmap` (each column of a block counts), inside loops
    and in tangent and cotangent solves, where a gradient spends its products and no
    `stats` can report them. Counting costs a host callback per product: it is for
    measuring, not for production.

    !!! Example

        ```python
        import jax.numpy as jnp, lineax as lx, implicit_eig as ieig

        a = jnp.diag(jnp.arange(100.0))
        op = ieig.CountingOperator(lx.MatrixLinearOperator(a))
        ieig.eigs(op, k=2)
        products, transposed = op.counts()
        ```
    """

    operator: lx.AbstractLinearOperator
    tally: _Tally = eqx.field(static=True)
    transposed: bool = eqx.field(static=True)

    def __init__(self, operator: lx.AbstractLinearOperator):
        self.operator = operator
        self.tally = _Tally()
        self.transposed = False

    def counts(self) -> tuple[int, int]:
        """Products with `A` and with its transpose since the last `reset`."""
        jax.block_until_ready(jax.live_arrays())  # programs may still be running
        return self.tally.products, self.tally.transposed

    def reset(self) -> None:
        self.counts()
        self.tally.products = self.tally.transposed = 0

    def mv(self, vector: Any) -> Any:
        return self.operator.mv(self._counted(vector))

    def _counted(self, vector: Any) -> Any:
        """The vector itself. Its tangent counts as one more product, its cotangent as one
        with the transpose."""
        leaves, treedef = jtu.tree_flatten(vector)
        tick, transposed = self.tally.tick, self.transposed
        leaves[0] = jax.lax.custom_linear_solve(
            lambda x: x,
            leaves[0],
            lambda _, x: tick(x, transposed),
            lambda _, x: tick(x, not transposed),
        )
        return jtu.tree_unflatten(treedef, leaves)

    def transpose(self) -> "CountingOperator":
        new = object.__new__(CountingOperator)
        object.__setattr__(new, "operator", transposed(self.operator))
        object.__setattr__(new, "tally", self.tally)
        object.__setattr__(new, "transposed", not self.transposed)
        return new

    def as_matrix(self) -> jax.Array:
        return self.operator.as_matrix()

    def in_structure(self) -> Any:
        return self.operator.in_structure()

    def out_structure(self) -> Any:
        return self.operator.out_structure()
