"""The systems of eigenvector derivatives, by MINRES (Paige and Saunders 1975).

Outside the selected subspace `A y − λ B y = r` says what `C y − θ y = f` does for the
operator C the pairs were found with, which is self-adjoint in the inner product of B. All
columns go side by side, each with its own λ, so repeated eigenvalues cost nothing extra.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Int

from .._operator import times_real
from .._spectral import AbstractTransformation


class Solved(NamedTuple):
    """As of `_implicit.adjoint`."""

    solution: Inexact[Array, "n m"]
    failed: Bool[Array, " m"]
    error: Float[Array, ""]


class MinresSolve(eqx.Module):
    """Solves, looks at the residual, refines up to twice, and reports."""

    transformation: AbstractTransformation
    norm: Float[Array, ""]  # of A
    residuals: Float[Array, " m"]  # of the pairs
    rtol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __call__(
        self,
        vectors: Inexact[Array, "n m"],
        eigenvalues: Float[Array, " m"],
        rhs: Inexact[Array, "n m"],
    ) -> Solved:
        """Y with `A Y − B Y Λ = rhs` up to a part along BV, and `Vᴴ B Y = 0`."""
        pencil = self.transformation.pencil
        image = pencil.mass_mm(vectors)
        matrix = jnp.diag(eigenvalues).astype(vectors.dtype)
        finite = jnp.all(jnp.isfinite(rhs))
        rhs = jnp.where(finite, rhs, 0)

        def restricted(y: Array) -> Array:
            return y - vectors @ (image.conj().T @ y)

        def projected(r: Array) -> Array:
            return r - image @ (vectors.conj().T @ r)

        def step(state: tuple) -> tuple:
            y, rest, _, rounds = state
            theta, right = self.transformation.sylvester(matrix, rest)
            theta = jnp.diagonal(theta).real

            def apply(x: Array) -> Array:
                return restricted(self.transformation.mm(x)) - times_real(x, theta)

            steps = self.max_steps
            y = y + minres(apply, restricted(right), pencil.mass_mm, self.rtol, steps)
            y = restricted(y)
            rest = rhs - projected(pencil.sylvester(y, matrix))
            return y, rest, self._errors(y, rest, rhs), rounds + 1

        def missed(state: tuple) -> Bool[Array, ""]:
            _, _, errors, rounds = state
            return (rounds == 0) | (jnp.any(errors > self.rtol) & (rounds < 3))

        # What the projection leaves for rounding is nothing.
        whole, rhs = jnp.linalg.norm(rhs, axis=0), projected(rhs)
        eps = float(jnp.finfo(whole.dtype).eps)
        rhs = jnp.where(jnp.linalg.norm(rhs, axis=0) > 100 * eps * whole, rhs, 0)
        errors = jnp.full(eigenvalues.shape, jnp.inf, eigenvalues.dtype)
        init = jnp.zeros_like(rhs), rhs, errors, jnp.asarray(0)
        y, _, errors, _ = jax.lax.while_loop(missed, step, init)
        failed = ~(errors <= self.rtol)
        worst = jnp.max(jnp.where(failed, errors, 0))
        worst = jnp.where(jnp.isfinite(worst), worst, 1e30)
        return Solved(jnp.where(finite, y, jnp.nan), failed, worst)

    def _errors(self, y: Array, rest: Array, rhs: Array) -> Float[Array, " m"]:
        """Backward errors, relative to the block's right side; infinite where rounding of
        A, or the residual of the pair, may have made all of Y."""
        size, error, right = (jnp.linalg.norm(x, axis=0) for x in (y, rest, rhs))
        eps = float(jnp.finfo(size.dtype).eps)
        largest = jnp.max(right)
        known = jnp.maximum(eps * self.norm, self.residuals)
        asked = right > eps**0.75 * largest
        lost = asked & (known * size > 0.01 * right)
        whole = self.norm * size + largest
        return jnp.where(lost, jnp.inf, error / jnp.where(whole > 0, whole, 1))


class _State(NamedTuple):
    x: Inexact[Array, "n m"]
    before: Inexact[Array, "n m"]  # the last two Lanczos vectors
    v: Inexact[Array, "n m"]
    first: Inexact[Array, "n m"]  # the last two search directions
    second: Inexact[Array, "n m"]
    beta: Float[Array, " m"]
    cosines: tuple[Float[Array, " m"], Float[Array, " m"]]  # of the last two rotations
    sines: tuple[Float[Array, " m"], Float[Array, " m"]]
    rest: Float[Array, " m"]  # ± the norm of the residual
    going: Bool[Array, " m"]
    steps: Int[Array, ""]


def minres(
    apply: Callable[[Array], Array],
    rhs: Inexact[Array, "n m"],
    metric: Callable[[Array], Array],
    rtol: float,
    max_steps: int,
) -> Inexact[Array, "n m"]:
    """Column by column the least residual in a Krylov space of an operator that is
    self-adjoint in ⟨x, B y⟩, B the `metric`; until it is a tenth of `rtol` of the right
    side."""

    def norm(x: Array) -> Float[Array, " m"]:
        return jnp.sqrt(jnp.sum((x.conj() * metric(x)).real, axis=0))

    def over(x: Array, size: Array) -> Array:
        return times_real(x, 1 / jnp.where(size > 0, size, 1))

    size = norm(rhs)
    enough = 0.1 * rtol * size

    def step(s: _State) -> _State:
        product = apply(s.v) - times_real(s.before, s.beta)
        alpha = jnp.sum((s.v.conj() * metric(product)).real, axis=0)
        product = product - times_real(s.v, alpha)
        beta = norm(product)
        # Two old rotations, and the one that takes beta away.
        (c0, c1), (s0, s1) = s.cosines, s.sines
        third, inner = s0 * s.beta, c0 * s.beta
        second, first = c1 * inner + s1 * alpha, c1 * alpha - s1 * inner
        diagonal = jnp.sqrt(first**2 + beta**2)
        safe = jnp.where(diagonal > 0, diagonal, 1)
        c, sine = first / safe, beta / safe
        direction = s.v - times_real(s.first, third) - times_real(s.second, second)
        direction = over(direction, diagonal)
        x = s.x + times_real(direction, jnp.where(s.going, c * s.rest, 0))
        rest = jnp.where(s.going, -sine * s.rest, s.rest)
        going = s.going & (jnp.abs(rest) > enough) & (diagonal > 0)
        return _State(
            x=x,
            before=s.v,
            v=over(product, beta),
            first=s.second,
            second=direction,
            beta=beta,
            cosines=(c1, c),
            sines=(s1, sine),
            rest=rest,
            going=going,
            steps=s.steps + 1,
        )

    zero, one, nothing = jnp.zeros_like(rhs), jnp.ones_like(size), jnp.zeros_like(size)
    init = _State(
        x=zero,
        before=zero,
        v=over(rhs, size),
        first=zero,
        second=zero,
        beta=nothing,
        cosines=(one, one),
        sines=(nothing, nothing),
        rest=size,
        going=size > 0,
        steps=jnp.asarray(0),
    )
    end = jax.lax.while_loop(
        lambda s: jnp.any(s.going) & (s.steps < max_steps), step, init
    )
    return end.x
