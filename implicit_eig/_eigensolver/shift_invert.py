"""Shift-invert: the eigenvalues nearest to a target, by Krylov spaces of (A − σB)⁻¹B."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact, Num, PyTree

from .._krylov import default_start, norm_estimate, start_vector
from .._operator import as_operator, complex_dtype, Pencil
from .._progress_meter import AbstractProgressMeter
from .._record import quick
from .._solution import RESULTS
from .._spectral import (
    AbstractSelection,
    as_shift,
    default_linear_solver,
    factorises,
    Inverse,
    rescaled_shift,
    shift_dtype,
    ShiftedPencil,
    ShiftInverted,
)
from .base import AbstractEigensolver
from .block import without
from .krylov_schur import KrylovSchur


class ShiftInvert(AbstractEigensolver):
    """Finds the eigenvalues nearest to `sigma`, wherever in the spectrum it lies.

    A Krylov–Schur run on (A − σB)⁻¹B, whose largest eigenvalues they are (Ericsson and
    Ruhe 1980), takes a few dozen products, each one solve with A − σB. The factor is made
    once, and serves the left vectors and all derivatives as well. If `sigma` and the
    operator are real, all arithmetic is real.

    A `sigma` on an eigenvalue makes A − σB singular, and with one close to an eigenvalue,
    that eigenvalue's rounding errors drown the others. The shift is then moved: by √eps
    of the size of A if the pencil is singular to rounding; and by a tenth of the distance
    to the last wanted eigenvalue if the first is nearer than the last by a factor of 1000
    (25 in single precision), or nearer than the first unwanted one by 10⁵ (200). Each
    move takes another factorisation and another run, which starts from what was found;
    the run before it ends as soon as it shows the distances. Distances that decide which
    eigenvalues are nearest are still measured from `sigma`.

    **Arguments:**

    - `sigma`: the target, a real or complex number; may be traced. No derivative.
    - `linear_solver`: any lineax solver for A − σB. Default: `lineax.LU()` for dense
        matrices, [`implicit_eig.SparseLU`][] for sparse ones. An iterative one must reach
        a tolerance below that of `inner`, or pairs do not converge.
    - `inner`: the [`implicit_eig.KrylovSchur`][] that runs, with its tolerances.
    - `preconditioner`: for an iterative `linear_solver`: an operator (anything `eigs`
        takes) that approximates (A − σB)⁻¹.

    `stats` counts `num_solves` and `num_factorizations`; `num_matvecs` counts products
    with A itself, for residuals.

    !!! Example

        ```python
        import numpy as np, implicit_eig as ieig
        i = np.arange(300)
        op = ieig.SparseOperator(i + 1.0, i, i, n=300)
        solver = ieig.ShiftInvert(7.2, linear_solver=ieig.SparseLU())
        ieig.eigs(op, k=2, eigensolver=solver).eigenvalues  # 7, 8
        ```
    """

    sigma: Num[Array, ""]
    linear_solver: lx.AbstractLinearSolver | None
    inner: KrylovSchur
    preconditioner: Any

    def __init__(
        self,
        sigma: ArrayLike,
        linear_solver: lx.AbstractLinearSolver | None = None,
        inner: KrylovSchur | None = None,
        preconditioner: Any = None,
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

    @property
    def target(self):
        return self.sigma

    def check_target(self, sigma):
        raise ValueError(
            f"Give the target once; got `sigma={sigma}` beside `eigensolver={self!r}`."
        )

    @quick
    def suits(self, n, k):
        return self.inner.suits(n, k)

    def advice(self, pencil, selection, k):
        return "Try a larger `krylov_dim` of `inner=KrylovSchur(...)`, or a target."

    @property
    def krylov(self):
        return self.inner

    @property
    def factoriser(self):
        return self

    @property
    def left_is_cheap(self):
        return self.linear_solver is None or factorises(self.linear_solver)

    def rescaled(self, scaling):
        sigma = rescaled_shift(self.sigma, scaling.eigenvalues)
        return eqx.tree_at(lambda s: s.sigma, self, sigma)

    def compute(self, pencil, selection, k, *, v0, left, progress_meter):
        def finish(transformation, selection, k, start, found):
            return self.inner.block(transformation, selection, k, start, found, left=left)

        block, singular = self.near(
            pencil, selection, k, v0, self.inner.find, finish, progress_meter
        )
        return without(block, singular, RESULTS.singular)

    def near(
        self,
        pencil: Pencil,
        selection: AbstractSelection,
        k: int,
        v0: Inexact[Array, " n"] | None,
        find: Callable[..., Any],
        finish: Callable[..., Any],
        progress_meter: AbstractProgressMeter,
    ) -> tuple[Any, Bool[Array, ""]]:
        """Applies `finish` to the run `find` at the target, or beside it if the target is
        too near an eigenvalue. Also returns whether A − σB is singular at every shift
        tried."""
        sigma = self.sigma.astype(shift_dtype(pencil, self.sigma))
        n, dtype = pencil.n, sigma.dtype
        if not selection.keeps_pairs:
            dtype = complex_dtype(dtype)
        norm = norm_estimate(pencil.mv, n, pencil.dtype)
        mass_norm = norm_estimate(lambda x: pencil.mass_mm(x[:, None])[:, 0], n, dtype)

        def attempt(shift: Array, guess: Array, last: Bool[Array, ""]):
            transformation = self.transformation(pencil, shift)
            inverse = transformation.inverse
            size = norm + jnp.abs(shift) * mass_norm
            random = default_start(n, shift.dtype)
            _, singular = inverse.is_singular(random, size)
            # A NaN in the pencil is left for the run to report.
            singular = singular & jnp.isfinite(size)
            start = start_vector(guess, n, dtype)
            if pencil.mass is not None:
                # In the range of C, with no component along infinite eigenvalues.
                start = transformation.mv(start)

            # Not a `cond`: everything its branches hold would be batched too.
            limit = jnp.where(singular, 0, self.inner.limit(n))
            run = transformation, selection, k, start, limit, progress_meter
            found = find(*run, stop=lambda *theta: ~last & _crowd(*theta)[1])
            return transformation, start, found, singular

        def again(state):
            *_, tries, done = state
            return ~done & (tries < _TRIES)

        def move(state):
            _, shift, guess, solves, tries, _ = state
            out = attempt(shift, guess, tries == _TRIES - 1)
            *_, found, singular = out
            distance, crowded = _crowd(found.eigenvalues[:k], found.outside[:k])
            # If it lands next to another eigenvalue, it is moved again, elsewhere.
            times = tries.astype(distance.dtype)
            step = distance / 10 * (-1.3) ** times
            step = jnp.where(singular, _nudge(norm, mass_norm) * 10**times, step)
            shift = sigma + step.astype(sigma.dtype)
            # What it found is a start for the next one.
            guess = jnp.where(singular, guess, jnp.sum(found.basis, axis=1))
            out, done = eqx.filter(out, eqx.is_array), ~(singular | crowded)
            return out, shift, guess, solves + found.num_matvecs, tries + 1, done

        guess = default_start(n, dtype) if v0 is None else v0.astype(dtype)
        zero, no = jnp.asarray(0), jnp.asarray(False)
        zeros, static = _zeros(eqx.filter_eval_shape(attempt, sigma, guess, no))
        init = zeros, sigma, guess, zero, zero, no
        out, _, _, solves, tries, _ = jax.lax.while_loop(again, move, init)
        transformation, start, found, singular = eqx.combine(out, static)
        found = found._replace(num_matvecs=solves)
        block = finish(transformation, selection, k, start, found)
        block.stats["num_solves"] += tries * (1 + int(pencil.mass is not None))
        block.stats["num_factorizations"] *= tries
        return block, singular

    def transformation(self, pencil: Pencil, shift: Num[Array, ""]) -> ShiftInverted:
        """(A − σB)⁻¹B for σ = `shift`: makes the factor."""
        preconditioner = self.preconditioner
        if preconditioner is not None:
            preconditioner = as_operator(
                preconditioner, pencil.operator.in_structure(), name="preconditioner"
            )
        shifted = ShiftedPencil(pencil, shift)
        inverse = Inverse.of(shifted, self._solver(pencil), preconditioner)
        return ShiftInverted(pencil, inverse, shift)

    def _solver(self, pencil: Pencil) -> lx.AbstractLinearSolver:
        if self.linear_solver is not None:
            return self.linear_solver
        operators = [pencil.operator]
        if pencil.mass is not None:
            operators.append(pencil.mass)
        return default_linear_solver(
            operators, "A − σB", "`eigensolver=ShiftInvert(sigma, linear_solver=...)`"
        )


# Shifts that are tried, the target first.
_TRIES = 5


def _zeros(shapes: PyTree) -> tuple[PyTree, PyTree]:
    """Zeros of these shapes; and what is not a shape."""
    shapes, static = eqx.partition(shapes, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    return jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), static


def _nudge(norm: Float[Array, ""], mass_norm: Float[Array, ""]) -> Float[Array, ""]:
    """How far the shift is moved where the pencil is singular to rounding."""
    nudge = jnp.finfo(norm.dtype).eps ** 0.5 * norm
    return jnp.where(norm > 0, nudge / jnp.where(mass_norm > 0, mass_norm, 1), 1)


def _crowd(
    theta: Complex[Array, " k"], outside: Complex[Array, " k"]
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """How far the eigenvalues are from the shift, and whether the first is so near to it
    that the rounding errors of its θ drown the others. They contribute eps ‖A‖ θ₁/θᵢ to
    the residual of pair i, and as much to derivatives, in which the eigenvalues `outside`
    take part."""
    eps = jnp.finfo(theta.dtype).eps
    size = jnp.abs(theta)
    first = jnp.max(size)
    # Infinite eigenvalues have θ = 0, or what rounding makes of it.
    last = jnp.min(jnp.where(size > eps * first, size, first))
    rest = jnp.max(jnp.where(jnp.isnan(outside), 0, jnp.abs(outside)))
    rest = jnp.where(rest > eps * first, rest, last)
    crowded = (first * eps**0.2 > last) | (first * eps ** (1 / 3) > rest)
    last = jnp.minimum(last, rest)
    return 1 / jnp.where(last > 0, last, 1), crowded
