"""Selected eigenpairs of Hermitian operators and definite pencils."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Float, Inexact, PyTree

from ._ad import nothing_where
from ._check import check_integer
from ._eigensolver import AbstractEigensolver, Dense, KrylovSchur, ShiftInvert
from ._failure import check_throw, raise_unless_successful, reported, watched
from ._gauge import AbstractGauge, as_gauge, watched_phases
from ._hermitian import (
    dense_block,
    hermitian_part,
    hermitian_root,
    HermitianBlock,
    krylov_block,
    MassOrthonormal,
    MinresSolve,
    pairs_of_hermitian,
    shift_invert_block,
    ties_of,
    without,
)
from ._operator import as_pencil, Pencil
from ._problem import check_adjoint, check_start, SMALL, stop
from ._program import Program
from ._progress_meter import AbstractProgressMeter, NoProgressMeter
from ._record import record
from ._rule import accuracy_of, check_ties, ImplicitAdjoint, SylvesterSolve, Ties
from ._solution import NO_FAILURES, RESULTS, Solution
from ._spectral import (
    AbstractSelection,
    as_selection,
    as_shift,
    BothEnds,
    Known,
    Named,
    Nearest,
)


def eigsh(
    operator: Any,
    k: int = 6,
    which: Any = "SA",
    *,
    sigma: ArrayLike | None = None,
    mass: Any = None,
    like: PyTree | None = None,
    v0: PyTree[ArrayLike] | None = None,
    left: bool = False,
    eigensolver: AbstractEigensolver | None = None,
    adjoint: ImplicitAdjoint | None = None,
    gauge: Any = None,
    ties: Ties = "nan",
    tie_rtol: float | None = None,
    throw: bool | None = None,
    progress_meter: AbstractProgressMeter = NoProgressMeter(),
) -> Solution:
    """Selected eigenpairs of `A v = λ B v`, A Hermitian and B Hermitian positive
    definite, with derivatives of any order in either mode.

    Eigenvalues are real, vectors of the operator's own dtype. Thick-restart Lanczos (Wu
    and Simon, SIAM J. Matrix Anal. Appl. 22, 2000) where products are all there is, in
    the inner product of B; LAPACK where there is a matrix. Copies of repeated eigenvalues
    are looked for, and found. Derivatives of eigenvalues cost no linear solve, those with
    respect to B neither; those of vectors one more run of the same kind.

    **Arguments:**

    - `operator`: what [`implicit_eig.eigs`][] takes. Of a dense matrix the Hermitian part
        counts, and gradients with respect to it are Hermitian, as those of
        `jnp.linalg.eigh` are; those with respect to the entries of a `SparseOperator`
        take each entry for a variable of its own.
    - `k`: how many pairs.
    - `which`: `"SA"`, `"LA"` (smallest, largest), `"LM"`, `"SM"` (modulus), `"BE"` (from
        both ends in turns, the largest first), a callable `λ -> key` (the largest keys),
        `Nearest(sigma)`, `Overlap(v)`.
    - `sigma`: a real target: the pairs nearest to it, by shift-invert.
    - `mass`: B.
    - `left`: whether to return `left_eigenvectors`, which are the vectors themselves
        (times B-norm one), and condition numbers.
    - `eigensolver`: `Dense()`, `KrylovSchur(...)` (its options, for a Lanczos run) or
        `ShiftInvert(sigma, ...)`. Default: `Dense` for matrices, `ShiftInvert` for a
        target where n > 256, else a Lanczos run.
    - `gauge`: default: `vᴴ B v = 1`, the entry of largest modulus real and positive.
    - `adjoint`: as in `eigs`; by default MINRES (Paige and Saunders, SIAM J. Numer. Anal.
        12, 1975) with the operator of the run, all vectors side by side.
    - `like`, `v0`, `ties`, `tie_rtol`, `throw`, `progress_meter`: as in
        [`implicit_eig.eigs`][].

    **Returns:** a [`implicit_eig.Solution`][], best first.

    **Raises:** `ValueError` for a complex `sigma`. An operator that is not Hermitian and
    a mass matrix that is not definite are found out by products with random vectors:
    `RESULTS.not_hermitian`, `RESULTS.not_definite`.

    One of several tied eigenvalues has no derivative, only functions symmetric in them
    have: cotangents that differ inside a tie give NaN, unless `ties="drop"`.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        def lowest(potential):  # of a particle in one dimension
            def hamiltonian(v):
                v = jnp.pad(v, 1)
                return 2 * v[1:-1] - v[:-2] - v[2:] + potential * v[1:-1]

            return ieig.eigsh(hamiltonian, 1, like=potential).eigenvalues[0]

        density = jax.grad(lowest)(jnp.linspace(-1, 1, 100) ** 2)  # |v|²
        ```
    """
    check_ties(ties, tie_rtol)
    check_throw(throw)
    pencil = as_pencil(operator, mass, like)
    k = check_integer("k", k, 1)
    if k > pencil.n:
        raise ValueError(f"`k` must be at most the order n = {pencil.n}; got {k}.")
    selection, sigma = _selection(which, sigma, eigensolver, pencil)
    chosen = _choose(eigensolver, pencil, k, sigma)
    adjoint, solve = check_adjoint(adjoint), None
    if adjoint.linear_solver is not None:
        solve = adjoint.bind(pencil, chosen, selection, k)
    eps = float(jnp.finfo(pencil.dtype).eps)
    rtol = eps ** (2 / 3) if adjoint.rtol is None else adjoint.rtol
    gauge = as_gauge(gauge, pencil.domain, default=MassOrthonormal(), dtype=pencil.dtype)
    problem = _Problem(
        pencil=pencil,
        selection=selection,
        k=k,
        v0=check_start(v0, pencil),
        eigensolver=chosen,
        solve=solve,
        rtol=rtol,
        max_steps=10 * pencil.n if adjoint.max_steps is None else adjoint.max_steps,
        progress_meter=progress_meter,
    )
    problem, signal = watched(problem, throw, rtol)
    solution, signal = _eigsh(
        problem, signal, left, gauge, ties, tie_rtol, throw is not False
    )
    solution = reported(solution, signal, throw, rtol)
    solution = raise_unless_successful(solution, throw, k=k)
    (right,) = watched_phases(gauge, solution.eigenvectors)
    if right is solution.eigenvectors:
        return solution
    return dataclasses.replace(solution, eigenvectors=right)


@record
class _Problem:
    pencil: Pencil
    selection: AbstractSelection
    k: int = eqx.field(static=True)
    v0: Inexact[Array, " n"] | None
    eigensolver: AbstractEigensolver
    solve: SylvesterSolve | None  # if it was chosen
    rtol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    progress_meter: AbstractProgressMeter

    def block(self) -> tuple[HermitianBlock, MinresSolve | SylvesterSolve | None]:
        """The pairs, without derivatives, and the solver for those of vectors: `None`
        where all pairs are at hand."""
        pencil, selection, v0, solver, solve = stop(
            (self.pencil, self.selection, self.v0, self.eigensolver, self.solve)
        )
        if isinstance(solver, Dense):
            return stop(dense_block(pencil, selection, self.k)), None
        find = shift_invert_block if isinstance(solver, ShiftInvert) else krylov_block
        block = find(
            solver,
            pencil,
            selection,
            self.k,
            v0=v0,
            progress_meter=self.progress_meter,
        )
        block = stop(block)
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


@Program
def _eigsh(
    problem: _Problem,
    signal: Float[Array, ""] | None,
    left: bool,
    gauge: AbstractGauge,
    ties: Ties,
    tie_rtol: float | None,
    hide: bool,
) -> tuple[Solution, Float[Array, ""]]:
    pencil, wrong = hermitian_part(problem.pencil)
    problem = dataclasses.replace(problem, pencil=pencil)
    block, solve = problem.block()
    block = without(
        block, wrong & (block.result != RESULTS.nonfinite), RESULTS.not_hermitian
    )
    k = problem.k
    signal = jnp.zeros((), block.residuals.dtype) if signal is None else signal
    rtol = accuracy_of(block, pencil) if tie_rtol is None else tie_rtol
    _, apart = ties_of(block.eigenvalues, block.active, rtol)
    values, vectors, mark, signal = hermitian_root(
        pencil,
        block.eigenvalues,
        block.vectors,
        signal,
        active=block.active,
        apart=apart,
        solve=solve,
    )
    worst = jnp.max(jnp.where(block.active, block.residuals, 0))
    eps = float(jnp.finfo(pencil.dtype).eps)
    values, right = pairs_of_hermitian(
        pencil,
        values,
        vectors,
        mark,
        active=block.active,
        outside=block.outside,
        error=jnp.maximum(eps * block.norm, worst) / block.mass_norm,
        k=k,
        gauge=gauge,
        drop=ties == "drop",
        tie_rtol=rtol,
    )
    if hide:
        good = jnp.any(jnp.stack([block.result == r for r in NO_FAILURES]))
        failed = ~block.active[:k]
        failed = ~good & (failed | ~jnp.any(failed))
        values, right = (x + nothing_where(failed, x.dtype) for x in (values, right))
    scale = block.norm + jnp.abs(block.eigenvalues[:k]) * block.mass_norm
    condition = None
    if left:
        size = jnp.sum((right.conj() * pencil.mass_mm(right)).real, axis=0)
        condition = jnp.sum((right.conj() * right).real, axis=0) / size
    vectors = pencil.domain.unflatten(right)
    left_vectors = None
    if left:
        left_vectors = pencil.domain.unflatten(right / size.astype(right.dtype))
    solution = Solution(
        eigenvalues=values,
        eigenvectors=vectors,
        left_eigenvectors=left_vectors,
        residuals=block.residuals[:k] / jnp.where(scale > 0, scale, 1),
        condition_numbers=condition,
        stats=block.stats,
        result=block.result,
        _outside=None if block.outside is None else block.outside[:k],
    )
    return solution, signal


_NAMES = {"SA": "SR", "LA": "LR", "SM": "SM", "LM": "LM"}


def _selection(
    which: Any, sigma: ArrayLike | None, eigensolver: Any, pencil: Pencil
) -> tuple[AbstractSelection, Float[Array, ""] | None]:
    """The selection, and the target if there is one."""
    if isinstance(eigensolver, ShiftInvert):
        if sigma is not None:
            raise ValueError(
                f"Give the target once; got `sigma={sigma}` beside "
                f"`eigensolver={eigensolver!r}`."
            )
        sigma = eigensolver.sigma
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
    return as_selection(which, pencil.domain), sigma


def _choose(
    eigensolver: Any, pencil: Pencil, k: int, sigma: Float[Array, ""] | None
) -> AbstractEigensolver:
    dense = isinstance(pencil.operator, lx.MatrixLinearOperator)
    if eigensolver is None:
        small = not KrylovSchur().suits(pencil.n, k)
        if dense or small or (sigma is not None and pencil.n <= SMALL):
            return Dense()
        return KrylovSchur() if sigma is None else ShiftInvert(sigma)
    inner = eigensolver.inner if isinstance(eigensolver, ShiftInvert) else eigensolver
    if isinstance(inner, KrylovSchur):
        if inner is eigensolver and sigma is not None:
            raise ValueError(
                f"`sigma={sigma}` asks for interior eigenvalues, which `KrylovSchur` "
                "cannot find from products with A alone; take `ShiftInvert(sigma, ...)` "
                "or `Dense()`."
            )
        return eigensolver if inner.suits(pencil.n, k) else Dense()
    if isinstance(eigensolver, Dense):
        return eigensolver
    raise TypeError(
        "`eigensolver` of `eigsh` must be `Dense`, `KrylovSchur` or `ShiftInvert`; got "
        f"{eigensolver!r}."
    )
