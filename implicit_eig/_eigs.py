"""Selected eigenpairs of any operator."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import ArrayLike, PyTree

from ._check import check_flag
from ._eigensolver import AbstractEigensolver, InvariantBlock
from ._gauge import AbstractGauge, as_gauge
from ._implicit import block_root, ImplicitAdjoint
from ._operator import Pencil
from ._pairs import accuracy_of, check_ties, pairs_of_block, Ties
from ._problem import Problem
from ._progress_meter import AbstractProgressMeter, NoProgressMeter
from ._solution import is_good, raise_unless_successful, RESULTS, Solution


def eigs(
    operator: Any,
    k: int | None = 6,
    which: Any = "LM",
    *,
    sigma: ArrayLike | None = None,
    mass: Any = None,
    like: PyTree | None = None,
    v0: PyTree[ArrayLike] | None = None,
    left: bool = False,
    eigensolver: AbstractEigensolver | None = None,
    adjoint: ImplicitAdjoint | None = None,
    gauge: AbstractGauge | None = None,
    ties: Ties = "nan",
    tie_rtol: float | None = None,
    throw: bool = True,
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
        (whose values become a constant); any lineax operator; or a callable `v -> A v`
        with `like=`. Differentiable: arrays, sparse values, leaves of operators, what a
        callable closes over. For batches use `jax.vmap`.
    - `k`: number of pairs, `1 ≤ k ≤ n`. `None` means all n of a dense matrix.
    - `which`: the wanted end of the spectrum: `"LM"`, `"SM"` (modulus), `"LR"`, `"SR"`
        (real part), `"LI"`, `"SI"` (imaginary part, of real operators its modulus); a
        callable `λ -> key`, largest key first; [`implicit_eig.Nearest`][];
        [`implicit_eig.Overlap`][].
    - `sigma`: a target, real or complex, no derivative: the k eigenvalues nearest to it,
        by [`implicit_eig.ShiftInvert`][]. With `which` a callable or `Overlap`: the best
        of those a Krylov space around the target shows.
    - `mass`: B, as `operator`. Infinite eigenvalues of a singular B are left out.
    - `like`: for a callable, a vector of its domain (or its `ShapeDtypeStruct`s).
    - `v0`: start vector of iterative eigensolvers; no derivative. Default: fixed.
    - `left`: whether to return left vectors and condition numbers.
    - `eigensolver`: default `Dense()` for arrays, else `KrylovSchur()` (where its Krylov
        space would fill the whole space, `Dense()`, noted in `stats`). With a target,
        `ShiftInvert(sigma)`, and `Dense()` up to order 256.
    - `adjoint`: default [`implicit_eig.ImplicitAdjoint`][]`()`.
    - `gauge`: default [`implicit_eig.LargestReal`][]`()`. Where none is given, the
        gradient of a loss that depends on the phase warns
        ([`implicit_eig.GaugeDependenceWarning`][]).
    - `ties`, `tie_rtol`: as in [`implicit_eig.eig`][], among the selected pairs. A
        selected eigenvalue that ties with one that is not, where the eigensolver met
        that, has no derivative, nor has its vector: NaN with `"nan"`, and whatever the
        linear solve gives with `"drop"`. The default `tie_rtol` is at
        least ten times the largest residual over the largest `|λ|`: what an iterative
        solver found is tied when it cannot be told apart.
    - `throw`: raise when a run fails; else see `Solution.result`. Not errors:
        `RESULTS.unconfirmed`, by which `KrylovSchur` says that its pairs are right, and
        that better ones inside the spectrum may have escaped it; and
        `RESULTS.defective`: rounding cannot tell some eigenvalue from a defective one,
        which has NaN derivatives, and so has its vector. Pairs that did not
        converge have NaN derivatives, as have those whose linear solve for a derivative
        misses its tolerance ([`implicit_eig.ImplicitAdjoint`][]).
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
        throw=throw,
        progress_meter=progress_meter,
    )
    gauge = as_gauge(gauge, problem.pencil.domain)
    solution = _eigs(problem, left, gauge, ties, tie_rtol)
    return raise_unless_successful(solution) if throw else solution


@eqx.filter_jit
def _eigs(
    problem: Problem,
    left: bool,
    gauge: AbstractGauge,
    ties: Ties,
    tie_rtol: float | None,
) -> Solution:
    block, solve = problem.block(left)
    return solution_of_block(
        problem.pencil,
        block,
        solve,
        k=problem.k,
        left=left,
        gauge=gauge,
        ties=ties,
        tie_rtol=tie_rtol,
    )


def solution_of_block(
    pencil: Pencil,
    block: InvariantBlock,
    solve,
    *,
    k: int,
    left: bool,
    gauge: AbstractGauge,
    ties: Ties,
    tie_rtol: float | None,
) -> Solution:
    """The data's way down: block → rule → pairs → what the user sees."""
    basis, matrix, left_basis, mark = block_root(
        pencil,
        block.basis,
        block.matrix,
        block.left_basis,
        coordinates=jnp.where(block.active, block.coordinates, 0),
        active=block.active,
        solve=solve,
    )
    accuracy = accuracy_of(block, pencil) if tie_rtol is None else tie_rtol
    pairs = pairs_of_block(
        pencil,
        block,
        basis,
        matrix,
        left_basis if left else None,
        # Eigenvalues need no solve where there is a left basis.
        marks=(mark if left_basis is None else None, mark),
        k=k,
        gauge=gauge,
        ties=ties,
        tie_rtol=accuracy,
    )
    defective = is_good(block.result) & jnp.any(pairs.lost)
    condition_numbers = None
    left_eigenvectors = None
    if pairs.left is not None:
        sizes = [jnp.linalg.norm(x, axis=0) for x in (pairs.left, pairs.right)]
        condition_numbers = sizes[0] * sizes[1]
        left_eigenvectors = pencil.domain.unflatten(pairs.left)
    eps = jnp.finfo(block.residuals.dtype).eps
    scale = jnp.maximum(jnp.abs(block.eigenvalues), eps * block.norm)[:k]
    residuals = block.residuals[:k] / jnp.where(scale > 0, scale, 1)
    return Solution(
        eigenvalues=pairs.eigenvalues,
        eigenvectors=pencil.domain.unflatten(pairs.right),
        left_eigenvectors=left_eigenvectors,
        residuals=residuals,
        condition_numbers=condition_numbers,
        stats=block.stats,
        result=RESULTS.where(defective, RESULTS.defective, block.result),
        _outside=None if block.outside is None else block.outside[:k],
    )
