"""Selected eigenpairs of any operator."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Inexact, PyTree

from ._ad import nan_tangent, nothing_where
from ._check import check_flag, check_integer
from ._eigensolver import AbstractEigensolver, InvariantBlock
from ._failure import check_throw, raise_unless_successful
from ._gauge import AbstractGauge, as_gauge, Gauge, watched_phases
from ._nonlinear import Inside
from ._nonlinear_eigs import eigs_inside
from ._operator import as_pencil, complex_dtype, Pencil, safe_norm, Scaling
from ._problem import Problem
from ._program import Program
from ._progress_meter import AbstractProgressMeter, NoProgressMeter
from ._rule import (
    accuracy_of,
    block_root,
    check_ties,
    ImplicitAdjoint,
    PairOptions,
    pairs_of_block,
    SylvesterSolve,
    Ties,
)
from ._second_try import FoundPairs, in_wider_spaces, reached_by, with_second_try
from ._solution import is_good, RESULTS, Solution
from ._spectral import Which


# What SciPy calls otherwise.
_ELSEWHERE = {
    "M": "mass",
    "tol": "eigensolver=KrylovSchur(rtol=...)",
    "ncv": "eigensolver=KrylovSchur(krylov_dim=...)",
    "maxiter": "eigensolver=KrylovSchur(max_restarts=...)",
    "return_eigenvectors": "Solution.eigenvalues: vectors come always",
    "Minv": "eigensolver=KrylovSchur(mass_solver=...)",
    "OPinv": "eigensolver=ShiftInvert(sigma, linear_solver=...)",
}


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _suggests(fn: Callable[_P, _R]) -> Callable[_P, _R]:
    """`fn`, whose error for a keyword of SciPy's names ours."""

    @functools.wraps(fn)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        wrong = [name for name in kwargs if name in _ELSEWHERE]
        if wrong:
            names = ", ".join(f"`{name}`" for name in wrong)
            meant = ", ".join(f"`{_ELSEWHERE[name]}`" for name in wrong)
            raise TypeError(f"`eigs` has no argument {names}. Did you mean {meant}?")
        return fn(*args, **kwargs)

    return call


