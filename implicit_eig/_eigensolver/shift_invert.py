"""Shift-invert: the eigenvalues nearest to a target, by Krylov spaces of (A − σB)⁻¹B."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Inexact, Num

from .._operator import as_operator, Pencil
from .._transformation import (
    default_linear_solver,
    Inverse,
    shift_dtype,
    ShiftedPencil,
    ShiftInverted,
)
from .._which import as_shift
from .base import AbstractEigensolver
from .krylov_schur import default_start, KrylovSchur


class ShiftInvert(AbstractEigensolver):
    """The eigenvalues nearest to `sigma`, wherever in the spectrum it lies.

    A Krylov–Schur run on (A − σB)⁻¹B, in which they are the largest (Ericsson and Ruhe
    1980), in a few dozen products; each takes one solve with A − σB. The factor is made
    once, and serves the left vectors and all derivatives as well. For `sigma` and an
    operator that are real all arithmetic is real.

    A `sigma` that is an eigenvalue to rounding makes A − σB singular; it is then moved by
    eps^(2/3) of the size of A, and the pencil factorised again.

    **Arguments:**

    - `sigma`: the target, a real or complex number; may be traced. No derivative.
    - `linear_solver`: any lineax solver for A − σB. Default: `lineax.LU()` for dense
        matrices, [`implicit_eig.SparseLU`][] for sparse ones. An iterative one must reach
        a tolerance below that of `inner`, or pairs do not converge.
    - `inner`: the [`implicit_eig.KrylovSchur`][] that runs, with its tolerances.
    - `preconditioner`: of an iterative `linear_solver`: an operator (anything `eigs`
        takes) that approximates (A − σB)⁻¹.

    `stats` counts `num_solves` and `num_factorizations`; `num_matvecs` are products with
    A itself, which residuals take.
    """

    sigma: Num[Array, ""]
    linear_solver: lx.AbstractLinearSolver | None
    inner: KrylovSchur
    preconditioner: lx.AbstractLinearOperator | None

    def __init__(
        self,
        sigma: ArrayLike,
        linear_solver: lx.AbstractLinearSolver | None = None,
        inner: KrylovSchur | None = None,
        preconditioner: lx.AbstractLinearOperator | None = None,
    ):
        self.sigma = as_shift(sigma)
        if not isinstance(linear_solver, lx.AbstractLinearSolver | None):
            raise TypeError(
                f"`linear_solver` must be a lineax solver; got {linear_solver!r}."
            )
        self.linear_solver = linear_solver
        inner = KrylovSchur() if inner is None else inner
        if not isinstance(inner, KrylovSchur):
            raise TypeError(f"`inner` must be a `KrylovSchur`; got {inner!r}.")
        self.inner = inner
        self.preconditioner = preconditioner

    def compute(self, pencil, selection, k, *, v0, left, progress_meter):
        sigma = self.sigma.astype(shift_dtype(pencil, self.sigma))
        solver, preconditioner = self._solver(pencil), None
        if self.preconditioner is not None:
            preconditioner = as_operator(
                self.preconditioner, pencil.operator.in_structure(), name="preconditioner"
            )
        v0 = default_start(pencil.n, sigma.dtype) if v0 is None else v0

        def inverse(sigma: Array) -> Inverse:
            return Inverse.of(ShiftedPencil(pencil, sigma), solver, preconditioner)

        transformation, start, factorizations = _regular(pencil, sigma, inverse, v0)
        block = self.inner.block(
            transformation,
            selection,
            k,
            v0=start,
            left=left,
            progress_meter=progress_meter,
        )
        block.stats["num_solves"] += factorizations
        block.stats["num_factorizations"] *= factorizations
        return block

    def _solver(self, pencil: Pencil) -> lx.AbstractLinearSolver:
        if self.linear_solver is not None:
            return self.linear_solver
        operators = [pencil.operator]
        if pencil.mass is not None:
            operators.append(pencil.mass)
        return default_linear_solver(
            operators, "A − σB", "`eigensolver=ShiftInvert(sigma, linear_solver=...)`"
        )


def _regular(pencil: Pencil, sigma: Array, inverse, v0: Inexact[Array, " n"]):
    """The transformation with a shift at which A − σB is regular, a start vector in the
    range of (A − σB)⁻¹B, and the number of shifts tried."""
    random = default_start(pencil.n, pencil.dtype)
    eps = jnp.finfo(pencil.dtype).eps
    norm = jnp.linalg.norm(pencil.mv(random)) / jnp.linalg.norm(random)
    mass = pencil.mass_mm(random[:, None])
    step = norm / jnp.where(norm > 0, jnp.linalg.norm(mass), 1)
    step = eps ** (2 / 3) * jnp.where(step > 0, step * jnp.linalg.norm(random), 1)

    def attempt(sigma):
        transformation = ShiftInverted(pencil, inverse(sigma), sigma)
        start = transformation.mv(v0.astype(sigma.dtype))
        size = jnp.linalg.norm(start) / jnp.linalg.norm(v0)
        # ‖(A − σB)⁻¹‖ is about √n of this, for a random vector.
        near = size * jnp.sqrt(pencil.n) * norm * 100 * eps > 1
        return eqx.partition(transformation, eqx.is_array), start, near | ~(size > 0)

    def again(state):
        _, _, sigma, singular, tries = state
        return singular & (tries < 4)

    def move(state):
        *_, sigma, _, tries = state
        sigma = sigma + (step * 10.0 ** (tries - 1)).astype(sigma.dtype)
        (dynamic, _), start, singular = attempt(sigma)
        return dynamic, start, sigma, singular, tries + 1

    (dynamic, static), start, singular = attempt(sigma)
    dynamic, start, _, _, tries = jax.lax.while_loop(
        again, move, (dynamic, start, sigma, singular, jnp.asarray(1))
    )
    return eqx.combine(dynamic, static), start, tries
