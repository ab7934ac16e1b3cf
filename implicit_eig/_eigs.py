"""Selected eigenpairs of any operator."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Bool, Float, Inexact, Int, PyTree

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


# SciPy's names for our arguments.
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
    """`fn`, with an error for SciPy's keywords that names ours."""

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

    How pairs are found (`eigensolver`), how the linear systems of their derivatives are
    solved (`adjoint`) and how vectors are scaled (`gauge`) are three separate choices.
    Derivatives never pass through the eigensolver's steps: each costs the solution of one
    bordered Sylvester system for the selected pairs, and none for eigenvalues if left
    vectors are available (`Dense`, or `left=True`).

    **Arguments:**

    - `operator`: A, of order n: a square array; `BCOO` or `BCSR`; a SciPy sparse array
        (whose values become a constant) or `LinearOperator` (on the host, constant too);
        any lineax operator; or a callable `v -> A v` with `like=`. Differentiable:
        arrays, sparse values, leaves of operators, what a callable closes over. For
        batches use `jax.vmap`. If lineax considers an operator symmetric, Aᵀ = A (by
        `lineax.symmetric_tag`, say; B too, if there is one), its left vectors are the
        conjugates of the right ones: they need no run, and derivatives of eigenvalues no
        solve. A false tag is detected (`RESULTS.not_symmetric`).
    - `k`: number of pairs, `1 ≤ k ≤ n`. `None` means all n of a dense matrix.
    - `which`: the wanted end of the spectrum: `"LM"`, `"SM"` (modulus), `"LR"`, `"SR"`
        (real part), `"LI"`, `"SI"` (imaginary part; for real operators its modulus); a
        callable `λ -> key`, largest key first; [`implicit_eig.Nearest`][];
        [`implicit_eig.Overlap`][]; or [`implicit_eig.Inside`][] for all eigenvalues in a
        region: then there is room for k, spare places are NaN, and `stats["num_inside"]`
        is the number found (by [`implicit_eig.Contour`][]).
    - `sigma`: a target, real or complex, no derivative: the k eigenvalues nearest to it,
        by [`implicit_eig.ShiftInvert`][]. With `which` a callable or `Overlap`: the best
        of those that a Krylov space around the target contains.
    - `mass`: B, as `operator`. Infinite eigenvalues of a singular B are left out.
    - `like`: for a callable, a vector of its domain (or its `ShapeDtypeStruct`s).
    - `v0`: start vector of iterative eigensolvers; no derivative. Default: fixed.
    - `left`: whether to return left vectors and condition numbers.
    - `eigensolver`: default `Dense()` for arrays, else `KrylovSchur()` (but `Dense()`,
        noted in `stats`, if its Krylov space would fill the whole space; in a plain call
        whose restarts stagnate, wider spaces follow, or `Dense()` up to order 1000). With
        a target, `ShiftInvert(sigma)`, and `Dense()` up to order 256; `"SM"` is treated
        as the target 0 if the entries of the operator are known.
    - `adjoint`: default [`implicit_eig.ImplicitAdjoint`][]`()`.
    - `gauge`: default [`implicit_eig.LargestReal`][]`()`. If none is given, the
        gradient of a loss that depends on the phase warns
        ([`implicit_eig.GaugeDependenceWarning`][]).
    - `ties`, `tie_rtol`: as in [`implicit_eig.eig`][], among the selected pairs: a single
        one of several tied eigenvalues has no derivative; only functions symmetric in
        them have. If a selected eigenvalue ties with an unselected one that the
        eigensolver has seen, neither it nor its vector has a derivative: NaN with
        `"nan"`, and whatever the linear solve gives with `"drop"`. The result is then
        `RESULTS.cut_tie`, which does not raise, as the values are right. The default
        `tie_rtol` is at least ten times the largest residual divided by the largest
        `|λ|`: eigenvalues from an iterative solver tie if they cannot be told apart.
    - `throw`: what happens if a run fails, or if a linear solve for a derivative misses
        its tolerance ([`implicit_eig.ImplicitAdjoint`][]). `None`: it raises in a plain
        call, also under plain `jax.grad` and the like; in a compiled program nothing
        calls back to the host, failed pairs are NaN throughout (values, vectors and
        derivatives), and `Solution.result` says why. `True`: it raises everywhere, in
        compiled programs by a host callback, at its price. `False`: it never raises;
        values and vectors of failed pairs are the best approximations available, their
        derivatives NaN. These are not failures: `RESULTS.unconfirmed`, by which
        `KrylovSchur` says that its pairs are right, but that better ones may have
        escaped it; `RESULTS.defective`: rounding cannot tell some eigenvalue from a
        defective one, so it and its vector have NaN derivatives; and `RESULTS.cut_tie`,
        the same for an eigenvalue with another copy that was not selected.
    - `progress_meter`: shows the run: `TextProgressMeter()`, `TqdmProgressMeter()`, or
        your own [`implicit_eig.AbstractProgressMeter`][].

    **Returns:** a [`implicit_eig.Solution`][]: exactly k pairs, best first; in a
    conjugate pair, the one with positive imaginary part comes first.

    **Raises:** `ValueError` or `TypeError` for what can be seen from shapes, dtypes and
    Python values; a run-time error under `throw`.

    **Cost:** `Dense`: O(n³). `KrylovSchur`: `stats["num_matvecs"]` products; a gradient
    takes about as many products again, whatever the number of parameters. `ShiftInvert`:
    one factorisation, and `stats["num_solves"]` solves; a gradient takes about as many
    solves again with the same factor.

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
    return solved(problem, options, adjoint, throw)


