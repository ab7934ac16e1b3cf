"""The base class of eigensolvers."""

import abc
from collections.abc import Iterator
from typing import Any, TYPE_CHECKING

import equinox as eqx
from jaxtyping import Array, Inexact, Num

from .._operator import Pencil, Scaling
from .._progress_meter import AbstractProgressMeter
from .._record import quick
from .._spectral import AbstractSelection
from .block import InvariantBlock


if TYPE_CHECKING:
    from .krylov_schur import KrylovSchur
    from .shift_invert import ShiftInvert


class AbstractEigensolver(eqx.Module):
    """Finds the selected eigenpairs of a pencil. Derivatives are left to the rule.

    A subclass implements `compute`. Whatever it runs, the implicit rule differentiates
    at the pairs it returns. The other methods tell the rest of the package what kind of
    solver it is, and what to combine it with; their defaults suit a solver that stands
    alone.

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
        """Returns the `k` best pairs of `pencil` as ranked by `selection`.

        `v0` is a start vector or `None`; `left` asks for the left basis. Runs under
        `jit` and `vmap`.
        """

    def rescaled(self, scaling: Scaling) -> "AbstractEigensolver":
        """The same solver for a pencil that was scaled to moderate size; differs if the
        solver holds anything that depends on the scale, such as a shift."""
        del scaling
        return self

    @property
    def target(self) -> Num[Array, ""] | None:
        """The shift near which it searches, if it holds one."""
        return None

    def check_target(self, sigma: Any) -> None:
        """Refuses the target `sigma` of a problem if the solver cannot use it."""
        del sigma

    @quick
    def suits(self, n: int, k: int) -> bool:
        """Whether k pairs of an operator of order n are few enough for this solver.
        Otherwise `eigs` takes `Dense`."""
        del n, k
        return True

    @quick
    def attempts(self, n: int, k: int) -> "Iterator[AbstractEigensolver]":
        """The solvers that a plain call runs in turn until the pairs converge."""
        del n, k
        yield self

    def advice(self, pencil: Pencil, selection: AbstractSelection, k: int) -> str:
        """What to try if pairs did not converge."""
        del pencil, selection, k
        return ""

    def shift_beside(
        self, pencil: Pencil, selection: AbstractSelection
    ) -> Num[Array, ""] | None:
        """A shift σ at which A − σB may be factorised for derivatives that miss their
        tolerance without a factorisation, when the pairs left no factor behind."""
        del pencil, selection
        return None

    def sharpened(self) -> "AbstractEigensolver":
        """The same solver, but with a block invariant to rounding even if the pairs
        themselves, being close to defective, are less accurate."""
        return self

    @property
    def krylov(self) -> "KrylovSchur | None":
        """The Krylov–Schur solver it runs, if any: derivatives run it once more."""
        return None

    @property
    def factoriser(self) -> "ShiftInvert | None":
        """The solver that factorises A − σB for it, if any."""
        return None

    @property
    def knows_all(self) -> bool:
        """Whether it finds the whole spectrum, which derivatives then use."""
        return False

    @property
    def left_is_cheap(self) -> bool:
        """Whether left vectors are so cheap that they are computed without being asked
        for."""
        return False
