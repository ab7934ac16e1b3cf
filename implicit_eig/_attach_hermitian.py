"""Pairs of Hermitian pencils found elsewhere, made differentiable."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from ._eigs import watched_solution
from ._eigsh import solution_of_hermitian
from ._failure import raise_unless_successful, reported, watched
from ._gauge import as_gauge
from ._hermitian import (
    given_block,
    hermitian_part,
    MassOrthonormal,
    MinresSolve,
    without as without_pairs,
)
from ._operator import (
    complex_dtype,
    of_norm_one,
    Pencil,
    pencil_of_moderate_size,
    times_real,
)
from ._problem import stop
from ._program import Program
from ._rule import ImplicitAdjoint, PairOptions, SylvesterSolve
from ._solution import RESULTS, Solution
from ._spectral import Known


def attach_hermitian(
    pencil: Pencil,
    pairs: tuple[Array, Inexact[Array, "n k"]],
    adjoint: ImplicitAdjoint,
    options: PairOptions,
    polish: int,
    rtol: float | None,
    throw: bool | None,
) -> Solution:
    if options.left or polish > 0:
        raise ValueError(
            "`hermitian=True` takes neither `left_eigenvectors`, which are the vectors "
            "themselves, nor `polish`."
        )
    gauge = as_gauge(
        options.gauge, pencil.domain, default=MassOrthonormal(), dtype=pencil.dtype
    )
    options = dataclasses.replace(options, gauge=gauge)
    eigenvalues, vectors = pairs
    if jnp.iscomplexobj(eigenvalues) or (pencil.is_real and jnp.iscomplexobj(vectors)):
        raise TypeError(
            "`hermitian=True` takes real eigenvalues, and real vectors of a real "
            f"operator; got {eigenvalues.dtype} and {vectors.dtype}."
        )
    k = eigenvalues.size
    eigenvalues = eigenvalues.astype(jnp.finfo(pencil.dtype).dtype)
    solve = None
    if adjoint.linear_solver is not None:
        known = Known(eigenvalues.astype(complex_dtype(pencil.dtype)))
        solve = adjoint.bind(pencil, None, known, k)
    eps = float(jnp.finfo(pencil.dtype).eps)
    of_solves = eps ** (2 / 3) if adjoint.rtol is None else adjoint.rtol
    steps = 10 * pencil.n if adjoint.max_steps is None else adjoint.max_steps
    pencil, signal = watched(pencil, throw, of_solves)
    solution, signal = _attach_hermitian(
        pencil,
        signal,
        eigenvalues,
        vectors.astype(pencil.dtype),
        solve,
        options,
        (eps**0.5 if rtol is None else rtol, of_solves, steps),
    )
    solution = reported(solution, signal, throw, of_solves)
    solution = raise_unless_successful(solution, throw, k=k)
    return watched_solution(options.gauge, solution)


@Program
def _attach_hermitian(
    pencil: Pencil,
    signal: Float[Array, ""] | None,
    eigenvalues: Float[Array, " k"],
    vectors: Inexact[Array, "n k"],
    solve: SylvesterSolve | MinresSolve | None,
    options: PairOptions,
    limits: tuple[float, float, int],
) -> tuple[Solution, Float[Array, ""]]:
    rtol, of_solves, steps = limits
    pencil, scaling = pencil_of_moderate_size(pencil, by_rows=False)
    pencil, wrong = hermitian_part(pencil)
    values = times_real(stop(eigenvalues), 1 / scaling.eigenvalues)
    block = given_block(stop(pencil), values, of_norm_one(stop(vectors)), rtol)
    block = stop(without_pairs(block, wrong, RESULTS.not_hermitian))
    if solve is None:
        residuals = jnp.where(block.active, block.residuals, 0)
        solve = MinresSolve(block.transformation, block.norm, residuals, of_solves, steps)
    else:
        solve = stop(solve).for_block(block.as_invariant())
    return solution_of_hermitian(pencil, scaling, block, solve, signal, options)
