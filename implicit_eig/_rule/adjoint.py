"""How tangents and cotangents are solved, and how their answers are judged."""

import dataclasses
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, Inexact

from .._check import check_integer, check_real
from .._eigensolver import (
    AbstractEigensolver,
    InvariantBlock,
    KrylovSchur,
)
from .._linear_solver import JaxoptSolver
from .._numerics import inv
from .._operator import as_operator, complex_dtype, Pencil, times_real
from .._record import quick, record
from .._spectral import (
    AbstractSelection,
    AbstractTransformation,
    Inverse,
    Known,
    ShiftInverted,
)
from .._sylvester import (
    AbstractSylvesterSolver,
    Columnwise,
    Eigenbasis,
    KrylovSylvester,
    ProjectedSylvester,
)
from .._sylvester.system import times


class ImplicitAdjoint(eqx.Module):
    """Derivatives by the implicit function theorem: how the linear systems are solved.

    **Arguments:**

    - `linear_solver`: any `lineax.AbstractLinearSolver` (or a `JaxoptSolver`), which then
        solves one shifted system per pair, projected onto the complement of the selected
        subspace; or `KrylovSylvester(...)` or `DeflatedGMRES(...)`, which solve for all
        pairs at once. `None` takes `KrylovSylvester` for pairs found by `KrylovSchur` or
        `ShiftInvert`; for pairs of `Dense`, the eigenvectors of the rest if they are
        well-conditioned; else `lineax.LU()`.
    - `preconditioner`: an operator (anything `eigs` takes) approximating `(A − λB)⁻¹` for
        the selected eigenvalues, for `DeflatedGMRES` and iterative lineax solvers that
        know the option; it is transposed for transposed systems. If the system is real,
        the real part of a complex preconditioner is taken. Default: for pairs found by
        `ShiftInvert`, its factor of A − σB.
    - `rtol`: the backward error `‖residual‖ / (‖A‖ ‖Y‖ + ‖rhs‖)` a solve must reach, in
        Frobenius norms of the blocks of all pairs: small columns are judged relative to
        the largest. The solve is refined up to twice, then fails. Default: `eps^(2/3)`.
    - `max_steps`: largest number of products with A in one run of the default
        `KrylovSylvester`; a solver passed explicitly has its own limit.

    If the default solver misses `rtol` in a plain call of `eigs`, `attach` or
    `invariant_subspace`, the derivative is taken again by `DeflatedGMRES`, in a separate
    program, with the factor of `ShiftInvert` if there is one (`attach` makes one near the
    pairs, if the entries of the operator are known). A compiled program does not include
    this fallback, which would nearly double its compile time: there, pass
    `linear_solver=DeflatedGMRES()`. `Solution.stats` counts the run that found the pairs
    but no derivatives, as it is returned before any is taken: the logger `implicit_eig`
    reports a second try (`INFO`), and [`implicit_eig.CountingOperator`][] counts
    products.

    A solve that misses `rtol` raises if `throw` says so. Otherwise it gives NaN: in
    forward mode, for the pairs whose own systems missed it (for all left vectors, as they
    are dual to all right ones); in reverse mode, for the gradient it is part of, which is
    a sum over the pairs. Members of a batch fail independently.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, lineax as lx, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])

        adjoint = ieig.ImplicitAdjoint(lx.LU())
        share = lambda a: jnp.abs(ieig.eigs(a, k=1, adjoint=adjoint).eigenvectors[0, 0])
        jax.grad(share)(a)
        ```
    """

    linear_solver: lx.AbstractLinearSolver | AbstractSylvesterSolver | None = None
    preconditioner: Any = None
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

    @property
    def falls_back(self) -> bool:
        """Whether GMRES takes over if the default solver misses its tolerance."""
        return self.linear_solver is None and self.max_steps is None

    @quick
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
            # Shifted systems are complex, except for a single real pair.
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

    @quick
    def _choose(
        self, pencil: Pencil, eigensolver: AbstractEigensolver | None
    ) -> AbstractSylvesterSolver:
        if eigensolver is not None and eigensolver.knows_all:
            return _EIGENBASIS
        run = None if eigensolver is None else eigensolver.krylov
        if run is None:
            dense = isinstance(pencil.operator, lx.MatrixLinearOperator)
            if dense or pencil.mass is not None or pencil.n <= 1000:
                return Columnwise(lx.LU())
            run = KrylovSchur()
        m, restarts = run.krylov_dim, run.max_restarts
        if self.max_steps is not None:
            restarts = max(1, self.max_steps // max(1, (m or 20) // 2))
        return _krylov_sylvester(
            krylov_dim=m, max_restarts=restarts, repeated=run.repeated
        )


# Made once, as every plain call would pay for it again.
_EIGENBASIS = Eigenbasis()
_krylov_sylvester = functools.lru_cache(KrylovSylvester)

# The backward error reported for a solution that is not finite.
_NO_ANSWER = 1e30


class Solved(NamedTuple):
    """The solution of a system; which pairs missed their tolerance; and the backward
    error of the block if any did, else zero."""

    solution: Inexact[Array, "n m"]
    failed: Bool[Array, " m"]
    error: Float[Array, ""]


@record
class SylvesterSolve:
    """A solver and its settings: `solve(system, rhs)` solves, checks and refines."""

    solver: AbstractSylvesterSolver
    preconditioner: Pencil | Inverse | None
    selection: AbstractSelection
    k: int = eqx.field(static=True)
    rtol: float = eqx.field(static=True)
    transformation: AbstractTransformation | None = None
    norm: Float[Array, "*m"] | None = None  # ‖A‖ + |λ| ‖B‖, of each pair
    residuals: Float[Array, " m"] | None = None
    digits: float = eqx.field(static=True, default=0.01)  # fewer than two are none

    def for_block(self, block: InvariantBlock) -> "SylvesterSolve":
        """The same, with what the eigensolver leaves behind once the pairs are known."""
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
            norm=block.norm
            + jnp.where(block.active, jnp.abs(block.eigenvalues), 0) * block.mass_norm,
            residuals=jnp.where(block.active, block.residuals, 0),
        )

    def whatever(self) -> "SylvesterSolve":
        """The same, but it accepts solutions without a single correct digit."""
        solver = self.solver.whatever()
        return dataclasses.replace(self, solver=solver, digits=float("inf"))

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
        frame: "Frame | None" = None,
    ) -> "Solved":
        """The solution, and which pairs missed the tolerance; without the `frame` of the
        system's matrix, all or none.

        For a right side that is not finite, the solution is NaN, and nothing failed.
        """

        options = {
            "selection": self.selection,
            "k": self.k,
            "preconditioner": self.preconditioner,
            "transformation": self.transformation,
            "rtol": self.rtol,
        }
        made = self.solver.init(system, options)

        def step(state):
            y, residual, dropped, _, rounds = state
            y = y + self.solver.compute(made, residual)
            # The part along the border is only rounding of the right side.
            y, right = system.restrict(y), rhs
            if frame is not None:
                # Drop pairs without a correct digit, or with rounding errors for a right
                # side: rounding errors of their huge solutions would swamp the others.
                dropped = dropped | jnp.isinf(self.judge(system, y, 0 * rhs, rhs, frame))
                y = y - frame.part(y, dropped)
                right = rhs - frame.part(rhs, dropped)
            residual = right - system.mm(y)
            error = self.judge(system, y, residual, right)
            return y, residual, dropped, error, rounds + 1

        def missed(state):
            *_, error, rounds = state
            return (error > self.rtol) & (rounds < 3)

        before, rhs = jnp.max(jnp.abs(rhs)), system.project(rhs)
        finite = jnp.all(jnp.isfinite(rhs))
        # The projection of a right side along the border leaves rounding errors only.
        rounding = 10 * float(jnp.finfo(before.dtype).eps) * before
        nonzero = finite & (jnp.max(jnp.abs(rhs)) > rounding)
        rhs = jnp.where(nonzero, rhs, 0)
        asked = jnp.ones(rhs.shape[1:], bool)
        if frame is not None:
            asked = _asked(frame.sizes(rhs), rhs)
        # A zero right side has the solution zero, whether or not the system is regular.
        unsolved = jnp.where(nonzero, jnp.asarray(jnp.inf, before.dtype), 0)
        init = (jnp.zeros_like(rhs), rhs, ~asked, unsolved, jnp.asarray(0))
        y, residual, dropped, error, _ = jax.lax.while_loop(missed, step, init)
        failed = jnp.broadcast_to(~(error <= self.rtol), asked.shape)
        if frame is not None:
            by_pair = self.judge(system, y, residual, rhs, frame)
            none = asked & (dropped | jnp.isinf(by_pair))
            failed = none | (asked & failed & ~(by_pair <= self.rtol))
            error = jnp.where(jnp.any(none), jnp.inf, error)
        error = jnp.where(jnp.isfinite(error), error, _NO_ANSWER)
        error = jnp.where(jnp.any(failed), error, 0)
        return Solved(jnp.where(finite, y, jnp.nan), failed, error)

    def judge(
        self,
        system: ProjectedSylvester,
        y: Inexact[Array, "n m"],
        residual: Inexact[Array, "n m"],
        rhs: Inexact[Array, "n m"],
        frame: "Frame | None" = None,
    ) -> Float[Array, "..."]:
        """‖residual‖ / (‖A‖ ‖Y‖ + ‖rhs‖) of the whole block, or of each pair if its
        `frame` is given, with a lower bound for ‖A‖; infinite if no digit is known.

        Not relative to the right side alone: nearly tied neighbours make the solution
        large, not the error. Not column by column: a loss on one pair leaves rounding
        errors as the right sides of the others, which no solver can solve relative to
        their own size. Nor does it ask for less than the rounding of a product with
        A − λB, whose norm may be far from the size of the eigenvalues.

        The pairs are those of A + E, with ‖E‖ their residual or rounding, which changes Y
        by `sep⁻¹ ‖E‖ ‖Y‖`; and sep ≤ ‖rhs‖ / ‖Y‖. So if ‖E‖ ‖Y‖, or the residual, is as
        large as the right side, Y is as good as unknown: to within rounding, the selected
        eigenvalue coincides with another one, or, by non-normality, in effect does.
        """
        sizes = jnp.linalg.norm if frame is None else frame.sizes
        size, error, right = sizes(y), sizes(residual), sizes(rhs)
        norm = jnp.maximum(system.scale, sizes(rhs - residual) / _nonzero(size))
        eps = float(jnp.finfo(rhs.dtype).eps)
        known, least = eps * norm, norm
        if self.norm is not None:
            rounded = eps * (jnp.max(self.norm) if frame is None else self.norm)
            known = jnp.maximum(known, rounded)
            least = jnp.maximum(norm, 100 * rounded / self.rtol)
        if self.residuals is not None:
            worst = jnp.max(self.residuals)
            known = jnp.maximum(known, worst if frame is None else self.residuals)
        lost = jnp.maximum(known * size, error) > self.digits * right
        lost = lost & _asked(right, rhs)
        # In eigen-coordinates the block decouples: the derivative of pair i follows from
        # `Y w_i` alone, which solves a system of its own with the residual `R w_i`. (The
        # columns of Y do not: one that failed spoils those coupled to it.) Small right
        # sides are judged relative to that of the block, but not relative to the block's
        # solution, in which a column that failed may be of any size.
        error = error / _nonzero(least * size + jnp.linalg.norm(rhs))
        return jnp.where(lost, jnp.inf, error)


