"""How tangents and cotangents are solved, and how their answers are judged."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, Inexact

from .._check import check_integer, check_real
from .._eigensolver import AbstractEigensolver, Dense, KrylovSchur
from .._linear_solver import (
    AbstractSylvesterSolver,
    Columnwise,
    KrylovSylvester,
    ProjectedSylvester,
)
from .._operator import as_operator, Pencil
from .._solution import raise_if
from .._which import AbstractSelection, Known


class ImplicitAdjoint(eqx.Module):
    """Derivatives by the implicit function theorem: how the linear systems are solved.

    **Arguments:**

    - `linear_solver`: any `lineax.AbstractLinearSolver`, which then solves one shifted
        system a pair, projected to the complement of the selected subspace; or
        `KrylovSylvester(...)`, which solves all pairs at once. `None` takes
        `KrylovSylvester` for pairs found by `KrylovSchur`, else `lineax.LU()`.
    - `preconditioner`: an operator (anything `eigs` takes) approximating `(A − λB)⁻¹` on
        the selected eigenvalues, for iterative lineax solvers that know the option; it
        is transposed for transposed systems.
    - `rtol`: the backward error `‖residual‖ / (‖A‖ ‖Y‖ + ‖rhs‖)` a solve must reach, in
        Frobenius norms of the blocks of all pairs: what is asked for of a small column
        is relative to the largest. It is refined up to twice, then fails. Default:
        `eps^(2/3)`.
    - `max_steps`: largest number of products with A in one run of `KrylovSylvester`;
        lineax solvers carry their own.

    A solve that misses `rtol` raises under `throw=True`, else gives NaN.
    """

    linear_solver: lx.AbstractLinearSolver | AbstractSylvesterSolver | None = None
    preconditioner: lx.AbstractLinearOperator | None = None
    rtol: float | None = eqx.field(static=True, default=None)
    max_steps: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        allowed = (lx.AbstractLinearSolver, AbstractSylvesterSolver, type(None))
        if not isinstance(self.linear_solver, allowed):
            raise TypeError(
                "`linear_solver` must be a lineax solver or one of this package's; got "
                f"{self.linear_solver!r}."
            )
        if self.rtol is not None:
            check_real("rtol", self.rtol)
        if self.max_steps is not None:
            check_integer("max_steps", self.max_steps, 1)
            if isinstance(self.linear_solver, lx.AbstractLinearSolver):
                raise ValueError(
                    "Give `max_steps` to the lineax solver itself; got "
                    f"`max_steps={self.max_steps}` beside {self.linear_solver!r}."
                )

    def bind(
        self,
        pencil: Pencil,
        eigensolver: AbstractEigensolver | None,
        selection: AbstractSelection,
        k: int,
        throw: bool,
    ) -> "SylvesterSolve":
        """Chooses the solver for pairs of `pencil` found by `eigensolver`."""
        solver = self.linear_solver
        if isinstance(solver, lx.AbstractLinearSolver):
            solver = Columnwise(solver)
        elif solver is None:
            solver = self._choose(pencil, eigensolver)
        preconditioner = None
        if self.preconditioner is not None:
            structure = pencil.operator.in_structure()
            operator = as_operator(self.preconditioner, structure, name="preconditioner")
            preconditioner = Pencil(operator, None)
            if preconditioner.n != pencil.n:
                raise ValueError(
                    f"`preconditioner` has order {preconditioner.n}, the operator "
                    f"{pencil.n}."
                )
        eps = float(jnp.finfo(pencil.dtype).eps)
        rtol = eps ** (2 / 3) if self.rtol is None else self.rtol
        return SylvesterSolve(solver, preconditioner, selection, k, rtol, throw)

    def _choose(
        self, pencil: Pencil, eigensolver: AbstractEigensolver | None
    ) -> AbstractSylvesterSolver:
        if isinstance(eigensolver, KrylovSchur):
            run = eigensolver
        elif (
            isinstance(pencil.operator, lx.MatrixLinearOperator)
            or pencil.mass is not None
            or isinstance(eigensolver, Dense)
            or pencil.n <= 1000
        ):
            return Columnwise(lx.LU())
        else:
            run = KrylovSchur()
        m, restarts = run.krylov_dim, run.max_restarts
        if self.max_steps is not None:
            restarts = max(1, self.max_steps // max(1, (m or 20) // 2))
        return KrylovSylvester(krylov_dim=m, max_restarts=restarts, repeated=run.repeated)


_FAILED = (
    "The linear solve for a tangent or cotangent of the selected eigenpairs missed its "
    "tolerance (`ImplicitAdjoint.rtol`). The eigenvalues may be too close to unselected "
    "ones, or the solver is not suited: pass another `linear_solver` to "
    "`adjoint=ImplicitAdjoint(...)`, a preconditioner, more steps, or a looser `rtol`. "
    "With `throw=False` such derivatives are NaN instead."
)


class SylvesterSolve(eqx.Module):
    """A solver with its orders: `solve(system, rhs)` solves, checks, refines, reports."""

    solver: AbstractSylvesterSolver
    preconditioner: Pencil | None
    selection: AbstractSelection
    k: int = eqx.field(static=True)
    rtol: float = eqx.field(static=True)
    throw: bool = eqx.field(static=True)

    def for_pairs(
        self, eigenvalues: Complex[Array, " m"], active: Bool[Array, " m"]
    ) -> "SylvesterSolve":
        """Once the pairs are known: a selection that asks for overlaps means nothing to
        an augmented operator, so look for the eigenvalues themselves."""
        if self.selection.target() is None:
            return self
        known = Known(jnp.where(active, eigenvalues, eigenvalues[0]))
        return eqx.tree_at(lambda s: s.selection, self, known)

    def transpose(self) -> "SylvesterSolve":
        preconditioner = self.preconditioner
        if preconditioner is not None:
            preconditioner = preconditioner.transpose()
        return SylvesterSolve(
            self.solver.transpose(),
            preconditioner,
            self.selection,
            self.k,
            self.rtol,
            self.throw,
        )

    def __call__(
        self, system: ProjectedSylvester, rhs: Inexact[Array, "n m"]
    ) -> Inexact[Array, "n m"]:
        def step(state):
            y, residual, _, rounds = state
            y = y + self.solver.solve(
                system,
                residual,
                selection=self.selection,
                k=self.k,
                preconditioner=self.preconditioner,
                rtol=self.rtol,
            )
            # The part along the border comes from the right side's rounding only.
            y = system.restrict(y)
            image = system.mm(y)
            residual = rhs - image
            return (
                y,
                residual,
                self._backward_error(system, y, residual, rhs),
                rounds + 1,
            )

        def missed(state):
            _, _, error, rounds = state
            return (rounds == 0) | ((error > self.rtol) & (rounds < 3))

        rhs = system.project(rhs)
        infinite = jnp.asarray(jnp.inf, rhs.real.dtype)
        init = (jnp.zeros_like(rhs), rhs, infinite, jnp.asarray(0))
        y, _, error, _ = jax.lax.while_loop(missed, step, init)
        failed = ~(error <= self.rtol)
        if self.throw:
            return raise_if(y, (failed, _FAILED))
        return jnp.where(failed, jnp.nan, y)

    @staticmethod
    def _backward_error(system, y, residual, rhs) -> Float[Array, ""]:
        """‖residual‖ / (‖A‖ ‖Y‖ + ‖rhs‖) of the whole block, with a lower bound for ‖A‖.

        Not relative to the right side alone: nearly tied neighbours make the solution,
        not the error, large. Not column by column: a loss on one pair leaves rounding
        errors for the others' right sides, which no solver can solve to their own size.
        """
        size = jnp.linalg.norm(y)
        image = jnp.linalg.norm(rhs - residual)
        norm = jnp.maximum(system.scale, image / jnp.where(size > 0, size, 1))
        error = jnp.linalg.norm(residual)
        return jnp.where(error > 0, error / (norm * size + jnp.linalg.norm(rhs)), error)
