"""Selected eigenpairs of Hermitian operators and definite pencils."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from ._ad import nothing_where
from ._check import check_flag
from ._eigensolver import AbstractEigensolver
from ._failure import check_throw, raise_unless_successful, reported, watched
from ._gauge import as_gauge, Gauge, watched_phases
from ._hermitian import (
    hermitian_root,
    HermitianBlock,
    MassOrthonormal,
    MinresSolve,
    pairs_of_hermitian,
    ties_of,
)
from ._hermitian_problem import HermitianProblem
from ._operator import Pencil, safe_norm, Scaling, times_real
from ._program import Program
from ._progress_meter import AbstractProgressMeter, NoProgressMeter
from ._rule import (
    accuracy_of,
    check_ties,
    ImplicitAdjoint,
    PairOptions,
    SylvesterSolve,
    Ties,
)
from ._solution import is_good, Solution
from ._spectral import HermitianWhich


def eigsh(
    operator: Any,
    k: int = 6,
    which: HermitianWhich = "SA",
    *,
    sigma: ArrayLike | None = None,
    mass: Any = None,
    like: PyTree | None = None,
    v0: PyTree[ArrayLike] | None = None,
    left: bool = False,
    eigensolver: AbstractEigensolver | None = None,
    adjoint: ImplicitAdjoint | None = None,
    gauge: Gauge | None = None,
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
        both ends in turns, the largest first), a callable `λ -> key` (the largest keys;
        λ is real), `Nearest(sigma)`, `Overlap(v)`.
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
    a mass matrix that is not definite are found out by products with random vectors, or
    by the matrix where there is one: `RESULTS.not_hermitian`, `RESULTS.not_definite`.
    (With a target a singular mass matrix may pass; the pairs are right then.) Of matrices
    `RESULTS.extreme_size` says that entries are denormal numbers.

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
    check_flag("left", left)
    check_throw(throw)
    problem = HermitianProblem.of(
        operator,
        k,
        which,
        sigma=sigma,
        mass=mass,
        like=like,
        v0=v0,
        eigensolver=eigensolver,
        adjoint=adjoint,
        progress_meter=progress_meter,
    )
    pencil = problem.pencil
    gauge = as_gauge(gauge, pencil.domain, default=MassOrthonormal(), dtype=pencil.dtype)
    problem, signal = watched(problem, throw, problem.rtol)
    options = PairOptions(problem.k, left, gauge, ties, tie_rtol, throw is not False)
    solution, signal = _eigsh(problem, signal, options)
    solution = reported(solution, signal, throw, problem.rtol)
    solution = raise_unless_successful(
        solution, throw, k=problem.k, advice=problem.advice()
    )
    (right,) = watched_phases(gauge, solution.eigenvectors)
    if right is solution.eigenvectors:
        return solution
    return dataclasses.replace(solution, eigenvectors=right)


@Program
def _eigsh(
    problem: HermitianProblem, signal: Float[Array, ""] | None, options: PairOptions
) -> tuple[Solution, Float[Array, ""]]:
    return solution_of_hermitian(*problem.solved(), signal, options)


def solution_of_hermitian(
    pencil: Pencil,
    scaling: Scaling,
    block: HermitianBlock,
    solve: MinresSolve | SylvesterSolve | None,
    signal: Float[Array, ""] | None,
    options: PairOptions,
) -> tuple[Solution, Float[Array, ""]]:
    """From pairs to what the user sees, and the signal of failed solves."""
    signal = jnp.zeros((), block.residuals.dtype) if signal is None else signal
    k, left, gauge = options.k, options.left, options.gauge
    options = options.known_to(accuracy_of(block, pencil))  # pyright: ignore[reportArgumentType]
    _, apart = ties_of(block.eigenvalues, block.active, options.tie_rtol)  # pyright: ignore[reportArgumentType]
    values, _, vectors, mark, signal = hermitian_root(
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
        options=options,
    )
    if isinstance(gauge, MassOrthonormal):
        right = times_real(right, 1 / jnp.sqrt(scaling.mass))
    if options.hide:
        failed = options.failed(block.active, is_good(block.result))
        values, right = (x + nothing_where(failed, x.dtype) for x in (values, right))
    scale = block.norm + jnp.abs(block.eigenvalues[:k]) * block.mass_norm
    condition = None
    if left:
        unit = times_real(right, 1 / safe_norm(right))
        size = jnp.sum((unit.conj() * pencil.mass_mm(unit)).real, axis=0) * scaling.mass
        condition = 1 / size
    vectors = pencil.domain.unflatten(right)
    left_vectors = None
    if left:
        left_vectors = pencil.domain.unflatten(
            times_real(unit, 1 / (size * safe_norm(right)))
        )
    solution = Solution(
        eigenvalues=scaling.values(values),
        eigenvectors=vectors,
        left_eigenvectors=left_vectors,
        residuals=block.residuals[:k] / jnp.where(scale > 0, scale, 1),
        condition_numbers=condition,
        stats=block.stats,
        result=block.result,
        _outside=None if block.outside is None else scaling.values(block.outside[:k]),
    )
    return solution, signal  # pyright: ignore[reportReturnType]