@_suggests
def eigs(
    operator: Any,
    k: int | None = 6,
    which: Which | Inside = "LM",
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
    """k eigenpairs of `A v = λ v` or `A v = λ B v`, differentiable.

    Who finds the pairs (`eigensolver`), who solves the linear systems of their
    derivatives (`adjoint`) and which scale vectors have (`gauge`) are three separate
    choices. Derivatives never pass through the eigensolver's steps: each costs the
    solution of one bordered Sylvester system for the selected pairs, and none for
    eigenvalues where left vectors are at hand (`Dense`, or `left=True`).

    **Arguments:**

    - `operator`: A, of order n: a square array; `BCOO` or `BCSR`; a SciPy sparse array
        (whose values become a constant) or `LinearOperator` (on the host, constant too);
        any lineax operator; or a callable `v -> A v` with `like=`. Differentiable:
        arrays, sparse values, leaves of operators, what a callable closes over. For
        batches use `jax.vmap`. An operator that lineax holds for symmetric, Aᵀ = A (by
        `lineax.symmetric_tag`, say; B too, if there is one), has the conjugates of its
        vectors for left ones: no run is made for these, and no solve for derivatives of
        eigenvalues. A tag that is not true is found out (`RESULTS.not_symmetric`).
    - `k`: number of pairs, `1 ≤ k ≤ n`. `None` means all n of a dense matrix.
    - `which`: the wanted end of the spectrum: `"LM"`, `"SM"` (modulus), `"LR"`, `"SR"`
        (real part), `"LI"`, `"SI"` (imaginary part, of real operators its modulus); a
        callable `λ -> key`, largest key first; [`implicit_eig.Nearest`][];
        [`implicit_eig.Overlap`][]; or [`implicit_eig.Inside`][] for all eigenvalues in a
        region: k is room then, places left over are NaN, `stats["num_inside"]` counts
        (by [`implicit_eig.Contour`][]).
    - `sigma`: a target, real or complex, no derivative: the k eigenvalues nearest to it,
        by [`implicit_eig.ShiftInvert`][]. With `which` a callable or `Overlap`: the best
        of those a Krylov space around the target shows.
    - `mass`: B, as `operator`. Infinite eigenvalues of a singular B are left out.
    - `like`: for a callable, a vector of its domain (or its `ShapeDtypeStruct`s).
    - `v0`: start vector of iterative eigensolvers; no derivative. Default: fixed.
    - `left`: whether to return left vectors and condition numbers.
    - `eigensolver`: default `Dense()` for arrays, else `KrylovSchur()` (where its Krylov
        space would fill the whole space, `Dense()`, noted in `stats`; in a plain call
        where restarts stagnate, wider spaces, and `Dense()` up to order 1000). With a
        target, `ShiftInvert(sigma)`, and `Dense()` up to order 256; `"SM"` is taken for
        the target 0 where the entries of the operator are known.
    - `adjoint`: default [`implicit_eig.ImplicitAdjoint`][]`()`.
    - `gauge`: default [`implicit_eig.LargestReal`][]`()`. Where none is given, the
        gradient of a loss that depends on the phase warns
        ([`implicit_eig.GaugeDependenceWarning`][]).
    - `ties`, `tie_rtol`: as in [`implicit_eig.eig`][], among the selected pairs: one of
        several tied eigenvalues has no derivative, only functions symmetric in them. A
        selected eigenvalue that ties with one that is not, where the eigensolver met
        that, has no derivative, nor has its vector: NaN with `"nan"`, and whatever the
        linear solve gives with `"drop"`. The result is `RESULTS.cut_tie` then, which
        raises nothing, for the values are right. The default `tie_rtol` is at
        least ten times the largest residual over the largest `|λ|`: what an iterative
        solver found is tied when it cannot be told apart.
    - `throw`: what a run does that fails, or a linear solve for a derivative that misses
        its tolerance ([`implicit_eig.ImplicitAdjoint`][]). `None`: it raises in a plain
        call, also under plain `jax.grad` and its like; in a compiled program nothing
        calls back to the host, pairs that failed are NaN throughout, values, vectors and
        derivatives, and `Solution.result` says why. `True`: it raises everywhere, in
        compiled programs by a host callback, at its price. `False`: it never raises;
        values and vectors of failed pairs are the best approximations at hand, their
        derivatives NaN. Not failures: `RESULTS.unconfirmed`, by which `KrylovSchur` says
        that its pairs are right, and that better ones may have escaped it;
        `RESULTS.defective`: rounding cannot tell some eigenvalue from a defective one,
        which has NaN derivatives, and so has its vector; and `RESULTS.cut_tie`, the same
        of an eigenvalue of which another copy was not selected.
    - `progress_meter`: shows the run: `TextProgressMeter()`, `TqdmProgressMeter()`, or
        your own [`implicit_eig.AbstractProgressMeter`][].

    **Returns:** a [`implicit_eig.Solution`][]: exactly k pairs, best first, of a
    conjugate pair the one with positive imaginary part first.

    **Raises:** `ValueError` or `TypeError` for what can be seen from shapes, dtypes and
    Python values; a run-time error under `throw`.

    **Cost:** `Dense`: O(n³). `KrylovSchur`: `stats["num_matvecs"]` products; a gradient
    about as many products again, whatever the number of parameters. `ShiftInvert`: one
    factorisation, and `stats["num_solves"]` solves; a gradient about as many solves again
    with the same factor.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        def growth(rates):
            mv = lambda v: rates * v + 0.1 * jnp.roll(v, 1)
            return ieig.eigs(mv, k=1, which="LR", like=rates).eigenvalues[0].real

        jax.grad(growth)(jnp.linspace(0.0, 1.0, 100))
        ```
    """
    check_ties(ties, tie_rtol)
    check_flag("left", left)
    check_throw(throw)
    if isinstance(which, AbstractGauge) or (
        isinstance(which, type) and issubclass(which, AbstractGauge)
    ):
        raise TypeError(
            f"`which` selects eigenvalues, and {which!r} is a gauge: pass `gauge=`."
        )
    if isinstance(which, Inside):
        pencil = as_pencil(operator, mass, like)
        if sigma is not None or v0 is not None or ties != "nan":
            raise ValueError(
                "`which=Inside(...)` takes neither `sigma`, `v0` nor `ties`."
            )
        return eigs_inside(
            pencil,
            check_integer("k", k, 1),
            which.region,
            left=left,
            eigensolver=eigensolver,
            adjoint=adjoint,
            gauge=gauge,
            throw=throw,
        )
    problem = Problem.of(
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
    gauge = as_gauge(gauge, problem.pencil.domain)
    if problem.k == 0:
        return _empty(problem.pencil, left)
    options = PairOptions(problem.k, left, gauge, ties, tie_rtol, throw is not False)

    def once(problem: Problem) -> tuple[Any, ...]:
        return with_second_try(_eigs, _again, problem, throw, adjoint, MOVING, (options,))

    solution, problem = in_wider_spaces(problem, adjoint, once)
    solution = raise_unless_successful(
        solution, throw, k=problem.k, advice=problem.advice()
    )
    return watched_solution(gauge, solution)


# What of a solution has derivatives.
MOVING = "eigenvalues", "eigenvectors", "left_eigenvectors", "condition_numbers"


def watched_solution(gauge: AbstractGauge, solution: Solution) -> Solution:
    """The solution; the vectors are watched in a plain reverse pass."""
    vectors = [solution.eigenvectors]
    if solution.left_eigenvectors is not None:
        vectors.append(solution.left_eigenvectors)
    right, *left = watched_phases(gauge, *vectors)
    if right is solution.eigenvectors:
        return solution
    return dataclasses.replace(
        solution, eigenvectors=right, left_eigenvectors=left[0] if left else None
    )


def _empty(pencil: Pencil, left: bool) -> Solution:
    """No pairs: those of a matrix of order 0."""
    values = jnp.zeros(0, complex_dtype(pencil.dtype))
    vectors = pencil.domain.unflatten(jnp.zeros((0, 0), values.dtype))
    zero = jnp.zeros((), int)
    return Solution(
        eigenvalues=values,
        eigenvectors=vectors,
        left_eigenvectors=vectors if left else None,
        residuals=values.real,
        condition_numbers=values.real if left else None,
        stats=dict.fromkeys(("num_matvecs", "num_restarts", "num_converged"), zero),
        result=RESULTS.successful,
    )


@Program
def _eigs(
    problem: Problem,
    signal: Float[Array, ""] | None,
    keep: bool,
    options: PairOptions,
) -> tuple[Solution, Float[Array, ""], FoundPairs | None, Inexact[Array, " n"]]:
    """The solution, the signal of failed solves, what a second try needs where it is to
    be kept, and a vector of the subspace that was reached."""
    problem, scaling = problem.of_moderate_size()
    pencil = problem.pencil
    block, solve = problem.block(options.left)
    solution, signal = solution_of_block(pencil, block, solve, signal, scaling, options)
    pairs = FoundPairs.of(block, accuracy_of(block, pencil)) if keep else None
    return solution, signal, pairs, reached_by(block, pencil)


def _again(
    problem: Problem,
    signal: Float[Array, ""],
    pairs: FoundPairs,
    options: PairOptions,
) -> tuple[Solution, Float[Array, ""]]:
    """What `_eigs` made of these pairs, for derivatives by GMRES."""
    problem, scaling = problem.of_moderate_size()
    solve, options = pairs.solved_by_gmres(problem), options.known_to(pairs.accuracy)
    return solution_of_block(problem.pencil, pairs.block, solve, signal, scaling, options)


def solution_of_block(
    pencil: Pencil,
    block: InvariantBlock,
    solve: SylvesterSolve,
    signal: Float[Array, ""] | None,
    scaling: Scaling,
    options: PairOptions,
) -> tuple[Solution, Float[Array, ""]]:
    """The data's way down: block → rule → pairs → what the user sees. And the signal of
    failed solves."""
    k = options.k
    if signal is None:
        signal = jnp.zeros((), block.residuals.dtype)
    coordinates = jnp.where(block.active, block.coordinates, 0)
    basis, matrix, left_basis, mark, signal = block_root(
        pencil, block, signal, coordinates=coordinates, solve=solve
    )
    pairs = pairs_of_block(
        pencil,
        block,
        basis,
        matrix,
        left_basis if options.left else None,
        # Eigenvalues need no solve where there is a left basis.
        marks=(mark if left_basis is None else None, mark),
        options=options,
    )
    good, result = is_good(block.result), block.result
    for some, notice in (
        (pairs.cut, RESULTS.cut_tie),
        (pairs.lost, RESULTS.defective),
    ):
        result = RESULTS.where(good & jnp.any(some), notice, result)
    values, right, left_vectors = pairs.eigenvalues, pairs.right, pairs.left
    if options.hide:
        failed = options.failed(block.active, good)
        values, right, left_vectors = (
            None if x is None else _hidden(x, failed)
            for x in (values, right, left_vectors)
        )
    condition_numbers = None
    left_eigenvectors = None
    if left_vectors is not None:
        left_vectors = scaling.left(left_vectors)
        condition_numbers = safe_norm(left_vectors) * safe_norm(right)  # pyright: ignore[reportArgumentType]
        left_eigenvectors = pencil.domain.unflatten(left_vectors)
    scale = block.norm + jnp.abs(block.eigenvalues[:k]) * block.mass_norm
    residuals = block.residuals[:k] / jnp.where(scale > 0, scale, 1)
    outside = None if block.outside is None else scaling.values(block.outside[:k])
    solution = Solution(
        eigenvalues=scaling.values(values),  # pyright: ignore[reportArgumentType]
        eigenvectors=pencil.domain.unflatten(right),  # pyright: ignore[reportArgumentType]
        left_eigenvectors=left_eigenvectors,
        residuals=residuals,
        condition_numbers=condition_numbers,
        stats=block.stats,
        result=result,
        _outside=outside,
    )
    return solution, signal  # pyright: ignore[reportReturnType]


def _hidden(x: Array, failed: Bool[Array, " k"]) -> Array:
    """x, NaN and without derivatives in the columns that failed."""
    return nan_tangent(x + nothing_where(failed, x.dtype), failed)