def _nonzero(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(x > 0, x, 1)


def _asked(right: Float[Array, "..."], rhs: Inexact[Array, "n m"]) -> Bool[Array, "..."]:
    """Which parts of a right side exceed its rounding errors and those of the coordinates
    in which it is split."""
    rounding = float(jnp.finfo(rhs.dtype).eps) ** 0.75
    return right > rounding * jnp.linalg.norm(rhs)


class Frame(eqx.Module):
    """The eigenvectors W of a system's matrix, of unit norm, and W⁻¹."""

    vectors: Complex[Array, "m m"]
    inverse: Complex[Array, "m m"]

    @classmethod
    def of(cls, coordinates: Complex[Array, "m m"], active: Bool[Array, " m"]) -> "Frame":
        both = active[:, None] & active[None, :]
        w = jnp.where(both, coordinates, jnp.eye(active.size, dtype=coordinates.dtype))
        w = times_real(w, 1 / jnp.linalg.norm(w, axis=0))
        return cls(w, inv(w))

    def transpose(self) -> "Frame":
        """The frame of Lᵀ."""
        size = jnp.linalg.norm(self.inverse, axis=1)
        rows = times_real(self.vectors.T, size[:, None])
        return Frame(times_real(self.inverse.T, 1 / size), rows)

    def sizes(self, y: Inexact[Array, "n m"]) -> Float[Array, " m"]:
        return jnp.linalg.norm(times(y, self.vectors), axis=0)

    def part(
        self, y: Inexact[Array, "n m"], which: Bool[Array, " m"]
    ) -> Inexact[Array, "n m"]:
        """The contribution to Y of the pairs `which`."""
        inside = self.vectors @ jnp.where(which[:, None], self.inverse, 0)
        return times(y, inside) if jnp.iscomplexobj(y) else y @ inside.real
