"""Shift-invert: the eigenvalues nearest to a target, by Krylov spaces of (A − σB)⁻¹B."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Num

from .._operator import as_operator, Pencil
from .._solution import RESULTS
from .._transformation import (
    default_linear_solver,
    Inverse,
    shift_dtype,
    ShiftedPencil,
    ShiftInverted,
)
from .._which import as_shift
from .base import AbstractEigensolver, without
from .krylov_schur import default_start, KrylovSchur


class ShiftInvert(AbstractEigensolver):
    """The eigenvalues nearest to `sigma`, wherever in the spectrum it lies.

    A Krylov–Schur run on (A − σB)⁻¹B, in which they are the largest (Ericsson and Ruhe
    1980), in a few dozen products; each takes one solve with A − σB. The factor is made
    once, and serves the left vectors and all derivatives as well. For `sigma` and an
    operator that are real all arithmetic is real.

    A `sigma` that is an eigenvalue to rounding makes A − σB singular; it is then moved by
    √eps of the size of A, and the pencil factorised again.

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

        def inverse(sigma: Array) -> Inverse:
            return Inverse.of(ShiftedPencil(pencil, sigma), solver, preconditioner)

        transformation, singular, tries = _regular(pencil, sigma, inverse)
        start = default_start(pencil.n, sigma.dtype) if v0 is None else v0
        block = self.inner.block(
            transformation,
            selection,
            k,
            # In the range of (A − σB)⁻¹B: without a part along infinite eigenvalues.
            v0=start if pencil.mass is None else transformation.mv(start),
            left=left,
            progress_meter=progress_meter,
        )
        block.stats["num_solves"] += tries + int(pencil.mass is not None)
        block.stats["num_factorizations"] *= tries
        return without(block, singular, RESULTS.singular)

    def _solver(self, pencil: Pencil) -> lx.AbstractLinearSolver:
        if self.linear_solver is not None:
            return self.linear_solver
        operators = [pencil.operator]
        if pencil.mass is not None:
            operators.append(pencil.mass)
        return default_linear_solver(
            operators, "A − σB", "`eigensolver=ShiftInvert(sigma, linear_solver=...)`"
        )


def _regular(pencil: Pencil, sigma: Array, inverse: Callable[[Array], Inverse]):
    """The transformation with a shift at which A − σB is regular, whether there was none,
    and the number of shifts tried."""
    random = default_start(pencil.n, pencil.dtype)
    norms = [
        jnp.linalg.norm(x) / jnp.linalg.norm(random)
        for x in (pencil.mv(random), pencil.mass_mm(random[:, None]))
    ]
    step = jnp.finfo(pencil.dtype).eps ** 0.5 * norms[0]
    step = jnp.where(norms[0] > 0, step / jnp.where(norms[1] > 0, norms[1], 1), 1)

    def attempt(sigma):
        transformation = ShiftInverted(pencil, inverse(sigma), sigma)
        start = random.astype(sigma.dtype)
        size = norms[0] + jnp.abs(sigma) * norms[1]
        _, singular = transformation.inverse.is_singular(start, size)
        # NaN in the pencil is for the run to find.
        return eqx.partition(transformation, eqx.is_array), singular & jnp.isfinite(size)

    def again(state):
        _, _, singular, tries = state
        return singular & (tries < 4)

    def move(state):
        _, sigma, _, tries = state
        sigma = sigma + (step * 10.0 ** (tries - 1)).astype(sigma.dtype)
        (dynamic, _), singular = attempt(sigma)
        return dynamic, sigma, singular, tries + 1

    (dynamic, static), singular = attempt(sigma)
    dynamic, _, singular, tries = jax.lax.while_loop(
        again, move, (dynamic, sigma, singular, jnp.asarray(1))
    )
    return eqx.combine(dynamic, static), singular, tries
