"""Finds invariant subspaces, and makes them differentiable."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact, PyTree

from ._ad import nan_tangent, nothing_where
from ._check import check_flag
from ._eigensolver import AbstractEigensolver, InvariantBlock, without
from ._failure import check_throw, raise_unless_successful, reported, watched
from ._hermitian import hermitian_root, without as without_pairs
from ._hermitian_problem import HermitianProblem
from ._operator import Pencil, Scaling
from ._problem import Problem, stop
from ._program import Program, value_of
from ._progress_meter import AbstractProgressMeter, NoProgressMeter
from ._rule import (
    accuracy_of,
    block_root,
    ImplicitAdjoint,
    separation as separation_of,
    SylvesterSolve,
    triangle,
)
from ._second_try import FoundPairs, in_wider_spaces, reached_by, with_second_try
from ._solution import is_good, RESULTS
from ._spectral import HermitianWhich, Which
from ._subspace import assembled, HermitianSpectrum, Spectrum, Subspace


def invariant_subspace(
    operator: Any,
    k: int,
    which: Which | HermitianWhich = "LM",
    *,
    sigma: ArrayLike | None = None,
    mass: Any = None,
    like: PyTree | None = None,
    v0: PyTree[ArrayLike] | None = None,
    left: bool | None = None,
    hermitian: bool = False,
    separation: bool = False,
    eigensolver: AbstractEigensolver | None = None,
    adjoint: ImplicitAdjoint | None = None,
    throw: bool | None = None,
    progress_meter: AbstractProgressMeter = NoProgressMeter(),
) -> Subspace:
    """The invariant subspace of k selected eigenvalues of `A v = λ v` or `A v = λ B v`.

    Describes a cluster as a whole: its trace, its projector, functions of A inside it.
    Derivatives are right even if eigenvalues inside coincide or are defective: no
    eigenvector enters them, and only the separation of the k eigenvalues from all others
    limits their accuracy. They are those of the root of `(AX − BXL, CᴴX − I)`, one
    bordered Sylvester system (Stewart 1973).

    **Arguments:** as in [`implicit_eig.eigs`][], and

    - `k`: the dimension, `1 ≤ k ≤ n`. Exactly k: if k cuts a conjugate pair of a real
        operator, or a repeated eigenvalue, that is an error.
    - `left`: whether to compute the left basis, which the projector needs. `None`: if it
        is cheap: with `Dense`, and with `ShiftInvert` and a factorisation, for one more
        run with the transposed factor. `False`: never.
    - `hermitian`: whether A is Hermitian, and B Hermitian positive definite: then the
        run, its options and what is refused are those of [`implicit_eig.eigsh`][], with
        its names for `which`; eigenvalues are real, the left basis is X itself (with B,
        another basis of the same space) and comes for free, and derivatives of `trace`
        and `eigenvalues` take no linear solve.
    - `separation`: whether to estimate the separation of the k eigenvalues from the
        others, by six linear solves like those of derivatives. Off by default: even with
        `Dense` they cost more than the run. With `hermitian`, the distance to the nearest
        unselected eigenvalue that the run has seen; not with `mass`.
    - `throw`: as in [`implicit_eig.eigs`][], if a run fails, if k cuts something, or if
        the separation is requested and is of the size of rounding. Basis and block of a
        run that failed are NaN, or with `throw=False` the best available; derivatives are
        NaN in either case, as when a linear solve misses its tolerance.

    **Returns:** a [`implicit_eig.Subspace`][].

    **Raises:** `ValueError` or `TypeError` for what can be seen from shapes, dtypes and
    Python values; a run-time error under `throw`. If k cuts a pair, or eigenvalues that
    agree to the default `tie_rtol` of [`implicit_eig.eigs`][], a plain call names the
    two. Iterative eigensolvers know the unselected eigenvalues only by Ritz values: a tie
    with one that has not converged goes unnoticed, until the linear solve of a derivative
    fails.

    **Cost:** that of [`implicit_eig.eigs`][], and k products with A for the residual. A
    derivative takes one linear solve, and another one through the left basis; that of
    `trace` takes none if there is a left basis.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        # A defective double eigenvalue 2, which splits like the root of a perturbation.
        a = jnp.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])

        def power(a):
            block = ieig.invariant_subspace(a, k=2, which="LR").block
            return jnp.trace(block @ block)

        gradient = jax.grad(power)(a)
        ```
    """
    if left is not None:
        check_flag("left", left)
    check_flag("separation", separation)
    check_flag("hermitian", hermitian)
    check_throw(throw)
    if hermitian and separation and mass is not None:
        raise ValueError(
            "`separation=True` takes no `mass` beside `hermitian=True`; leave "
            "`hermitian` out."
        )
    problem = (HermitianProblem if hermitian else Problem).of(
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
    options = left, separation, throw is not False

    def once(problem: Problem) -> tuple[Any, ...]:
        sharpened = problem.eigensolver.sharpened()
        problem = dataclasses.replace(problem, eigensolver=sharpened)
        return with_second_try(
            _invariant_subspace, _again, problem, throw, adjoint, _MOVING, options
        )

    if hermitian:
        problem, signal = watched(problem, throw, problem.rtol)
        (subspace, edge), signal = _hermitian_subspace(problem, signal, *options)
        subspace = reported(subspace, signal, throw, problem.rtol)
    else:
        subspace, problem, edge = in_wider_spaces(problem, adjoint, once)  # pyright: ignore[reportArgumentType]
    code = value_of(subspace.result._value)
    cut = code is not None and code.ndim == 0 and code == RESULTS.cut._value
    if throw is not False and cut:
        inside, outside = (f"{value_of(x)[()]:.6g}" for x in edge)  # pyright: ignore[reportOptionalSubscript]
        raise eqx.EquinoxRuntimeError(
            f"{RESULTS[RESULTS.cut]} Of {inside} and {outside} only one is selected."
        )
    return raise_unless_successful(subspace, throw, k=problem.k, advice=problem.advice())


# The fields of a subspace that have derivatives.
_MOVING = "basis", "block", "left_basis", "_dual", "_spectrum"


@Program
def _invariant_subspace(
    problem: Problem,
    signal: Float[Array, ""] | None,
    keep: bool,
    left: bool | None,
    separation: bool,
    hide: bool,
) -> tuple[
    Subspace,
    Float[Array, ""],
    FoundPairs | None,
    Inexact[Array, " n"],
    tuple[Complex[Array, ""], Complex[Array, ""]],
]:
    """The subspace; the signal of failed solves; what a second try needs, if `keep`; a
    vector of the subspace; and the selected and the unselected eigenvalue between which k
    cuts."""
    problem, scaling = problem.of_moderate_size()
    pencil = problem.pencil
    dual = problem.eigensolver.left_is_cheap if left is None else left
    block, solve = problem.block(dual)
    tie_rtol = accuracy_of(block, pencil)
    start = reached_by(block, pencil)
    block, edge = _of_order(block, problem.k, tie_rtol)
    constant = stop(pencil)
    sep = None
    if separation:
        sep = separation_of(constant, block.basis, block.matrix, block.active, solve)
        rounding = 10 * pencil.n * float(jnp.finfo(pencil.dtype).eps)
        block = _unless(block, sep <= rounding * block.norm, RESULTS.ill_conditioned)
        sep = scaling.norms(sep)
    products = problem.k * (1 + (pencil.is_real and jnp.iscomplexobj(block.basis)))
    block.stats["num_matvecs"] = block.stats.get("num_matvecs", 0) + products
    pairs = FoundPairs.of(problem, block, tie_rtol)
    subspace, signal = _of_block(pencil, pairs, solve, signal, scaling, sep, (left, hide))
    edge = scaling.values(edge[0]), scaling.values(edge[1])
    return subspace, signal, pairs if keep else None, start, edge


def _again(
    problem: Problem,
    signal: Float[Array, ""],
    pairs: FoundPairs,
    left: bool | None,
    separation: bool,
    hide: bool,
) -> tuple[Subspace, Float[Array, ""]]:
    """What `_invariant_subspace` made of this block, with derivatives by GMRES."""
    del separation
    problem, scaling = problem.of_moderate_size()
    solve = pairs.solved_by_gmres(problem)
    return _of_block(problem.pencil, pairs, solve, signal, scaling, None, (left, hide))


def _of_block(
    pencil: Pencil,
    pairs: FoundPairs,
    solve: SylvesterSolve,
    signal: Float[Array, ""] | None,
    scaling: Scaling,
    separation: Float[Array, ""] | None,
    options: tuple[bool | None, bool],
) -> tuple[Subspace, Float[Array, ""]]:
    """The subspace, and the signal of failed solves."""
    block, tie_rtol = pairs.block, pairs.accuracy
    left, hide = options
    residual = _residual(stop(pencil), block.basis, block.matrix, block.norm)
    if signal is None:
        signal = jnp.zeros((), block.residuals.dtype)
    basis, matrix, left_basis, _, signal = block_root(
        pencil, block, signal, coordinates=None, solve=solve
    )
    missing = ~block.active
    basis, matrix = nan_tangent(basis, missing), nan_tangent(matrix, missing)
    values = block.eigenvalues
    if hide:
        basis, matrix, values = _hidden(block.result, basis, matrix, values)
    spectrum = Spectrum(
        scaling.values(matrix), scaling.values(values), block.coordinates, tie_rtol
    )
    subspace = assembled(
        pencil,
        scaling,
        basis,
        matrix,
        None if left is False else left_basis,
        missing,
        residual=residual,
        separation=separation,
        stats=block.stats,
        result=block.result,
        _spectrum=spectrum,
    )
    return subspace, signal  # pyright: ignore[reportReturnType]


@Program
def _hermitian_subspace(
    problem: HermitianProblem,
    signal: Float[Array, ""] | None,
    left: bool | None,
    separation: bool,
    hide: bool,
) -> tuple[tuple[Subspace, tuple[Float[Array, ""], Float[Array, ""]]], Float[Array, ""]]:
    """The same for a Hermitian pencil: the root (V, M) of pairs, with all selected ones
    treated as tied, and likewise all others if they are known."""
    pencil, scaling, block, solve = problem.solved()
    k = problem.k
    selected = jnp.arange(block.active.size) < k
    values, outside = block.eigenvalues[:k], block.outside
    if outside is None:
        others = jnp.where(selected, jnp.nan, block.eigenvalues)
        gaps = jnp.abs(values[:, None] - others)
        outside = others[jnp.argmin(jnp.where(selected, jnp.inf, gaps), axis=1)]
    gaps = jnp.abs(values - outside[:k])
    closest = jnp.argmin(jnp.where(jnp.isnan(gaps), jnp.inf, gaps))
    edge, gap = (values[closest], outside[closest]), gaps[closest]
    tie_rtol = accuracy_of(block, pencil)  # pyright: ignore[reportArgumentType]
    largest = jnp.max(jnp.where(block.active, jnp.abs(block.eigenvalues), 0))
    good = is_good(block.result) & jnp.all(block.active[:k])
    cut = good & (gap <= tie_rtol * largest)
    block = without_pairs(block, cut, RESULTS.cut)
    block = dataclasses.replace(block, active=block.active & good)
    sep = scaling.norms(jnp.where(jnp.isnan(gap), jnp.inf, gap)) if separation else None
    basis, matrix = block.vectors[:, :k], jnp.diag(values).astype(pencil.dtype)
    if pencil.mass is not None:
        t = triangle(basis, block.active[:k])
        inverse = jnp.linalg.inv(t)
        basis, matrix = basis @ inverse, t @ matrix @ inverse
    residual = _residual(stop(pencil), basis, matrix, block.norm)
    block.stats["num_matvecs"] = block.stats["num_matvecs"] + k

    if signal is None:
        signal = jnp.zeros((), block.residuals.dtype)
    values, coupling, vectors, mark, signal = hermitian_root(
        pencil,
        block.eigenvalues,
        block.vectors,
        signal,
        active=block.active,
        apart=selected[:, None] != selected,
        solve=solve,
    )
    missing = ~block.active[:k]
    basis = vectors[:, :k] + jnp.sum(mark).astype(vectors.dtype)
    matrix = jnp.diag(values[:k]).astype(vectors.dtype) + coupling[:k, :k]
    basis, matrix = nan_tangent(basis, missing), nan_tangent(matrix, missing)
    values = jax.lax.stop_gradient(values[:k])
    if hide:
        basis, matrix, values = _hidden(block.result, basis, matrix, values)
    spectrum = HermitianSpectrum(scaling.values(matrix), scaling.values(values), tie_rtol)
    subspace = assembled(
        pencil,
        scaling,
        basis,
        matrix,
        None if left is False else basis,
        missing,
        is_orthonormal=pencil.mass is None,
        residual=residual,
        separation=sep,
        stats=block.stats,
        result=block.result,
        _spectrum=spectrum,
    )
    return (subspace, tuple(scaling.values(x) for x in edge)), signal  # pyright: ignore[reportReturnType]


def _hidden(result: RESULTS, *arrays: Array) -> tuple[Array, ...]:
    """The arrays, but NaN for a run that failed."""
    failed = ~is_good(result)
    return tuple(x + nothing_where(failed, x.dtype) for x in arrays)


def _of_order(
    block: InvariantBlock, k: int, tie_rtol: Float[Array, ""]
) -> tuple[InvariantBlock, tuple[Complex[Array, ""], Complex[Array, ""]]]:
    """The first k columns, which all have derivatives or none has, and the selected and
    the unselected eigenvalue between which k cuts."""
    values, outside = block.eigenvalues[:k], block.outside
    outside = jnp.full_like(values, jnp.nan) if outside is None else outside[:k]
    gap = jnp.abs(values - outside)
    closest = jnp.argmin(jnp.where(jnp.isnan(gap), jnp.inf, gap))
    inside, outside = values[closest], outside[closest]
    largest = jnp.max(jnp.abs(values))
    cut = jnp.abs(inside - outside) <= tie_rtol * largest
    if block.active.size > k:
        # The partner of the last pair, if its column is active.
        pair = block.active[k]
        inside = jnp.where(pair, values[k - 1], inside)
        outside = jnp.where(pair, block.eigenvalues[k], outside)
        cut = cut | pair
    left_basis = block.left_basis
    block = dataclasses.replace(
        block,
        basis=block.basis[:, :k],
        matrix=block.matrix[:k, :k],
        eigenvalues=values,
        coordinates=block.coordinates[:k, :k],
        left_basis=None if left_basis is None else left_basis[:, :k],
        active=jnp.broadcast_to(jnp.all(block.active[:k]) & is_good(block.result), (k,)),
        residuals=block.residuals[:k],
    )
    return _unless(block, cut, RESULTS.cut), (inside, outside)


def _unless(
    block: InvariantBlock, bad: Bool[Array, ""], result: RESULTS
) -> InvariantBlock:
    """The block; if it is `bad`, without derivatives and reported by `result`, unless
    something worse is reported already."""
    return without(block, bad & is_good(block.result), result)


def _residual(
    pencil: Pencil,
    basis: Inexact[Array, "n k"],
    matrix: Inexact[Array, "k k"],
    norm: Float[Array, ""],
) -> Float[Array, ""]:
    image = pencil.mass_mm(basis) @ matrix
    defect = jnp.linalg.norm(pencil.mm(basis) - image)
    eps = jnp.finfo(defect.dtype).eps
    scale = jnp.maximum(jnp.linalg.norm(image), eps * norm)
    return defect / jnp.where(scale > 0, scale, 1)