def solved(
    problem: Problem,
    options: PairOptions,
    adjoint: ImplicitAdjoint | None,
    throw: bool | None,
) -> Solution:
    """The solution of a problem, as a public function returns it."""

    def once(problem: Problem) -> tuple[Any, ...]:
        return with_second_try(
            _eigs, _again, problem, throw, adjoint, _MOVING, (options,)
        )

    solution, problem = in_wider_spaces(problem, adjoint, once)
    solution = raise_unless_successful(
        solution, throw, k=problem.k, advice=problem.advice()
    )
    return watched_solution(options.gauge, solution)


# The fields of a solution that have derivatives.
_MOVING = "eigenvalues", "eigenvectors", "left_eigenvectors", "condition_numbers"


def watched_solution(gauge: AbstractGauge, solution: Solution) -> Solution:
    """The solution, with vectors that are watched in a plain reverse pass."""
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
    """The solution for a matrix of order 0: no pairs."""
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
    """The solution, the signal of failed solves, what a second try needs (if `keep`), and
    a vector of the subspace that was reached."""
    problem, scaling = problem.of_moderate_size()
    pencil = problem.pencil
    block, solve = problem.block(options.left)
    solution, signal = solution_of_block(pencil, block, solve, signal, scaling, options)
    pairs = FoundPairs.of(problem, block, accuracy_of(block, pencil)) if keep else None
    return solution, signal, pairs, reached_by(block, pencil)


def _again(
    problem: Problem,
    signal: Float[Array, ""],
    pairs: FoundPairs,
    options: PairOptions,
) -> tuple[Solution, Float[Array, ""]]:
    """The solution that `_eigs` made of these pairs, with derivatives by GMRES."""
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
    """The solution from the block (block → rule → pairs → what the user sees), and the
    signal of failed solves."""
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
        # Eigenvalues need no solve if there is a left basis.
        marks=(mark if left_basis is None else None, mark),
        options=options,
    )
    good, result = is_good(block.result), block.result
    lost = jnp.isnan(scaling.eigenvalues)
    result = RESULTS.where(lost, RESULTS.extreme_size, result)
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
    if options.in_given_order:
        solution = _in_given_order(solution, block.position)
    return solution, signal  # pyright: ignore[reportReturnType]


def _in_given_order(solution: Solution, position: Int[Array, " k"] | None) -> Solution:
    """The solution in the given order; a block puts pairs that are none last."""
    assert position is not None  # a block that was judged has it
    back = jnp.argsort(position)
    per_pair = (*_MOVING, "residuals")
    arrays = {name: getattr(solution, name) for name in per_pair}
    arrays = jtu.tree_map(lambda x: jnp.take(x, back, axis=-1), arrays)
    return dataclasses.replace(solution, **arrays)


def _hidden(x: Array, failed: Bool[Array, " k"]) -> Array:
    """x, with columns that failed set to NaN and without derivatives."""
    return nan_tangent(x + nothing_where(failed, x.dtype), failed)
