"""The base class of eigensolvers."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, Inexact

from .._operator import Pencil
from .._progress_meter import AbstractProgressMeter
from .._spectral import AbstractSelection
from .block import InvariantBlock


class AbstractEigensolver(eqx.Module):
    """Finds the selected eigenpairs of a pencil. No derivatives: they are the rule's.

    A subclass implements `compute`. Whatever it runs, the derivative of its pairs is
    taken by the implicit rule at the pairs it returns.

    !!! Example

        Subspace iteration (Bauer 1957), for eigenvalues of largest modulus:

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        class SubspaceIteration(ieig.AbstractEigensolver):
            num_steps: int = 300

            def compute(self, pencil, selection, k, *, v0, left, progress_meter):
                x = jax.random.normal(jax.random.key(0), (pencil.n, 2 * k), pencil.dtype)

                def step(_, x):
                    return jnp.linalg.qr(pencil.mm(x))[0]

                x = jax.lax.fori_loop(0, self.num_steps, step, x)
                w, y = jnp.linalg.eig(x.conj().T @ pencil.mm(x))
                return ieig.InvariantBlock.from_pairs(
                    pencil, selection, k, w, x.astype(y.dtype) @ y,
                    stats={"num_matvecs": 2 * k * (self.num_steps + 1)},
                )

        a = jnp.diag(jnp.arange(6.0)).at[0, 5].set(1.0)
        ieig.eigs(a, k=2, eigensolver=SubspaceIteration())
        ```
    """

    @abc.abstractmethod
    def compute(
        self,
        pencil: Pencil,
        selection: AbstractSelection,
        k: int,
        *,
        v0: Inexact[Array, " n"] | None,
        left: bool,
        progress_meter: AbstractProgressMeter,
    ) -> InvariantBlock:
        """Returns the `k` best pairs of `pencil` in the sense of `selection`.

        `v0` is a start vector or `None`; `left` asks for the left basis. Runs under
        `jit` and `vmap`.
        """

    def rescaled(self, size: Float[Array, ""]) -> "AbstractEigensolver":
        """The same for eigenvalues in units of `size`, if it holds any. `size` is 1 but
        for operators of extreme size."""
        del size
        return self
