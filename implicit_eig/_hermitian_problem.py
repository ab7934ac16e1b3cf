"""A Hermitian problem as the public functions take it: checked, defaults chosen, and
its pairs, without derivatives."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Float, Inexact, PyTree

from ._check import check_integer
from ._eigensolver import AbstractEigensolver, Dense, KrylovSchur, ShiftInvert
from ._hermitian import (
    finds_hermitian_pairs,
    hermitian_block,
    hermitian_part,
    HermitianBlock,
    MinresSolve,
    without,
)
from ._operator import as_pencil, Pencil, pencil_of_moderate_size, Scaling
from ._problem import check_adjoint, check_meter, check_start, SMALL, stop
from ._progress_meter import AbstractProgressMeter
from ._record import record
from ._rule import ImplicitAdjoint, SylvesterSolve
from ._solution import RESULTS
from ._spectral import (
    AbstractSelection,
    as_selection,
    as_shift,
    BothEnds,
    Known,
    Named,
    Nearest,
)


@record
class HermitianProblem:
    """The k pairs of a Hermitian pencil that a selection wants: who finds them, and who
    solves the linear systems of derivatives of vectors."""

    pencil: Pencil
    selection: AbstractSelection
    k: int = eqx.field(static=True)
    v0: Inexact[Array, " n"] | None
    eigensolver: AbstractEigensolver
    solve: SylvesterSolve | None  # if it was chosen
    rtol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    progress_meter: AbstractProgressMeter

    @classmethod
    def of(
        cls,
        operator: Any,
        k: int,
        which: Any,
        *,
        sigma: ArrayLike | None,
        mass: Any,
        like: PyTree | None,
        v0: PyTree[ArrayLike] | None,
        eigensolver: AbstractEigensolver | None,
        adjoint: ImplicitAdjoint | None,
        progress_meter: AbstractProgressMeter,
    ) -> "HermitianProblem":
        """From the arguments of [`implicit_eig.eigsh`][], refused by name."""
        pencil = as_pencil(operator, mass, like)
        k = check_integer("k", k, 1)
        if k > pencil.n:
            raise ValueError(f"`k` must be at most the order n = {pencil.n}; got {k}.")
        check_meter(progress_meter)
        if eigensolver is not None and not finds_hermitian_pairs(eigensolver):
            raise TypeError(
                "`eigensolver` of `eigsh` must be `Dense`, `KrylovSchur` or "
                f"`ShiftInvert`; got {eigensolver!r}."
            )
        selection, sigma = _selection(which, sigma, eigensolver, pencil)
        chosen = _choose(eigensolver, pencil, k, sigma)
        adjoint, solve = check_adjoint(adjoint), None
        if adjoint.linear_solver is not None:
            solve = adjoint.bind(pencil, chosen, selection, k)
        eps = float(jnp.finfo(pencil.dtype).eps)
        return cls(
            pencil=pencil,
            selection=selection,
            k=k,
            v0=check_start(v0, pencil),
            eigensolver=chosen,
            solve=solve,
            rtol=eps ** (2 / 3) if adjoint.rtol is None else adjoint.rtol,
            max_steps=10 * pencil.n if adjoint.max_steps is None else adjoint.max_steps,
            progress_meter=progress_meter,
        )

    def advice(self) -> str:
        """What may help where pairs did not converge."""
        solver = self.eigensolver
        if not isinstance(solver, KrylovSchur):
            return ""
        m = solver.dimension(self.pencil.n, self.k)
        return (
            f"The Krylov space had {m} dimensions: try "
            f"`eigensolver=KrylovSchur(krylov_dim={2 * m})`, a looser `rtol`, or a "
            "target `sigma`."
        )

    def solved(
        self,
    ) -> tuple[Pencil, Scaling, HermitianBlock, MinresSolve | SylvesterSolve | None]:
        """The pencil of moderate size, of matrices the Hermitian part, and what it stands
        for; its pairs, without derivatives; and the solver for those of vectors, `None`
        where all pairs are at hand."""
        pencil, scaling = pencil_of_moderate_size(self.pencil, by_rows=False)
        pencil, wrong = hermitian_part(pencil)
        size = scaling.eigenvalues
        selection = self.selection.rescaled(size)
        solve = self.solve
        if solve is not None:
            solve = dataclasses.replace(solve, selection=selection)
        problem = dataclasses.replace(
            self,
            pencil=pencil,
            selection=selection,
            eigensolver=self.eigensolver.rescaled(scaling),
            solve=solve,
        )
        block, solve = problem._block()
        seen = block.as_invariant()
        meant = selection.is_meant(
            seen.eigenvalues[: self.k], seen.outside, pencil.is_real
        )
        if meant is not True:
            block = without(block, ~jnp.asarray(meant), RESULTS.nonfinite)
        wrong = wrong & (block.result != RESULTS.nonfinite)
        block = without(block, wrong, RESULTS.not_hermitian)
        values = block.eigenvalues[: self.k]
        there = scaling.values(values)
        kept = jnp.isfinite(there) & ((there != 0) | (values == 0))
        lost = jnp.any(jnp.isfinite(values) & ~kept) | jnp.isnan(size)
        block = without(block, lost, RESULTS.extreme_size)
        if self.v0 is not None:
            zero = ~jnp.any(self.v0 != 0)
            block = without(block, zero, RESULTS.zero_start_vector)
        return pencil, scaling, block, solve

    def _block(self) -> tuple[HermitianBlock, MinresSolve | SylvesterSolve | None]:
        pencil, selection, v0, solver, solve = stop(
            (self.pencil, self.selection, self.v0, self.eigensolver, self.solve)
        )
        meter = self.progress_meter
        block = stop(
            hermitian_block(
                solver, pencil, selection, self.k, v0=v0, progress_meter=meter
            )
        )
        if solver.knows_all:
            return block, None
        if solve is None:
            residuals = jnp.where(block.active, block.residuals, 0)
            return block, MinresSolve(
                block.transformation, block.norm, residuals, self.rtol, self.max_steps
            )
        solve = solve.for_block(block.as_invariant())
        if not isinstance(selection, Named | Nearest):
            values = block.as_invariant().eigenvalues
            known = Known(jnp.where(block.active, values, values[0]))
            solve = dataclasses.replace(solve, selection=known)
        return block, solve


_NAMES = {"SA": "SR", "LA": "LR", "SM": "SM", "LM": "LM"}


def _selection(
    which: Any,
    sigma: ArrayLike | None,
    eigensolver: AbstractEigensolver | None,
    pencil: Pencil,
) -> tuple[AbstractSelection, Float[Array, ""] | None]:
    """The selection, and the target if there is one."""
    if eigensolver is not None:
        if sigma is not None:
            eigensolver.check_target(sigma)
        sigma = eigensolver.target if sigma is None else sigma
    if isinstance(which, Nearest):
        sigma = which.sigma
    if sigma is not None:
        sigma = as_shift(sigma)
        if jnp.iscomplexobj(sigma):
            raise ValueError(
                f"Eigenvalues are real; `sigma` must be real as well; got {sigma}."
            )
        if isinstance(which, str) and which not in ("SA", "LM"):
            raise ValueError(
                f"Beside the target `sigma={sigma}` the eigenvalues nearest to it are "
                f"wanted; got `which={which!r}`. Leave `which` out."
            )
        if isinstance(which, str | Nearest):
            return Nearest(sigma), sigma
    if which == "BE":
        return BothEnds(), None
    if isinstance(which, str):
        if which not in _NAMES:
            raise ValueError(
                f"`which` must be one of {', '.join(_NAMES)}, BE, a callable, `Nearest` "
                f"or `Overlap`; got {which!r}."
            )
        return Named(_NAMES[which]), None
    return as_selection(which, pencil.domain, of_real=True), sigma


def _choose(
    eigensolver: AbstractEigensolver | None,
    pencil: Pencil,
    k: int,
    sigma: Float[Array, ""] | None,
) -> AbstractEigensolver:
    dense = isinstance(pencil.operator, lx.MatrixLinearOperator)
    if eigensolver is None:
        small = not KrylovSchur().suits(pencil.n, k)
        if dense or small or (sigma is not None and pencil.n <= SMALL):
            return Dense()
        return KrylovSchur() if sigma is None else ShiftInvert(sigma)
    if sigma is not None and eigensolver.target is None:
        eigensolver.check_target(sigma)
    return eigensolver if eigensolver.suits(pencil.n, k) else Dense()
