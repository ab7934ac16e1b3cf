"""Pairs of polynomial eigenproblems."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Bool, Complex, PyTree

from ._batch import each, either
from ._check import check_flag, check_integer
from ._eigensolver import KrylovSchur
from ._failure import check_throw
from ._gauge import Gauge
from ._nonlinear import Newton, NonlinearOperator
from ._nonlinear.companion import (
    dense_companion,
    matrices_of,
    polynomial_operator,
    sparse_companion,
)
from ._nonlinear.newton import inverse_at, NewtonResult
from ._nonlinear_eigs import Found, NonlinearProblem, solution_of
from ._operator import as_operator, Pencil
from ._problem import check_adjoint, stop
from ._rule import ImplicitAdjoint, untrue_tag
from ._solution import RESULTS, Solution
from ._spectral import AbstractSelection, as_selection, as_shift, Nearest, Which


def polyeig(
    coefficients: Sequence[Any],
    k: int = 6,
    which: Which = "LM",
    *,
    sigma: ArrayLike | None = None,
    like: PyTree | None = None,
    left: bool = False,
    eigensolver: KrylovSchur | None = None,
    linear_solver: lx.AbstractLinearSolver | None = None,
    adjoint: ImplicitAdjoint | None = None,
    gauge: Gauge | None = None,
    throw: bool | None = None,
) -> Solution:
    """Selected eigenpairs of `(A₀ + λA₁ + … + λᵈA_d) v = 0`, with derivatives of any
    order in either mode with respect to every coefficient.

    **Arguments:**

    - `coefficients`: `(A₀, …, A_d)`, d ≥ 1, each anything that [`implicit_eig.eigs`][]
        takes as an operator. If all are tagged `lineax.symmetric_tag`, left vectors
        are the conjugates of right ones, and gradients of eigenvalues take no solve.
    - `k`, `which`, `sigma`: as in `eigs`. For matrices, the selection is from all finite
        eigenvalues; infinite ones (A_d singular) are left out and counted in
        `stats["num_infinite"]`. Other operators need `sigma`.
    - `eigensolver`: the options of the run at a target, [`implicit_eig.KrylovSchur`][].
    - `linear_solver`: any lineax solver for P(σ); default: a factorisation, if entries
        are known.
    - `left`, `adjoint`, `gauge`, `throw`: as in [`implicit_eig.nonlinear_eigs`][].

    **Returns:** a [`implicit_eig.Solution`][], complex, in the widest precision enabled;
    `residuals` are backward errors of the polynomial, after a few steps of Newton's
    method if the coefficients are matrices.

    **Cost:** matrices: LAPACK on the companion pencil of order dn. Other operators: one
    factorisation of P(σ), of order n; the pencil is never formed. A few more for an
    eigenvalue with close neighbours, which may be defective.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        stiffness, mass = jnp.array([[2.0, -1.0], [-1.0, 2.0]]), jnp.eye(2)

        def decay(damping):  # of the slowest mode of a damped chain
            modes = ieig.polyeig((stiffness, jnp.diag(damping), mass), 1, "LR")
            return modes.eigenvalues[0].real

        jax.grad(decay)(jnp.array([0.3, 0.0]))
        ```
    """
    check_flag("left", left)
    check_throw(throw)
    k = check_integer("k", k, 1)
    if not isinstance(coefficients, list | tuple) or len(coefficients) < 2:
        raise ValueError(
            "`coefficients` must be a sequence (A0, A1, ...) of two or more; got "
            f"{type(coefficients).__name__}"
            + (f" of {len(coefficients)}." if hasattr(coefficients, "__len__") else ".")
        )
    operators = tuple(
        as_operator(a, like, name=f"coefficients[{i}]")
        for i, a in enumerate(coefficients)
    )
    structures = [a.in_structure() for a in operators]
    for i, structure in enumerate(structures[1:], 1):
        if [x.shape for x in jax.tree.leaves(structure)] != [
            x.shape for x in jax.tree.leaves(structures[0])
        ]:
            raise ValueError(
                f"`coefficients[{i}]` acts on {structure}, `coefficients[0]` on "
                f"{structures[0]}."
            )
    operator, operators = polynomial_operator(operators, like)
    dense = matrices_of(operators) is not None
    most = operator.n * (len(operators) - 1)
    if k > most:
        raise ValueError(f"`k` must be at most d n = {most}; got {k}.")
    selection = as_selection(which, operator.domain)
    if sigma is not None:
        sigma = as_shift(sigma)
        if which != "LM":
            raise ValueError(
                f"Beside the target `sigma={sigma}` the eigenvalues nearest to it are "
                f"wanted; got `which={which!r}`. Leave `which` out."
            )
        selection = Nearest(sigma)
    elif isinstance(selection, Nearest):
        sigma = selection.sigma
    elif not dense:
        raise ValueError(
            "Of coefficients that are not matrices the eigenvalues near a target can be "
            "found: pass `sigma=`."
        )
    problem = _Polynomial(
        operator=operator,
        k=k,
        starts=None,
        region=None,
        eigensolver=Newton(max_steps=4, linear_solver=linear_solver),
        adjoint=check_adjoint(adjoint),
        coefficients=operators,
        selection=selection,
        sigma=sigma,
        run=KrylovSchur() if eigensolver is None else eigensolver,
        linear_solver=linear_solver,
    )
    return solution_of(problem, left, gauge, throw)


class _Polynomial(NonlinearProblem):
    coefficients: tuple[lx.AbstractLinearOperator, ...]
    selection: AbstractSelection
    sigma: Complex[Array, ""] | None
    run: KrylovSchur
    linear_solver: lx.AbstractLinearSolver | None

    def pairs(self) -> Found:
        operator, coefficients, selection, sigma = stop(
            (self.operator, self.coefficients, self.selection, self.sigma)
        )
        matrices, factorised = matrices_of(coefficients), 0
        if matrices is not None:
            found = dense_companion(matrices, selection, self.k)
        else:
            inverse = inverse_at(
                operator, sigma.astype(operator.dtype), self.linear_solver
            )
            factorised = int(inverse.factorised)
            found = sparse_companion(
                operator, inverse, sigma, coefficients, selection, self.k, self.run
            )
        dtype = operator.dtype
        values, vectors = found.eigenvalues.astype(dtype), found.vectors.astype(dtype)
        usable = jnp.isfinite(values) & jnp.all(jnp.isfinite(vectors), axis=0)
        values = jnp.where(usable, values, 1)
        vectors = jnp.where(usable, vectors, 1)
        sizes = found.sizes.astype(values.real.dtype)
        rows = (values, vectors.T, sizes), found.close & usable
        out = each(lambda row: self._looked_at(operator, *row), rows)
        active = usable & out.converged
        result = RESULTS.where(
            jnp.all(active) | (found.result != RESULTS.successful),
            found.result,
            RESULTS.residual_too_large,
        )
        steps = jnp.sum(out.num_steps)
        stats = {"num_solves": steps * 0} | found.stats
        stats["num_solves"] += 2 * steps
        if "num_factorizations" in stats:
            stats["num_factorizations"] += factorised * steps
        return Found(
            eigenvalues=out.eigenvalue,
            vectors=out.vector.T,
            errors=jnp.where(usable, out.error, jnp.nan),
            active=active,
            merged=out.merged & active,
            stats=stats | {"num_converged": jnp.sum(active)},
            result=result,
        )

    def _looked_at(
        self, operator: NonlinearOperator, pair: tuple, close: Bool[Array, ""]
    ) -> NewtonResult:
        """The verdict on a pair: after a few steps, unless they lead elsewhere, if the
        coefficients are matrices or the eigenvalue is close to others."""
        newton = stop(self.eigensolver)

        def judged(pair: tuple) -> NewtonResult:
            return newton.judged(operator, *pair[:2])

        def polished(pair: tuple) -> NewtonResult:
            out, before = newton.run(operator, *pair[:2]), judged(pair)
            near = jnp.abs(out.eigenvalue - pair[0]) <= 1e-3 * pair[2]
            kept = jax.tree.map(lambda new, old: jnp.where(near, new, old), out, before)
            return kept._replace(merged=out.merged | ~near, num_steps=out.num_steps)

        if matrices_of(self.coefficients) is not None:
            return polished(pair)
        if operator.fault is not None:  # nor has it derivatives
            return judged(pair)
        return either(close, polished, judged, pair)

    def untrue_tag(self, pencil: Pencil) -> Bool[Array, ""]:
        del pencil
        wrong = (untrue_tag(Pencil(a, None)) for a in stop(self.coefficients))
        return functools.reduce(jnp.logical_or, wrong)
