"""Solves the systems of all pairs at once, as one more eigenvalue problem.

With F the right side, P A Q Y − Y L = F says that

    [ P A Q   −αF ] [  Y  ]   [  Y  ]
    [   0       L ] [ I/α ] = [ I/α ] L ,

so the columns (Y, I/α) span an invariant subspace of the augmented operator for the
eigenvalues of L, which are the wanted ones of A; the rest of the spectrum is unchanged.
A Krylov–Schur run like the one for X finds it at about the same cost. (KrylovKit.jl
solves its adjoint in this way.)
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Inexact, Int

from .._eigensolver.krylov_schur import KrylovSchur
from .._krylov import krylov_schur, Search
from .._numerics import inv
from .._spectral import AbstractSelection, AbstractTransformation, Direct
from .columnwise import Columnwise
from .system import AbstractSylvesterSolver, ProjectedSylvester


class KrylovSylvester(AbstractSylvesterSolver):
    """Solves for the tangents or cotangents of all selected pairs in one Krylov–Schur
    run on an augmented operator, in real arithmetic for real operators.

    The default for pairs found by `KrylovSchur`. The selected eigenvalues must be extreme
    in the sense of their selection. Standard problems only. An operator of an order below
    k + 4 leaves no room for a Krylov space: `lineax.LU()` solves there.

    **Arguments:**

    - `rtol`: tolerance of the run; default: that of `ImplicitAdjoint`.
    - `krylov_dim`, `repeated`: as in `KrylovSchur`.
    - `max_restarts`: default 300, plus three times the restarts of the run that found
        the pairs.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        def share(rates):
            mv = lambda v: rates * v + 0.1 * jnp.roll(v, 1)
            adjoint = ieig.ImplicitAdjoint(ieig.KrylovSylvester(krylov_dim=40))
            s = ieig.eigs(mv, 2, "LR", like=rates, adjoint=adjoint)
            return jnp.abs(s.eigenvectors[0, 0]) ** 2

        jax.grad(share)(jnp.linspace(0.0, 1.0, 100))
        ```
    """

    rtol: float | None = eqx.field(static=True, default=None)
    krylov_dim: int | None = eqx.field(static=True, default=None)
    max_restarts: int | None = eqx.field(static=True, default=None)
    repeated: bool = eqx.field(static=True, default=False)
    # The restarts that the block took, and its distance from the rest of the spectrum.
    _restarts: Int[Array, ""] | int = 0
    _gap: Float[Array, ""] | None = None

    def __check_init__(self):
        self._run(self.rtol)

    def for_block(self, block):
        gap = None
        if block.outside is not None:
            values, outside = block.eigenvalues, block.outside
            if block.transformation is not None:
                values, outside = map(block.transformation.theta, (values, outside))
            gap = jnp.abs(values - outside)
            gap = jnp.min(jnp.where(block.active & (gap > 0), gap, jnp.inf))
        restarts = block.stats["num_restarts"]
        return dataclasses.replace(self, _restarts=restarts, _gap=gap)

    def _run(self, rtol: float | None) -> KrylovSchur:
        return KrylovSchur(rtol, self.krylov_dim, self.max_restarts, self.repeated)

    def _distance(self, matrix: Inexact[Array, "m m"]) -> Float[Array, ""]:
        """α. Y is about F divided by the distance to the rest of the spectrum: with α of
        that size, both parts of (Y, I/α) are alike and neither is lost in rounding. If an
        eigenvalue is close to 0, residuals are measured relative to α as well."""
        scale = jnp.max(jnp.abs(matrix))
        if self._gap is not None:
            gap = jnp.maximum(self._gap, jnp.finfo(scale.dtype).eps ** 0.5 * scale)
            scale = jnp.where(jnp.isfinite(gap), gap, scale)
        return jnp.where(scale > 0, scale, 1)

    def solve(self, system, rhs, *, selection, k, rtol, transformation=None, **options):
        if transformation is None:
            if system.pencil.mass is not None:
                raise ValueError(
                    "`KrylovSylvester` solves standard problems, and those of pairs that "
                    "`KrylovSchur` or `ShiftInvert` found; for others with `mass=` take "
                    "a lineax solver: `ImplicitAdjoint(linear_solver=lx.LU())`."
                )
            transformation = Direct(system.pencil)
        run = self._run(rtol if self.rtol is None else self.rtol)
        search = Search(
            k,
            run.dimension(system.pencil.n, k),
            # A run that falls just short of its aim would have to be repeated.
            rtol=0.3 * run.tolerance(rhs.dtype),
            confirm=False,  # the answer is checked
            repeated=run.repeated,
        )
        if search.krylov_dim < k + 3:
            return Columnwise(lx.LU()).solve(system, rhs, rtol=rtol, **options)
        return self._by_run(system, rhs, transformation, selection, search)

    def _by_run(
        self,
        system: ProjectedSylvester,
        rhs: Inexact[Array, "n m"],
        transformation: AbstractTransformation,
        selection: AbstractSelection,
        search: Search,
    ) -> Inexact[Array, "n m"]:
        """By the run that the head of this file describes."""
        matrix, rhs = transformation.sylvester(system.matrix, rhs)
        # C maps span(BX) into span(X), and its transpose does likewise with span(X)ᵀ: its
        # image of the complement is projected on the same side.
        rhs = system.restrict(rhs)
        m = rhs.shape[1]
        active, both = system.active, system.active[:, None] & system.active
        size = jnp.max(jnp.linalg.norm(rhs, axis=0))
        size = jnp.where(size > 0, size, 1).astype(rhs.dtype)
        least = self._distance(matrix)
        scale = least.astype(rhs.dtype)
        right = rhs.T * (scale / size)  # row by row, for products with a vector

        def augmented(z):
            y, c = z  # y is restricted
            top = system.restrict(transformation.mv(y))
            return top - c @ right, matrix @ c

        def admit(z):
            # Excludes the projected-out X and unused columns: their eigenvalues mean
            # nothing, but may rank as wanted.
            y, c = z
            return system.restrict(y), jnp.where(active, c, 0)

        ones = active.astype(rhs.dtype)
        start = -(ones @ right) / scale, ones
        limit = self.max_restarts
        if limit is None:
            limit = 300 + 3 * self._restarts
        found = krylov_schur(
            augmented,
            start,
            transformation.selection(selection),
            search,
            least=least,
            max_restarts=limit,
            admit=admit,
        )
        # A real run always has one more column, for the partner of the last pair.
        y, c = (x[:, :m] for x in found.basis)
        y = jnp.where(active, y, 0)
        c = jnp.where(both, c, jnp.eye(m, dtype=rhs.dtype))
        # Not a triangular solve, which would gather the n rows.
        y = y @ inv(c)
        return jnp.where(active, y, 0) * (size / scale)
