"""GMRES on the shifted systems of all pairs, in one search space.

The systems `P (A − t_jj B) Q y_j = b_j` of `columnwise.py` differ only in the shift and
the right side. So all are solved in one space: directions `z_i = M s_i`, with separate
images under A and under B, which give the image under any shift without a product. Each
pair minimises its residual over all directions, including those made for other pairs, and
adds its own only while it misses its tolerance. The next direction is M applied to the
part of that residual not used for a direction yet; with one right side, this is the
Arnoldi vector of GMRES (Saad and Schultz 1986, 1993).

Everything is kept in coordinates of one orthonormal basis V:

    right sides Φ,   directions S,   P A Q M V S = V H_A,   P B Q M V S = V H_B ,

so a step costs one product with A and M, and the least-squares problems are small. For a
real operator V, S, H_A and H_B are real and only the coefficients are complex: the space
of a complex pair serves its conjugate too, and no complex product is ever formed.

Computed pairs are deflated by the projectors. What slows GMRES down next are the
directions on which the shifted operator is smallest: they and their images are kept when
the space is full and a new cycle starts (Parks, de Sturler, Mackey, Johnson and Maiti
2006).
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._check import check_integer, check_real
from .columnwise import complex_schur
from .search_space import Search
from .system import AbstractSylvesterSolver


class DeflatedGMRES(AbstractSylvesterSolver):
    """Solves for the tangents or cotangents of all selected pairs by preconditioned
    GMRES in one search space, in real arithmetic for real operators.

    For selected pairs anywhere in the spectrum, given a preconditioner: pass
    `ImplicitAdjoint(linear_solver=DeflatedGMRES(), preconditioner=m)` with an operator m
    that approximates `(A − σB)⁻¹` for some σ among the selected eigenvalues (an
    incomplete factorisation, a multigrid cycle; any kind of operator `eigs` takes). It is
    applied from the right, between the projectors, and transposed for the transposed
    systems. Without one, `KrylovSylvester` needs fewer products if pairs are extreme.

    **Arguments:**

    - `rtol`: target backward error; default: that of `ImplicitAdjoint`.
    - `restart`: number of directions, hence of products with A, in one cycle.
    - `recycle`: number of directions kept from one cycle to the next; default half of
        `restart`.
    - `max_restarts`: largest number of cycles.

    **Cost:** j products with A and as many with the preconditioner for j directions,
    counting those of all pairs, and no cycle for confirmation: the search ends inside a
    cycle as soon as the residuals, known from small matrices, are small enough. The
    caller's check takes one more block product. Memory: `restart + recycle + m` vectors,
    or `2 restart + recycle + m` with a preconditioner or a mass matrix.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        def growth(rates):
            mv = lambda v: rates * v + 0.1 * jnp.roll(v, 1)
            inverse = lambda v: v / (rates - 1.01)  # near (A − λ)⁻¹
            adjoint = ieig.ImplicitAdjoint(ieig.DeflatedGMRES(), preconditioner=inverse)
            s = ieig.eigs(mv, k=2, which="LR", like=rates, adjoint=adjoint)
            return s.eigenvalues[0].real

        jax.grad(growth)(jnp.linspace(0.0, 1.0, 100))
        ```
    """

    rtol: float | None = eqx.field(static=True, default=None)
    restart: int = eqx.field(static=True, default=60)
    recycle: int | None = eqx.field(static=True, default=None)
    max_restarts: int = eqx.field(static=True, default=100)

    def __check_init__(self):
        if self.rtol is not None:
            check_real("rtol", self.rtol)
        check_integer("restart", self.restart, 1)
        check_integer("max_restarts", self.max_restarts, 1)
        if self.recycle is not None:
            check_integer("recycle", self.recycle, 0)
            if self.recycle >= self.restart:
                raise ValueError(
                    f"`recycle` must be below `restart={self.restart}`; got "
                    f"{self.recycle}."
                )

    def init(self, system, options):
        return system, options, *complex_schur(system.matrix)

    def compute(self, state, rhs):
        system, options, t, u = state
        preconditioner, rtol = options["preconditioner"], options["rtol"]
        n, m = rhs.shape
        restart = min(self.restart, n)
        kept = restart // 2 if self.recycle is None else min(self.recycle, restart - 1)
        # Without preconditioner and mass matrix, directions lie in the residuals' space.
        krylov = preconditioner is None and system.pencil.mass is None
        rows = m + kept + (restart if krylov else 2 * restart)
        run = Search(
            system,
            preconditioner,
            t,
            u,
            0.5 * (rtol if self.rtol is None else self.rtol) / m**0.5,
            jnp.linalg.norm(rhs),
            restart,
            kept,
            krylov,
        )

        def going(state):
            *_, going, cycles = state
            return going & (cycles < self.max_restarts)

        def cycle(state):
            space, y, _, cycles = state
            found, coefficients, residual, short = run.search(space)
            y = y + run.combine(found, coefficients)
            # After a cycle that made no direction, the next one would make none either.
            going = jnp.any(short) & (found.count > space.count)
            space = jax.lax.cond(
                going, lambda: run.renew(found, residual, short), lambda: found
            )
            return space, y, going, cycles + 1

        space = run.start(rhs, rows)
        init = (space, jnp.zeros_like(rhs), space.used > 0, jnp.asarray(0))
        return jax.lax.while_loop(going, cycle, init)[1]
