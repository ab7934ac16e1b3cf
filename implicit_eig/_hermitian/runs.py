"""How pairs of a Hermitian pencil are found: the whole spectrum by LAPACK, or the wanted
part of it by Lanczos runs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Inexact, Int

from .._eigensolver import AbstractEigensolver, Dense, is_linear, KrylovSchur, ShiftInvert
from .._krylov import default_start, norm_estimate, random_pair, start_vector
from .._krylov.lanczos import best_first, lanczos, LanczosResult
from .._operator import entries, Pencil, SparseOperator
from .._progress_meter import AbstractProgressMeter
from .._solution import RESULTS
from .._spectral import (
    AbstractSelection,
    AbstractTransformation,
    default_linear_solver,
    Direct,
    Inverse,
    MassInverted,
    ShiftedPencil,
    ShiftInverted,
)
from .block import asymmetric, hermitian_part, HermitianBlock, of_extreme_size, without


@functools.singledispatch
def hermitian_block(
    solver: AbstractEigensolver,
    pencil: Pencil,
    selection: AbstractSelection,
    k: int,
    *,
    v0: Inexact[Array, " n"] | None,
    progress_meter: AbstractProgressMeter,
) -> HermitianBlock:
    """The k pairs that `selection` wants, found in the way of `solver`."""
    del pencil, selection, k, v0, progress_meter
    raise NotImplementedError(solver)


def finds_hermitian_pairs(solver: AbstractEigensolver) -> bool:
    """Whether `hermitian_block` knows a way of `solver`."""
    found = hermitian_block.dispatch(type(solver))
    return found is not hermitian_block.dispatch(object)


@hermitian_block.register
def _(
    solver: Dense,
    pencil: Pencil,
    selection: AbstractSelection,
    k: int,
    *,
    v0: Inexact[Array, " n"] | None,
    progress_meter: AbstractProgressMeter,
) -> HermitianBlock:
    """All pairs, by LAPACK's `syevd` or `heevd`; with a mass matrix those of L⁻¹AL⁻ᴴ,
    `B = LLᴴ` (Golub and Van Loan 2013, section 8.7)."""
    del solver, v0, progress_meter
    pencil, wrong, linear, num_matvecs = _as_matrices(pencil)
    a = pencil.operator.as_matrix()
    b = None if pencil.mass is None else pencil.mass.as_matrix()
    values, vectors = hermitian_pairs(a, b)
    norm = jnp.linalg.norm(a)
    eps = float(jnp.finfo(norm.dtype).eps)
    target, overlaps = selection.target(), None
    if target is not None:
        overlaps = jnp.abs(target.conj().astype(vectors.dtype) @ vectors)
    accuracy = jnp.full_like(values, 10 * eps) * jnp.max(jnp.abs(values))
    best = best_first(selection, values, overlaps, accuracy)
    values, vectors = values[best], vectors[:, best]
    finite = jnp.isfinite(norm) & (True if b is None else jnp.all(jnp.isfinite(b)))
    result = RESULTS.where(
        finite & ~jnp.any(jnp.isnan(values)), RESULTS.successful, RESULTS.not_definite
    )
    result = RESULTS.where(finite, result, RESULTS.nonfinite)
    active = jnp.full(values.shape, True) & (result == RESULTS.successful)
    size = jnp.linalg.norm(vectors, axis=0)
    defect = pencil.mm(vectors) - pencil.mass_mm(vectors) * values.astype(vectors.dtype)
    residuals = jnp.linalg.norm(defect, axis=0) / size
    mass_norm = 1.0 if b is None else jnp.linalg.norm(b)
    counts = num_matvecs, 0, jnp.sum(active[:k])
    block = HermitianBlock(
        eigenvalues=values,
        vectors=vectors,
        active=active,
        residuals=residuals,
        norm=norm,
        mass_norm=mass_norm,
        stats=dict(zip(_COUNTS, map(jnp.asarray, counts), strict=True)),
        result=result,
    )
    if b is not None:
        # What an ill-conditioned L leaves of A.
        most = eps**0.5 * (norm + jnp.abs(values) * mass_norm)
        large = jnp.any((residuals > most)[:k])
        block = without(block, large & finite, RESULTS.residual_too_large)
    block = without(block, wrong & finite, RESULTS.not_hermitian)
    return without(block, ~linear & finite, RESULTS.not_linear)


_COUNTS = "num_matvecs", "num_restarts", "num_converged"


def _as_matrices(pencil: Pencil) -> tuple[Pencil, Bool[Array, ""], Bool[Array, ""], int]:
    """The pencil, the Hermitian part of it; whether there is another one, whether its
    functions are linear, and the products with A that took."""
    parts = [pencil.operator, pencil.mass]
    if all(x is None or isinstance(x, lx.MatrixLinearOperator) for x in parts):
        return pencil, jnp.asarray(False), jnp.asarray(True), 0
    a = lx.MatrixLinearOperator(pencil.operator.as_matrix())
    b = None
    if pencil.mass is not None:
        b = lx.MatrixLinearOperator(pencil.mass.as_matrix())
    matrices = Pencil(a, b)
    linear, products = is_linear(pencil, matrices, jnp.ones((), a.matrix.real.dtype))
    known = isinstance(pencil.operator, lx.MatrixLinearOperator | SparseOperator)
    products = products if known else products + pencil.n
    return *hermitian_part(matrices), linear, products


def hermitian_pairs(
    a: Inexact[Array, "n n"], b: Inexact[Array, "n n"] | None
) -> tuple[Float[Array, " n"], Inexact[Array, "n n"]]:
    """λ ascending and V with `A V = B V Λ`, `Vᴴ B V = I`; NaN if B is not definite, or
    what elimination leaves of its diagonal is rounding."""
    a = (a + a.conj().T) / 2
    if b is None:
        return jnp.linalg.eigh(a, symmetrize_input=False)
    lower = jnp.linalg.cholesky((b + b.conj().T) / 2)
    pivots, diagonal = jnp.diagonal(lower).real ** 2, jnp.diagonal(b).real
    rounding = 10 * len(a) ** 0.5 * float(jnp.finfo(pivots.dtype).eps)
    lower = jnp.where(jnp.all(pivots > rounding * diagonal), lower, jnp.nan)

    def solve(x: Array, adjoint: bool = False) -> Array:
        return jax.lax.linalg.triangular_solve(
            lower, x, left_side=True, lower=True, transpose_a=adjoint, conjugate_a=adjoint
        )

    inside = solve(solve(a).conj().T)
    finite = jnp.all(jnp.isfinite(inside))
    eye = jnp.eye(a.shape[0], dtype=a.dtype)
    values, vectors = jnp.linalg.eigh(jnp.where(finite, inside, eye))
    nothing = jnp.where(finite, 0, jnp.nan).astype(values.dtype)
    return values + nothing, solve(vectors, adjoint=True) + nothing.astype(a.dtype)


@hermitian_block.register
def _(
    solver: KrylovSchur,
    pencil: Pencil,
    selection: AbstractSelection,
    k: int,
    *,
    v0: Inexact[Array, " n"] | None,
    progress_meter: AbstractProgressMeter,
) -> HermitianBlock:
    """By a Lanczos run of A, or of B⁻¹A in the inner product of B."""
    start = start_vector(v0, pencil.n, pencil.dtype)
    transformation, singular = Direct(pencil), jnp.asarray(False)
    if pencil.mass is not None:
        linear_solver = solver.mass_solver
        if linear_solver is None:
            linear_solver = default_linear_solver(
                [pencil.mass], "`mass`", "`eigensolver=KrylovSchur(mass_solver=...)`"
            )
        mass = ShiftedPencil(Pencil(pencil.mass, None), jnp.zeros((), pencil.dtype))
        inverse = Inverse.of(mass, linear_solver)
        norm = norm_estimate(mass.mv, pencil.n, pencil.dtype)
        _, singular = inverse.is_singular(default_start(pencil.n, pencil.dtype), norm)
        transformation, singular = MassInverted(pencil, inverse), singular
    limit = solver.limit(pencil.n)
    found = _find(solver, transformation, selection, k, start, limit, progress_meter)
    block = _finish(solver, transformation, selection, k, found)
    return without(block, singular, RESULTS.not_definite)


@hermitian_block.register
def _(
    solver: ShiftInvert,
    pencil: Pencil,
    selection: AbstractSelection,
    k: int,
    *,
    v0: Inexact[Array, " n"] | None,
    progress_meter: AbstractProgressMeter,
) -> HermitianBlock:
    """By a Lanczos run of (A − σB)⁻¹B in the inner product of B."""

    find = functools.partial(_find, solver.inner)

    def finish(transformation, selection, k, start, found):
        return _finish(solver.inner, transformation, selection, k, found)

    block, singular = solver.near(pencil, selection, k, v0, find, finish, progress_meter)
    return without(block, singular, RESULTS.singular)


def _find(
    solver: KrylovSchur,
    transformation: AbstractTransformation,
    selection: AbstractSelection,
    k: int,
    start: Inexact[Array, " n"],
    limit: int | Int[Array, ""],
    progress_meter: AbstractProgressMeter,
    stop: Callable[[Array, Array], Bool[Array, ""]] | None = None,
) -> LanczosResult:
    pencil = transformation.pencil

    def metric(x: Array) -> Array:
        return pencil.mass_mm(x[:, None])[:, 0]

    search = solver.search(pencil.n, k, start.dtype, progress_meter)
    purify = isinstance(transformation, ShiftInverted)
    return lanczos(
        transformation.mv,
        start,
        transformation.selection(selection),
        dataclasses.replace(search, purify=purify),
        max_restarts=limit,
        metric=None if pencil.mass is None else metric,
        stop=stop,
    )


def _finish(
    solver: KrylovSchur,
    transformation: AbstractTransformation,
    selection: AbstractSelection,
    k: int,
    found: LanczosResult,
) -> HermitianBlock:
    pencil = transformation.pencil
    rtol, eps = solver.tolerance(pencil.dtype), float(jnp.finfo(pencil.dtype).eps)
    vectors, inverted = found.basis, isinstance(transformation, ShiftInverted)
    if inverted:
        # One more product with C, which costs none (Ericsson and Ruhe 1980).
        theta = found.eigenvalues.real
        step = found.coupling / jnp.where(theta == 0, 1, theta).astype(vectors.dtype)
        step = jnp.where(found.active & (theta != 0), step, 0)
        vectors = vectors + jnp.outer(found.rest, step)
    norm = found.norm
    if transformation.inverse is not None:
        norm = norm_estimate(pencil.mv, pencil.n, pencil.dtype)
    looked = _look(pencil)
    mass_norm = looked.mass_norm.astype(norm.dtype)

    def measured(vectors: Array) -> tuple[Array, Array, Array, Array]:
        """Of norm one, with their Rayleigh quotients, residuals, and which will do."""
        av, bv = pencil.mm(vectors), pencil.mass_mm(vectors)
        size = jnp.sqrt(jnp.sum((vectors.conj() * bv).real, axis=0))
        av, bv, vectors = (x / size.astype(x.dtype) for x in (av, bv, vectors))
        values = jnp.sum((vectors.conj() * av).real, axis=0)
        residuals = jnp.linalg.norm(av - bv * values.astype(bv.dtype), axis=0)
        residuals = residuals / jnp.linalg.norm(vectors, axis=0)
        enough = jnp.maximum(10 * rtol * jnp.abs(values) * mass_norm, 1e3 * eps * norm)
        return vectors, values, residuals, residuals <= enough

    found_pairs = measured(vectors)
    solves = found.num_matvecs
    if inverted:
        # What A enlarges of the error of a vector, a product with C takes away.
        verified = jnp.all(found_pairs[-1] | ~found.active)
        found_pairs = jax.lax.cond(
            verified,
            lambda _: found_pairs,
            lambda v: measured(transformation.mm(v)),
            vectors,
        )
        solves = solves + jnp.where(verified, 0, k)
    vectors, values, residuals, enough = found_pairs
    active = found.active & enough
    confirmed = solver.confirms(transformation.selection(selection), k, False)
    success = RESULTS.successful if confirmed else RESULTS.unconfirmed
    good = jnp.all(active) & found.done
    result = RESULTS.where(good, success, RESULTS.not_converged)
    nan = jnp.where(found.finite, 0.0, jnp.nan).astype(values.dtype)
    return HermitianBlock(
        eigenvalues=values + nan,
        vectors=vectors,
        active=active & ~(looked.crooked | looked.extreme | looked.indefinite),
        residuals=residuals + nan,
        norm=norm,
        mass_norm=mass_norm,
        stats=transformation.stats(solves, 3 * k + 2)
        | {"num_restarts": found.num_restarts, "num_converged": jnp.sum(active)},
        result=looked.judge(result, found.finite),
        outside=transformation.eigenvalues(found.outside).real,
        transformation=transformation,
    )


class _Look(NamedTuple):
    """What products of A and B with two random vectors tell."""

    mass_norm: Float[Array, ""]
    fine: Bool[Array, ""]  # whether all is finite
    crooked: Bool[Array, ""]
    extreme: Bool[Array, ""]
    indefinite: Bool[Array, ""]
    broken: RESULTS  # what a run that is not finite means, of products that are

    def judge(self, result: RESULTS, finite: Bool[Array, ""]) -> RESULTS:
        broken = RESULTS.where(self.fine, self.broken, RESULTS.nonfinite)
        result = RESULTS.where(finite, result, broken)
        result = RESULTS.where(self.indefinite, RESULTS.not_definite, result)
        result = RESULTS.where(self.crooked, RESULTS.not_hermitian, result)
        return RESULTS.where(self.extreme, RESULTS.extreme_size, result)


def _look(pencil: Pencil) -> _Look:
    random = random_pair(pencil.n, pencil.dtype)
    images = [pencil.mm(random)]
    mass_norm, broken = jnp.asarray(1.0, random.real.dtype), RESULTS.nonfinite
    indefinite = jnp.asarray(False)
    if pencil.mass is not None:
        images.append(pencil.mass_mm(random))
        indefinite = _indefinite(pencil.mass, random, images[1])
        mass_norm = jnp.linalg.norm(images[1]) / jnp.linalg.norm(random)
        # The square root of a negative ⟨w, Bw⟩.
        broken = RESULTS.not_definite
    fine = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in images]))
    crooked, extreme = (
        functools.reduce(jnp.logical_or, [test(random, x) for x in images])
        for test in (asymmetric, of_extreme_size)
    )
    return _Look(mass_norm, fine, crooked, extreme, indefinite & fine, broken)


def _indefinite(
    mass: lx.AbstractLinearOperator,
    random: Inexact[Array, "n 2"],
    image: Inexact[Array, "n 2"],
) -> Bool[Array, ""]:
    """Whether ⟨x, Bx⟩ is not positive for a random x, or a unit vector where the entries
    are at hand."""
    sizes = jnp.sum((random.conj() * image).real, axis=0)
    if isinstance(mass, lx.MatrixLinearOperator):
        diagonal = jnp.diagonal(mass.matrix).real
    elif (known := entries(mass)) is not None:
        values, rows, columns = known
        diagonal = jnp.zeros(len(random), values.real.dtype)
        diagonal = diagonal.at[rows].add(jnp.where(rows == columns, values.real, 0))
    else:
        diagonal = sizes
    return ~(jnp.all(sizes > 0) & jnp.all(diagonal > 0))
