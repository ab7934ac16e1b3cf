"""All pairs' systems at once, as one more eigenvalue problem.

With F the right side, P A Q Y − Y L = F says that

    [ P A Q   −αF ] [  Y  ]   [  Y  ]
    [   0       L ] [ I/α ] = [ I/α ] L ,

so the columns (Y, I/α) span an invariant subspace of the augmented operator for the
eigenvalues of L: the wanted ones of A, with the rest of its spectrum unchanged. The
Krylov–Schur run that found X finds it, at about the same cost. (KrylovKit.jl solves its
adjoint in this manner.)
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from .._eigensolver.krylov_schur import KrylovSchur
from .._krylov import krylov_schur, Search
from .._numerics import inv
from .._spectral import Direct
from .system import AbstractSylvesterSolver


class KrylovSylvester(AbstractSylvesterSolver):
    """Solves for the tangents or cotangents of all selected pairs in one Krylov–Schur
    run on an augmented operator, in real arithmetic for real operators.

    The default for pairs found by `KrylovSchur`. Needs the selected eigenvalues to be
    extreme in the sense in which they were selected. Standard problems only.

    **Arguments:**

    - `rtol`: tolerance of the run; default: that of `ImplicitAdjoint`.
    - `krylov_dim`, `repeated`: as in `KrylovSchur`.
    - `max_restarts`: default 300, and three times as many as the run took that found
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
    # Of the block: restarts it took, and how far it is from the rest of the spectrum.
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
        """α. Y is about F over the distance to the rest of the spectrum: with α of that
        size both parts of (Y, I/α) are alike, and neither is lost in rounding errors. It
        is what residuals are measured by too, where an eigenvalue is next to 0."""
        scale = jnp.max(jnp.abs(matrix))
        if self._gap is not None:
            gap = jnp.maximum(self._gap, jnp.finfo(scale.dtype).eps ** 0.5 * scale)
            scale = jnp.where(jnp.isfinite(gap), gap, scale)
        return jnp.where(scale > 0, scale, 1)

    def solve(
        self, system, rhs, *, selection, k, preconditioner, transformation=None, rtol
    ):
        del preconditioner
        if transformation is None:
            if system.pencil.mass is not None:
                raise ValueError(
                    "`KrylovSylvester` solves standard problems, and those of pairs that "
                    "`KrylovSchur` or `ShiftInvert` found; for others with `mass=` take "
                    "a lineax solver: `ImplicitAdjoint(linear_solver=lx.LU())`."
                )
            transformation = Direct(system.pencil)
        matrix, rhs = transformation.sylvester(system.matrix, rhs)
        # C maps span(BX) into span(X), and so does the transposed one with span(X)ᵀ:
        # what it makes of the complement is cut off on the same side.
        rhs = system.restrict(rhs)
        selection = transformation.selection(selection)
        n, m = rhs.shape
        active, both = system.active, system.active[:, None] & system.active
        size = jnp.max(jnp.linalg.norm(rhs, axis=0))
        size = jnp.where(size > 0, size, 1).astype(rhs.dtype)
        least = self._distance(matrix)
        scale = least.astype(rhs.dtype)
        right = rhs * (scale / size)

        def augmented(z):
            y, c = z
            top = system.restrict(transformation.mv(system.restrict(y)))
            return top - right @ c, matrix @ c

        def admit(z):
            # Neither the projected-out X nor columns not in use: their eigenvalues mean
            # nothing, and may be wanted ones.
            y, c = z
            return system.restrict(y), jnp.where(active, c, 0)

        ones = active.astype(rhs.dtype)
        start = -(right @ ones) / scale, ones
        run = self._run(rtol if self.rtol is None else self.rtol)
        limit = 300 + 3 * self._restarts if run.max_restarts is None else run.max_restarts
        found = krylov_schur(
            augmented,
            start,
            selection,
            Search(
                k,
                run.dimension(n, k),
                # Short of its aim by a little, a run would have to be repeated.
                rtol=0.3 * run.tolerance(rhs.dtype),
                confirm=False,  # the answer is checked
                repeated=run.repeated,
            ),
            least=least,
            max_restarts=limit,
            admit=admit,
        )
        # A real run always has room for the partner of the last one.
        y, c = (x[:, :m] for x in found.basis)
        y = jnp.where(active, y, 0)
        c = jnp.where(both, c, jnp.eye(m, dtype=rhs.dtype))
        # Not a triangular solve, for which the n rows would be gathered.
        y = y @ inv(c)
        return jnp.where(active, y, 0) * (size / scale)
