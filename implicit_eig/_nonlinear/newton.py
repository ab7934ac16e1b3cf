"""Newton's method on the bordered system of one pair, and its verdict."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, Int

from .._check import check_integer, check_real
from .._krylov import default_start, norm_estimate
from .._operator import entries, Pencil
from .._spectral import default_linear_solver, Inverse, ShiftedPencil
from .operator import NonlinearOperator


class NewtonResult(NamedTuple):
    eigenvalue: Complex[Array, ""]
    vector: Complex[Array, " n"]  # of norm one
    error: Float[Array, ""]  # ‖T(λ)v‖ / (‖T(λ)‖ + |λ| ‖T′(λ)‖)
    converged: Bool[Array, ""]
    num_steps: Int[Array, ""]
    merged: Bool[Array, ""]  # rounding cannot tell it from a defective one


class Newton(eqx.Module):
    """Newton's method for a pair near a guess: `x = T(λ)⁻¹ T′(λ) v`, then v = x and
    `λ − vᴴv / vᴴx` (Ruhe, SIAM J. Numer. Anal. 10, 1973). Converges quadratically at
    simple eigenvalues. Each step takes one factorisation of T(λ) and two solves: the
    second one, with T(λ)ᵀ, gives the condition of the eigenvalue, and so tells whether it
    has a derivative. Without a transpose, or if T(λ) is tagged symmetric, one solve.

    **Arguments:**

    - `rtol`: a pair has converged when `‖T(λ)v‖ ≤ rtol (‖T(λ)‖ + |λ| ‖T′(λ)‖) ‖v‖`;
        default `eps^(2/3)`. The steps continue down to rounding.
    - `max_steps`: largest number of steps.
    - `linear_solver`: any lineax solver for T(λ). Default: a factorisation, if entries
        are known.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        T = lambda z: (z + 1 + 2 * jnp.exp(-z)).reshape(1, 1)
        newton = ieig.Newton(max_steps=50)
        s = ieig.nonlinear_eigs(T, guess=0.3 + 1.8j, eigensolver=newton)
        ```
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
        """The verdict on a pair found elsewhere, left as it is."""
        v = _unit(v)
        error = _error(operator, z, v)
        good = error <= self.tolerance(operator.dtype)
        return NewtonResult(z, v, error, good, jnp.asarray(0), jnp.asarray(False))

    def examined(
        self, operator: NonlinearOperator, z: Complex[Array, ""], v: Complex[Array, " n"]
    ) -> NewtonResult:
        """The same, and whether it is defective to rounding, if T can be factorised."""
        out = self.judged(operator, z, v)
        found = operator.at(z)
        dense = isinstance(found, lx.MatrixLinearOperator)
        if operator.fault is not None or not (dense or entries(found) is not None):
            return out
        v, u = out.vector, _unit(default_start(operator.n, operator.dtype))
        if operator.symmetric:
            u = v
        else:
            u = _unit(self._inverted(operator, z, u, u)[1])
        merged = _merges(
            operator, z, v, u, lambda z, r: self._inverted(operator, z, r, None)[0]
        )
        return out._replace(merged=out.converged & merged)

    def _inverted(
        self,
        operator: NonlinearOperator,
        z: Complex[Array, ""],
        right: Complex[Array, " n"],
        left: Complex[Array, " n"] | None,
    ) -> tuple[Complex[Array, " n"], Complex[Array, " n"]]:
        """T(z)⁻¹ `right`, and T(z)⁻ᵀ `left` if there is one; if T(z) is singular, with a
        T at a nearby point."""
        eps = float(jnp.finfo(operator.dtype).eps)

        def turn(state: tuple) -> tuple:
            z, _, tries = state
            inverse = inverse_at(operator, z, self.linear_solver)
            found = (inverse.mv(right),)
            if left is not None:
                found = *found, inverse.transpose().mv(left)
            beside = z + 10 * eps * (jnp.abs(z) + eps).astype(z.dtype)
            return beside, found, tries + 1

        def failed(state: tuple) -> Bool[Array, ""]:
            _, (x, *_), tries = state
            return (tries < 2) & ~jnp.all(jnp.isfinite(x))

        nothing = jnp.full_like(right, jnp.nan)
        init = z, (nothing,) * (1 if left is None else 2), jnp.asarray(0)
        found = jax.lax.while_loop(failed, turn, init)[1]
        return found[0], found[-1]

    def run(
        self,
        operator: NonlinearOperator,
        eigenvalue: Complex[Array, ""],
        vector: Complex[Array, " n"] | None,
    ) -> NewtonResult:
        """Runs from a guess of λ, and of v if there is one."""
        n, dtype = operator.n, operator.dtype
        eps = float(jnp.finfo(dtype).eps)
        back = operator.transpose()
        # Left vectors of a symmetric T are known; where there is no transpose, there are
        # no derivatives either.
        one_sided = operator.symmetric or operator.fault is not None

        def solved(z: Array, v: Array, u: Array) -> tuple[Array, Array]:
            """T(z)⁻¹ T′(z) v and T(z)⁻ᵀ T′(z)ᵀ u."""
            right = Pencil(operator.derivative(z), None).mv(v)
            left = None if one_sided else Pencil(back.derivative(z), None).mv(u)
            return self._inverted(operator, z, right, left)

        z, u = eigenvalue.astype(dtype), _unit(default_start(n, dtype))
        if vector is None:
            # Inverse iteration with T fixed.
            v = jax.lax.fori_loop(0, 2, lambda _, v: _unit(solved(z, v, u)[0]), u)
        else:
            v = _unit(vector.astype(dtype))
        u = v if one_sided else u

        def step(state: tuple) -> tuple:
            z, v, u, best, steps, _ = state
            x, y = solved(z, v, u)
            ratio = jnp.sum(v.conj() * x)
            moved = z - 1 / jnp.where(ratio == 0, 1, ratio)
            turned, u = _unit(x), _unit(y)
            error = _error(operator, moved, turned)
            better = error < best[-1]
            best = tuple(
                jnp.where(better, new, old)
                for new, old in zip((moved, turned, error), best, strict=True)
            )
            # Near convergence, an error that no longer falls is rounding.
            near = best[-1] <= eps ** (2 / 3)
            going = jnp.isfinite(error) & (error > eps / 4) & (better | ~near)
            return moved, turned, u, best, steps + 1, going

        def unfinished(state: tuple) -> Bool[Array, ""]:
            *_, steps, going = state
            return going & (steps < self.max_steps)

        first = z, v, _error(operator, z, v)
        init = z, v, u, first, jnp.asarray(0), jnp.isfinite(first[-1])
        # The last u belongs to the best z: a step that is no better is the last one.
        *_, u, (z, v, error), steps, _ = jax.lax.while_loop(unfinished, step, init)
        u = v if one_sided else u
        good = error <= self.tolerance(dtype)
        merged = jnp.asarray(False)
        if operator.fault is None:
            merged = _merges(
                operator, z, v, u, lambda z, r: self._inverted(operator, z, r, None)[0]
            )
        return NewtonResult(z, v, error, good, steps, good & merged)


def _unit(v: Complex[Array, " n"]) -> Complex[Array, " n"]:
    return v / jnp.linalg.norm(v).astype(v.dtype)


def _merges(
    operator: NonlinearOperator,
    z: Complex[Array, ""],
    v: Complex[Array, " n"],
    u: Complex[Array, " n"],
    solved: Callable[[Array, Array], Array],
) -> Bool[Array, ""]:
    """Whether a change of T by its own rounding may merge the eigenvalue with another one
    that shares its vector: whether one is within h = κ‖E‖. For a lone eigenvalue,
    `vᴴ T(z + h)⁻¹ r`, r random, behaves as 1/h; if others are within h, as 1/h² or
    faster. Tested only if κ is large, as it is near a defective eigenvalue.

    If T is symmetric, no linear system of a derivative tells of a second vector: then
    what is orthogonal to v is looked at too, which grows as 1/h if there is one.
    """
    eps = float(jnp.finfo(operator.dtype).eps)
    slope = Pencil(operator.derivative(z), None)
    norm = _norm(slope)
    norm = jnp.where(norm > 0, norm, 1)
    kappa = norm / jnp.abs(jnp.sum(u * slope.mv(v)))
    h = jnp.maximum(10 * eps * kappa, eps**0.75) * norms_at(operator, z)[1]
    h = h.astype(z.dtype)
    random = default_start(operator.n, operator.dtype)

    def looked(_: Array) -> Bool[Array, ""]:
        def parts(h: Array) -> tuple[Array, Array]:
            x = solved(z + h, random)
            inside = jnp.sum(v.conj() * x)
            return jnp.abs(inside), jnp.linalg.norm(x - inside * v)

        (near, far), (rest, rest_far) = jax.lax.map(
            parts, h * jnp.asarray([1, 2], h.dtype)
        )
        merged = ~(near <= 3 * far)
        return merged | ~(rest <= 1.5 * rest_far) if operator.symmetric else merged

    if operator.symmetric:
        return looked(h)
    large = ~(1000 * eps * kappa**2 < 1)
    return jax.lax.cond(large, looked, lambda _: jnp.asarray(False), h)


def norms_at(
    operator: NonlinearOperator, z: Complex[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """About ‖T(z)‖ + |z| ‖T′(z)‖, for T alone may almost vanish at an eigenvalue; and the
    same over ‖T′(z)‖, a scale of eigenvalues."""
    pencil = operator.pencil(z)
    slope = _norm(Pencil(pencil.mass, None))  # pyright: ignore[reportArgumentType]
    norm = _norm(pencil) + jnp.abs(z) * slope
    return norm, norm / jnp.where(slope > 0, slope, 1)


def _error(
    operator: NonlinearOperator, z: Complex[Array, ""], v: Complex[Array, " n"]
) -> Float[Array, ""]:
    pencil, size = Pencil(operator.at(z), None), norms_at(operator, z)[0]
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
