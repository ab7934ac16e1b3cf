"""Newton's method on the bordered system of one pair, and its verdict."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, Int

from .._check import check_integer, check_real
from .._krylov import default_start, norm_estimate
from .._operator import Pencil
from .._spectral import default_linear_solver, Inverse, ShiftedPencil
from .operator import NonlinearOperator


class NewtonResult(NamedTuple):
    eigenvalue: Complex[Array, ""]
    vector: Complex[Array, " n"]  # of norm one
    error: Float[Array, ""]  # ‖T(λ)v‖ / (‖T(λ)‖ + |λ| ‖T′(λ)‖)
    converged: Bool[Array, ""]
    num_steps: Int[Array, ""]


class Newton(eqx.Module):
    """Newton's method for a pair near a guess: `x = T(λ)⁻¹ T′(λ) v`, then v = x and
    `λ − vᴴv / vᴴx` (Ruhe, SIAM J. Numer. Anal. 10, 1973). Quadratic at simple
    eigenvalues; one factorisation of T(λ) a step.

    **Arguments:**

    - `rtol`: a pair has converged when `‖T(λ)v‖ ≤ rtol (‖T(λ)‖ + |λ| ‖T′(λ)‖) ‖v‖`;
        default `eps^(2/3)`. The steps go on to rounding.
    - `max_steps`: largest number of steps.
    - `linear_solver`: any lineax solver for T(λ). Default: a factorisation, where entries
        are known.
    """

    rtol: float | None = eqx.field(static=True, default=None)
    max_steps: int = eqx.field(static=True, default=30)
    linear_solver: lx.AbstractLinearSolver | None = None

    def __check_init__(self):
        if self.rtol is not None:
            check_real("rtol", self.rtol)
        check_integer("max_steps", self.max_steps, 1)

    def tolerance(self, dtype) -> float:
        eps = float(jnp.finfo(dtype).eps)
        return eps ** (2 / 3) if self.rtol is None else self.rtol

    def judged(
        self, operator: NonlinearOperator, z: Complex[Array, ""], v: Complex[Array, " n"]
    ) -> NewtonResult:
        """A pair found elsewhere, as it is."""
        v = v / jnp.linalg.norm(v).astype(v.dtype)
        error = _error(operator, z, v)
        good = error <= self.tolerance(operator.dtype)
        return NewtonResult(z, v, error, good, jnp.asarray(0))

    def run(
        self,
        operator: NonlinearOperator,
        eigenvalue: Complex[Array, ""],
        vector: Complex[Array, " n"] | None,
    ) -> NewtonResult:
        """From a guess of λ, and of v where there is one."""
        n, dtype = operator.n, operator.dtype
        eps = float(jnp.finfo(dtype).eps)

        def unit(v: Array) -> Array:
            return v / jnp.linalg.norm(v).astype(v.dtype)

        def solved(z: Array, v: Array) -> Array:
            """T(z)⁻¹ T′(z) v; of a singular T(z), that of one beside it."""
            right = Pencil(operator.derivative(z), None).mv(v)
            x = inverse_at(operator, z, self.linear_solver).mv(right)

            def beside(_: Array) -> Array:
                moved = z + 10 * eps * (jnp.abs(z) + eps).astype(z.dtype)
                return inverse_at(operator, moved, self.linear_solver).mv(right)

            return jax.lax.cond(jnp.all(jnp.isfinite(x)), lambda x: x, beside, x)

        z = eigenvalue.astype(dtype)
        if vector is None:
            # Inverse iteration with T fixed.
            v = unit(default_start(n, dtype))
            v = jax.lax.fori_loop(0, 2, lambda _, v: unit(solved(z, v)), v)
        else:
            v = unit(vector.astype(dtype))

        def step(state: tuple) -> tuple:
            z, v, best, steps, _ = state
            x = solved(z, v)
            ratio = jnp.sum(v.conj() * x)
            moved = z - 1 / jnp.where(ratio == 0, 1, ratio)
            turned = unit(x)
            error = _error(operator, moved, turned)
            better = error < best[2]
            best = tuple(
                jnp.where(better, new, old)
                for new, old in zip((moved, turned, error), best, strict=True)
            )
            # Once near, an error that does not fall any more is rounding.
            near = best[2] <= eps ** (2 / 3)
            going = jnp.isfinite(error) & (error > eps / 4) & (better | ~near)
            return moved, turned, best, steps + 1, going

        def unfinished(state: tuple) -> Bool[Array, ""]:
            *_, steps, going = state
            return going & (steps < self.max_steps)

        first = z, v, _error(operator, z, v)
        init = z, v, first, jnp.asarray(0), jnp.isfinite(first[2])
        _, _, (z, v, error), steps, _ = jax.lax.while_loop(unfinished, step, init)
        return NewtonResult(z, v, error, error <= self.tolerance(dtype), steps)


def norm_at(operator: NonlinearOperator, z: Complex[Array, ""]) -> Float[Array, ""]:
    """‖T(z)‖ + |z| ‖T′(z)‖, about: T alone may be next to nothing at an eigenvalue."""
    pencil = operator.pencil(z)
    return _norm(pencil) + jnp.abs(z) * _norm(Pencil(pencil.mass, None))


def _error(
    operator: NonlinearOperator, z: Complex[Array, ""], v: Complex[Array, " n"]
) -> Float[Array, ""]:
    pencil, size = Pencil(operator.at(z), None), norm_at(operator, z)
    return jnp.linalg.norm(pencil.mv(v)) / jnp.where(size > 0, size, 1)


def inverse_at(
    operator: NonlinearOperator,
    z: Complex[Array, ""],
    solver: lx.AbstractLinearSolver | None,
) -> Inverse:
    """T(z)⁻¹ on flat vectors."""
    found = operator.at(z)
    if solver is None:
        solver = default_linear_solver([found], "T(λ)", "`linear_solver=`")
    shifted = ShiftedPencil(Pencil(found, None), jnp.zeros((), z.dtype))
    return Inverse.of(shifted, solver)


def _norm(pencil: Pencil) -> Float[Array, ""]:
    if isinstance(pencil.operator, lx.MatrixLinearOperator):
        return jnp.linalg.norm(pencil.operator.matrix)
    return norm_estimate(pencil.mv, pencil.n, pencil.dtype)
