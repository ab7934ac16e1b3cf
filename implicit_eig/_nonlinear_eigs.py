"""Pairs of T(λ) v = 0."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, PyTree

from ._ad import nan_tangent, nothing_where
from ._batch import each
from ._check import check_flag, check_integer
from ._failure import check_throw, raise_unless_successful, reported, watched
from ._gauge import (
    AbstractGauge,
    as_gauge,
    Gauge,
    vanishing,
    watched_phases,
    without_gauge,
)
from ._nonlinear import (
    AbstractRegion,
    Contour,
    duals,
    left_of,
    Newton,
    no_transpose,
    nonlinear_root,
    NonlinearOperator,
    polynomial_operator,
    solver_at,
)
from ._operator import Domain, Pencil
from ._problem import check_adjoint, stop
from ._program import Program
from ._rule import ImplicitAdjoint, untrue_tag
from ._solution import is_good, RESULTS, Solution
from ._spectral import check_vector


def nonlinear_eigs(
    T: Callable[[Array], Any],
    k: int = 1,
    *,
    guess: Any = None,
    region: AbstractRegion | None = None,
    like: PyTree | None = None,
    left: bool = False,
    eigensolver: Newton | Contour | None = None,
    adjoint: ImplicitAdjoint | None = None,
    gauge: Gauge | None = None,
    throw: bool | None = None,
) -> Solution:
    """Eigenpairs of `T(λ) v = 0`, T holomorphic in λ, with derivatives of any order in
    either mode with respect to everything that T closes over.

    **Arguments:**

    - `T`: a function of a complex number that returns what [`implicit_eig.eigs`][] takes
        as an operator: a matrix, a `SparseOperator`, a lineax operator, or a function of
        a vector (then with `like`). With `lineax.symmetric_tag`, left vectors are the
        conjugates of right ones, and gradients of eigenvalues take no solve.
    - `k`: how many pairs; with a `region`, room for as many: spare places are NaN and
        have no derivatives, and `stats["num_inside"]` is the number found.
    - `guess`: `λ0`, or `(λ0, v0)`, or an array of k guesses, from each of which Newton's
        method goes to a pair.
    - `region`: [`implicit_eig.Disk`][], [`implicit_eig.Ellipse`][],
        [`implicit_eig.Rectangle`][] or one of your own: all eigenvalues inside. T must be
        holomorphic there: a pole inside counts as minus one eigenvalue.
    - `left`: whether to return left vectors, `uᴴ T(λ) = 0`, `uᴴ T′(λ) v = −1` (which is
        `uᴴBv = 1` for `T = A − λB`), and `condition_numbers`, `‖u‖ ‖v‖ / |uᴴ T′ v|`.
    - `eigensolver`: [`implicit_eig.Newton`][] for a guess, [`implicit_eig.Contour`][] for
        a region.
    - `adjoint`: the linear solver for derivatives. Default: LU of the bordered system;
        for a `SparseOperator`, `DeflatedGMRES` with a factorisation of T near λ.
    - `gauge`, `throw`: as in [`implicit_eig.eigs`][].

    **Returns:** a [`implicit_eig.Solution`][]; `residuals` are
    `‖T(λ)v‖ / ((‖T(λ)‖ + |λ| ‖T′(λ)‖) ‖v‖)`.

    **Raises:** errors that name the argument; and by `result`: `not_converged` (Newton's
    method did not converge, or the argument principle counts another number than was
    found), `region_overflow`, `not_holomorphic`. Not a failure: `defective`, if rounding
    cannot tell some eigenvalue from a defective one, which has NaN derivatives.

    The derivative is `λ̇ = −uᴴ Ṫ v / uᴴ T′ v`, by one bordered linear system of order n
    per pair. A repeated or defective eigenvalue has none: NaN, or an error.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        def growth(delay):  # x'(t) = −2 x(t) + x(t − delay)
            T = lambda z: (-z - 2 + jnp.exp(-delay * z)).reshape(1, 1)
            return ieig.nonlinear_eigs(T, guess=-0.5).eigenvalues[0].real

        sensitivity = jax.grad(growth)(1.0)
        ```
    """
    check_flag("left", left)
    check_throw(throw)
    k = check_integer("k", k, 1)
    if (guess is None) == (region is None):
        raise ValueError("Give either a `guess` or a `region`.")
    operator = NonlinearOperator.of(T, like)
    starts = None
    if region is None:
        starts = _starts(guess, k, operator.domain)
        eigensolver = Newton() if eigensolver is None else eigensolver
        if not isinstance(eigensolver, Newton):
            raise TypeError(f"A `guess` needs `Newton(...)`; got {eigensolver!r}.")
    else:
        if not isinstance(region, AbstractRegion):
            raise TypeError(f"`region` must be a region such as `Disk`; got {region!r}.")
        eigensolver = Contour() if eigensolver is None else eigensolver
        if not isinstance(eigensolver, Contour):
            raise TypeError(f"A `region` needs `Contour(...)`; got {eigensolver!r}.")
    problem = NonlinearProblem(
        operator=operator,
        k=k,
        starts=starts,
        region=region,
        eigensolver=eigensolver,
        adjoint=check_adjoint(adjoint),
    )
    return solution_of(problem, left, gauge, throw)


def eigs_inside(
    pencil: Pencil,
    k: int,
    region: AbstractRegion,
    *,
    left: bool,
    eigensolver: Any,
    adjoint: ImplicitAdjoint | None,
    gauge: Gauge | None,
    throw: bool | None,
) -> Solution:
    """All eigenvalues of a pencil in a region: those of `T(λ) = A − λB`."""
    eigensolver = Contour() if eigensolver is None else eigensolver
    if not isinstance(eigensolver, Contour):
        raise TypeError(f"`Inside` needs `Contour(...)`; got {eigensolver!r}.")
    mass = pencil.mass
    if mass is None:
        mass = lx.IdentityLinearOperator(pencil.operator.in_structure())
        if isinstance(pencil.operator, lx.MatrixLinearOperator):
            mass = lx.MatrixLinearOperator(jnp.eye(pencil.n, dtype=pencil.dtype))
    if isinstance(mass, lx.MatrixLinearOperator):
        mass = lx.MatrixLinearOperator(-mass.matrix, mass.tags)
    else:
        mass = -mass
    problem = NonlinearProblem(
        operator=polynomial_operator((pencil.operator, mass))[0],
        k=k,
        starts=None,
        region=region,
        eigensolver=eigensolver,
        adjoint=check_adjoint(adjoint),
    )
    return solution_of(problem, left, gauge, throw)


def attach_nonlinear(
    operator: NonlinearOperator,
    pairs: tuple[Complex[Array, " k"], Complex[Array, "n k"]],
    *,
    left: bool,
    polish: int,
    rtol: float | None,
    adjoint: ImplicitAdjoint | None,
    gauge: Gauge | None,
    throw: bool | None,
) -> Solution:
    """Pairs of T(λ) from elsewhere, after `polish` steps of Newton's method."""
    eps = float(jnp.finfo(operator.dtype).eps)
    eigenvalues, vectors = (x.astype(operator.dtype) for x in pairs)
    problem = _Given(
        operator=operator,
        k=eigenvalues.size,
        starts=(eigenvalues, vectors),
        region=None,
        eigensolver=Newton(rtol=eps**0.5 if rtol is None else rtol),
        adjoint=check_adjoint(adjoint),
        polish=polish,
    )
    return solution_of(problem, left, gauge, throw)


class NonlinearProblem(eqx.Module):
    operator: NonlinearOperator
    k: int = eqx.field(static=True)
    starts: tuple[Complex[Array, " k"], Complex[Array, "n k"] | None] | None
    region: AbstractRegion | None
    eigensolver: Newton | Contour
    adjoint: ImplicitAdjoint

    def pairs(self) -> "Found":
        """The pairs, without derivatives."""
        operator, starts, region, solver = stop(
            (self.operator, self.starts, self.region, self.eigensolver)
        )
        if region is None:
            return _by_newton(operator, solver, *starts)
        return _in_region(operator, solver, region, self.k)

    def untrue_tag(self, pencil: Pencil) -> Bool[Array, ""]:
        """Whether T, tagged symmetric, is not, by products with T(λ) and T′(λ)."""
        return untrue_tag(pencil)


class _Given(NonlinearProblem):
    polish: int = eqx.field(static=True)

    def pairs(self) -> "Found":
        operator, starts, newton = stop((self.operator, self.starts, self.eigensolver))
        if self.polish:
            newton = dataclasses.replace(newton, max_steps=self.polish)
            found = _by_newton(operator, newton, *starts)
        else:
            found = _found(each(lambda x: newton.examined(operator, *x), _rows(*starts)))
        failed = found.result == RESULTS.not_converged
        result = RESULTS.where(failed, RESULTS.residual_too_large, found.result)
        return dataclasses.replace(found, result=result)


class Found(eqx.Module):
    eigenvalues: Complex[Array, " k"]
    vectors: Complex[Array, "n k"]
    errors: Float[Array, " k"]
    active: Bool[Array, " k"]
    merged: Bool[Array, " k"]
    stats: dict[str, Any]
    result: RESULTS


def _starts(
    guess: Any, k: int, domain: Domain
) -> tuple[Complex[Array, " k"], Complex[Array, "n k"] | None]:
    vector = None
    if isinstance(guess, tuple):
        if len(guess) != 2:
            raise ValueError(
                f"`guess` must be `λ0` or `(λ0, v0)`; got {len(guess)} parts."
            )
        guess, vector = guess
        check_vector(vector, domain, "`v0` of `guess`")
        vector = domain.flatten(vector).astype(domain.dtype)[:, None]
    values = jnp.atleast_1d(jnp.asarray(guess)).astype(domain.dtype)
    if values.shape != (k,):
        raise ValueError(
            f"`guess` must have one number for each of the k = {k} pairs; got shape "
            f"{jnp.shape(guess)}."
        )
    return values, vector


def _by_newton(
    operator: NonlinearOperator,
    solver: Newton,
    values: Complex[Array, " k"],
    vectors: Complex[Array, "n k"] | None,
) -> Found:
    return _found(each(lambda x: solver.run(operator, *x), _rows(values, vectors)))


def _rows(
    values: Complex[Array, " k"], vectors: Complex[Array, "n k"] | None
) -> tuple[Array, Array | None]:
    return values, None if vectors is None else vectors.T


def _found(out: Any) -> Found:
    """The result of Newton's method, or of its verdict alone."""
    finite = jnp.all(jnp.isfinite(out.error))
    result = RESULTS.where(
        jnp.all(out.converged), RESULTS.successful, RESULTS.not_converged
    )
    return Found(
        eigenvalues=out.eigenvalue,
        vectors=out.vector.T,
        errors=out.error,
        active=out.converged,
        merged=out.merged,
        stats=_counts(out.converged, num_solves=jnp.sum(out.num_steps)),
        result=RESULTS.where(finite, result, RESULTS.nonfinite),
    )


def _in_region(
    operator: NonlinearOperator, solver: Contour, region: AbstractRegion, k: int
) -> Found:
    out = solver.run(operator, region, k)
    inside = jnp.sum(out.inside)
    # If the trace is known, the count is close to an integer.
    known, close = ~jnp.isnan(out.count.real), jnp.round(out.count.real)
    off = jnp.abs(out.count.real - close) + jnp.abs(out.count.imag)
    sure = known & (off < 0.1)
    counted = jnp.where(sure, close, 0).astype(inside.dtype)
    complete = ~known | (sure & (counted == inside))
    inside = jnp.maximum(counted, inside)
    result = RESULTS.where(complete, RESULTS.successful, RESULTS.not_converged)
    result = RESULTS.where(inside > k, RESULTS.region_overflow, result)
    result = RESULTS.where(out.result == RESULTS.successful, result, out.result)
    pad = max(0, k - out.inside.size)
    values, errors, active, merged = (
        jnp.pad(x, (0, pad))[:k]
        for x in (out.eigenvalues, out.errors, out.inside, out.merged)
    )
    return Found(
        eigenvalues=values,
        vectors=jnp.pad(out.vectors, ((0, 0), (0, pad)))[:, :k],
        errors=jnp.where(active, errors, jnp.nan),
        active=active,
        merged=merged & active,
        stats=_counts(active, num_solves=out.num_solves) | {"num_inside": inside},
        result=result,
    )


def _counts(active: Bool[Array, " k"], num_solves: Array) -> dict[str, Any]:
    zero = jnp.asarray(0)
    return {
        "num_matvecs": zero,
        "num_restarts": zero,
        "num_solves": num_solves,
        "num_converged": jnp.sum(active),
    }


def solution_of(
    problem: NonlinearProblem, left: bool, gauge: Gauge | None, throw: bool | None
) -> Solution:
    """Solves the problem, with derivatives, and checks the result."""
    domain = problem.operator.domain
    gauge = as_gauge(gauge, domain)
    eps = float(jnp.finfo(domain.dtype).eps)
    rtol = eps ** (2 / 3) if problem.adjoint.rtol is None else problem.adjoint.rtol
    problem, signal = watched(problem, throw, rtol)
    solution, signal = _nonlinear_eigs(problem, signal, left, gauge, throw is not False)
    solution = reported(solution, signal, throw, rtol)
    advice = "Try another `guess`, or more `max_steps`."
    if problem.region is not None:
        advice = (
            "Their number is not certain: take more nodes, `Contour(num_nodes=...)`, or "
            "a region that has no eigenvalue on its boundary and no pole of T inside."
        )
    solution = raise_unless_successful(solution, throw, k=problem.k, advice=advice)
    (right,) = watched_phases(gauge, solution.eigenvectors)
    if right is solution.eigenvectors:
        return solution
    return eqx.tree_at(lambda s: s.eigenvectors, solution, right)


@Program
def _nonlinear_eigs(
    problem: NonlinearProblem,
    signal: Float[Array, ""] | None,
    left: bool,
    gauge: AbstractGauge,
    hide: bool,
) -> tuple[Solution, Float[Array, ""]]:
    operator, adjoint = problem.operator, problem.adjoint
    if left and operator.fault is not None:
        raise TypeError(no_transpose(operator.fault))
    found = _checked(problem, stop(problem.pairs()))
    n, eps = operator.n, float(jnp.finfo(operator.dtype).eps)
    signal = jnp.zeros((), found.errors.dtype) if signal is None else signal

    def one(pair: tuple) -> tuple:
        z, v, error, active = pair
        solve, u = solver_at(stop(operator), z, error, adjoint), None
        moving, x, mark, out = nonlinear_root(
            operator, z, v, signal, active=active, solve=solve
        )
        if left and operator.symmetric:
            u = (x + mark.astype(x.dtype)).conj()
        elif left:
            pencil = stop(operator).pencil(z)
            u, out = left_of(operator, pencil, (z, v), out, active=active, solve=solve)
        return moving, x + mark.astype(x.dtype), u, out

    errors = jnp.where(found.active, found.errors, 0)
    rows = found.eigenvalues, found.vectors.T, errors, found.active
    moving, vectors, lefts, signals = jax.vmap(one)(rows)
    signal = jnp.sum(signals) / found.active.size
    missing = ~found.active
    right = jax.vmap(gauge)(vectors).T
    blurred = jnp.full(missing.shape, 10 * n**0.5 * eps, found.errors.dtype)
    scaleless = vanishing(gauge, right, blurred)
    nan = jnp.where(scaleless | missing, jnp.nan, 0).astype(right.real.dtype)
    without = missing | found.merged
    right = nan_tangent(right + nan.astype(right.dtype), without | scaleless)
    values = nan_tangent(moving, without)
    if problem.region is not None:
        # Spare places.
        values = values + nothing_where(missing, values.dtype)
    result = RESULTS.where(
        jnp.any(found.merged) & is_good(found.result), RESULTS.defective, found.result
    )
    if hide:
        failed = ~is_good(result) & (missing | ~jnp.any(missing))
        values, right = (x + nothing_where(failed, x.dtype) for x in (values, right))
    left_vectors = condition = None
    if left:
        left_vectors, condition = duals(operator, moving, lefts, right)
        left_vectors = operator.domain.unflatten(left_vectors)
    solution = Solution(
        eigenvalues=values,
        eigenvectors=operator.domain.unflatten(without_gauge(gauge, right)),
        left_eigenvectors=left_vectors,
        residuals=found.errors,
        condition_numbers=condition,
        stats=found.stats,
        result=result,
    )
    return solution, signal  # pyright: ignore[reportReturnType]


def _checked(problem: NonlinearProblem, found: Found) -> Found:
    """What was found; but no pairs of a T that is not holomorphic, or not symmetric as it
    is tagged, are in use."""
    operator, z = stop(problem.operator), found.eigenvalues[0]
    result, active = found.result, found.active
    known = result != RESULTS.nonfinite
    crooked = known & ~operator.is_holomorphic(z)
    result = RESULTS.where(crooked, RESULTS.not_holomorphic, result)
    if operator.symmetric:
        untrue = known & problem.untrue_tag(operator.pencil(z))
        result = RESULTS.where(untrue, RESULTS.not_symmetric, result)
        crooked = crooked | untrue
    active = active & ~crooked
    return dataclasses.replace(
        found, result=result, active=active, merged=found.merged & active
    )
