"""How tangents and cotangents are solved, and how their answers are judged."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact

from .._check import check_integer, check_real
from .._eigensolver import (
    AbstractEigensolver,
    Dense,
    InvariantBlock,
    KrylovSchur,
    ShiftInvert,
)
from .._linear_solver import (
    AbstractSylvesterSolver,
    Columnwise,
    Eigenbasis,
    JaxoptSolver,
    KrylovSylvester,
    ProjectedSylvester,
)
from .._operator import as_operator, complex_dtype, Pencil
from .._transformation import AbstractTransformation, Inverse, ShiftInverted
from .._which import AbstractSelection, Known


class ImplicitAdjoint(eqx.Module):
    """Derivatives by the implicit function theorem: how the linear systems are solved.

    **Arguments:**

    - `linear_solver`: any `lineax.AbstractLinearSolver` (or a `JaxoptSolver`), which then
        solves one shifted system a pair, projected to the complement of the selected
        subspace; or `KrylovSylvester(...)` or `DeflatedGMRES(...)`, which solve all pairs
        at once. `None` takes `KrylovSylvester` for pairs found by `KrylovSchur` or
        `ShiftInvert`; for those of `Dense` the eigenvectors of the rest, where they are
        well-conditioned; else `lineax.LU()`.
    - `preconditioner`: an operator (anything `eigs` takes) approximating `(A − λB)⁻¹` on
        the selected eigenvalues, for `DeflatedGMRES` and iterative lineax solvers that
        know the option; it is transposed for transposed systems. Where the system is
        real, the real part of a complex one is taken. Default: for pairs found by
        `ShiftInvert` its factor of A − σB.
    - `rtol`: the backward error `‖residual‖ / (‖A‖ ‖Y‖ + ‖rhs‖)` a solve must reach, in
        Frobenius norms of the blocks of all pairs: what is asked for of a small column
        is relative to the largest. It is refined up to twice, then fails. Default:
        `eps^(2/3)`.
    - `max_steps`: largest number of products with A in one run of the default
        `KrylovSylvester`; a solver that is given carries its own.

    A solve that misses `rtol` raises, as `throw` says. Where it does not, it gives NaN:
    in forward mode for the pairs whose own systems missed it (left vectors: for all,
    being dual to all right ones), in reverse mode for the gradient it is part of, which
    is a sum over the pairs. Members of a batch fail each for itself.
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
            if self.linear_solver is not None:
                raise ValueError(
                    "Give a limit on its steps to the linear solver itself; got "
                    f"`max_steps={self.max_steps}` beside {self.linear_solver!r}."
                )

    def bind(
        self,
        pencil: Pencil,
        eigensolver: AbstractEigensolver | None,
        selection: AbstractSelection,
        k: int,
    ) -> "SylvesterSolve":
        """Chooses the solver for pairs of `pencil` found by `eigensolver`."""
        solver = self.linear_solver
        if isinstance(solver, JaxoptSolver) and (k > 1 or not pencil.is_real):
            # Shifted systems are complex, but for a single real pair.
            solver.check(complex_dtype(pencil.dtype))
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
        return SylvesterSolve(solver, preconditioner, selection, k, rtol)

    def _choose(
        self, pencil: Pencil, eigensolver: AbstractEigensolver | None
    ) -> AbstractSylvesterSolver:
        if isinstance(eigensolver, KrylovSchur):
            run = eigensolver
        elif isinstance(eigensolver, ShiftInvert):
            run = eigensolver.inner
        elif isinstance(eigensolver, Dense):
            return Eigenbasis()
        elif (
            isinstance(pencil.operator, lx.MatrixLinearOperator)
            or pencil.mass is not None
            or pencil.n <= 1000
        ):
            return Columnwise(lx.LU())
        else:
            run = KrylovSchur()
        m, restarts = run.krylov_dim, run.max_restarts
        if self.max_steps is not None:
            restarts = max(1, self.max_steps // max(1, (m or 20) // 2))
        return KrylovSylvester(krylov_dim=m, max_restarts=restarts, repeated=run.repeated)


# Stands for the backward error of what is not finite.
_NO_ANSWER = 1e30


class Solved(NamedTuple):
    """The solution of a system, which pairs missed their tolerance, and the backward
    error of a block that did, zero of one that did not."""

    solution: Inexact[Array, "n m"]
    failed: Bool[Array, " m"]
    error: Float[Array, ""]


class SylvesterSolve(eqx.Module):
    """A solver with its orders: `solve(system, rhs)` solves, checks, refines, reports."""

    solver: AbstractSylvesterSolver
    preconditioner: Pencil | Inverse | None
    selection: AbstractSelection
    k: int = eqx.field(static=True)
    rtol: float = eqx.field(static=True)
    transformation: AbstractTransformation | None = None
    norm: Float[Array, ""] | None = None

    def for_block(self, block: InvariantBlock) -> "SylvesterSolve":
        """Once the pairs are known: with what their eigensolver leaves behind."""
        selection, preconditioner = self.selection, self.preconditioner
        if selection.target() is not None:
            # Overlaps mean nothing to an augmented operator: look for the eigenvalues.
            values = block.eigenvalues
            selection = Known(jnp.where(block.active, values, values[0]))
        transformation = block.transformation
        if preconditioner is None and isinstance(transformation, ShiftInverted):
            preconditioner = transformation.inverse
        return dataclasses.replace(
            self,
            solver=self.solver.for_block(block),
            selection=selection,
            preconditioner=preconditioner,
            transformation=transformation,
            norm=block.norm,
        )

    def transpose(self) -> "SylvesterSolve":
        def transposed(x):
            return None if x is None else x.transpose()

        return dataclasses.replace(
            self,
            solver=self.solver.transpose(),
            preconditioner=transposed(self.preconditioner),
            transformation=transposed(self.transformation),
        )

    def __call__(
        self,
        system: ProjectedSylvester,
        rhs: Inexact[Array, "n m"],
        coordinates: Complex[Array, "m m"] | None = None,
    ) -> "Solved":
        """The solution, and what of it missed the tolerance: which pairs, where the
        eigenvectors W of the system's matrix are given, else all or none."""

        def step(state):
            y, residual, _, rounds = state
            y = y + self.solver.solve(
                system,
                residual,
                selection=self.selection,
                k=self.k,
                preconditioner=self.preconditioner,
                transformation=self.transformation,
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
        y, residual, error, _ = jax.lax.while_loop(missed, step, init)
        failed = ~(error <= self.rtol)
        error = jnp.where(failed, jnp.where(jnp.isfinite(error), error, _NO_ANSWER), 0)
        m = rhs.shape[1]
        if coordinates is None:
            return Solved(y, jnp.broadcast_to(failed, (m,)), error)
        pairs = jax.lax.cond(
            failed,
            lambda: ~(self._errors(system, y, residual, rhs, coordinates) <= self.rtol),
            lambda: jnp.zeros(m, bool),
        )
        return Solved(y, pairs, error)

    def _backward_error(self, system, y, residual, rhs) -> Float[Array, ""]:
        """‖residual‖ / (‖A‖ ‖Y‖ + ‖rhs‖) of the whole block, with a lower bound for ‖A‖.

        Not relative to the right side alone: nearly tied neighbours make the solution,
        not the error, large. Not column by column: a loss on one pair leaves rounding
        errors for the others' right sides, which no solver can solve to their own size.
        Nor below the rounding of a product with A, far from whose norm the pairs may be.
        """
        size = jnp.linalg.norm(y)
        image = jnp.linalg.norm(rhs - residual)
        norm = jnp.maximum(system.scale, image / jnp.where(size > 0, size, 1))
        norm = jnp.maximum(norm, self._rounding(rhs.dtype))
        error = jnp.linalg.norm(residual)
        return jnp.where(error > 0, error / (norm * size + jnp.linalg.norm(rhs)), error)

    def _rounding(self, dtype) -> Float[ArrayLike, ""]:
        if self.norm is None:
            return 0.0
        return 100 * jnp.finfo(dtype).eps * self.norm / self.rtol

    def _errors(self, system, y, residual, rhs, coordinates) -> Float[Array, " m"]:
        """The backward errors of the pairs, of a block that missed its tolerance.

        In eigen-coordinates the block decouples: the derivative of pair i follows from
        `Y w_i` alone, which solves a system of its own with the residual `R w_i`. (Not so
        the columns of Y: one that failed spoils those it is coupled to.) What is asked
        for of a small right side is relative to the block's, as ever; but not to the
        block's solution, in which a column that failed may be of any size.
        """

        def sizes(x: Array) -> Float[Array, " m"]:
            return jnp.linalg.norm(x.astype(coordinates.dtype) @ coordinates, axis=0)

        size, image, error = sizes(y), sizes(rhs - residual), sizes(residual)
        norm = jnp.maximum(system.scale, image / jnp.where(size > 0, size, 1))
        norm = jnp.maximum(norm, self._rounding(rhs.dtype))
        bound = norm * size + jnp.linalg.norm(rhs)
        return jnp.where(error > 0, error / bound, error)
