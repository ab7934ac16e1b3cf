"""An operator that counts its products."""

from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import lineax as lx

from .structure import promises_nothing


class _Tally:
    """Host-side counters; compared by identity, so a jitted program keeps its own."""

    def __init__(self):
        self.products = 0
        self.transposed = 0

    def add(self, transposed: bool) -> None:
        if transposed:
            self.transposed += 1
        else:
            self.products += 1


@promises_nothing
class CountingOperator(lx.AbstractLinearOperator):
    """Wraps an operator and counts, on the host, every product with it.

    Counts are exact under `jit`, `vmap` (each column of a block counts), inside loops
    and in tangent and cotangent solves, which is where a gradient spends its products
    and where no `stats` can report them. Counting costs a host callback a product: it
    is for measuring, not for production.

    !!! Example

        ```python
        op = ieig.CountingOperator(lx.MatrixLinearOperator(a))
        jax.grad(lambda op: ieig.eigs(op, k=2).eigenvalues[0].real, allow_int=True)(op)
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
        jax.effects_barrier()
        return self.tally.products, self.tally.transposed

    def reset(self) -> None:
        jax.effects_barrier()
        self.tally.products = self.tally.transposed = 0

    def mv(self, vector: Any) -> Any:
        # An entry of the vector goes along, so that `vmap` calls once a column.
        entry = jtu.tree_leaves(vector)[0].reshape(-1)[:1]
        tally, transposed = self.tally, self.transposed
        jax.debug.callback(lambda _: tally.add(transposed), jax.lax.stop_gradient(entry))
        return self.operator.mv(vector)

    def transpose(self) -> "CountingOperator":
        new = object.__new__(CountingOperator)
        object.__setattr__(new, "operator", self.operator.transpose())
        object.__setattr__(new, "tally", self.tally)
        object.__setattr__(new, "transposed", not self.transposed)
        return new

    def as_matrix(self) -> jax.Array:
        return self.operator.as_matrix()

    def in_structure(self) -> Any:
        return self.operator.in_structure()

    def out_structure(self) -> Any:
        return self.operator.out_structure()
