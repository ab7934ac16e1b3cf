"""The linear system behind every derivative, as its solvers see it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, PyTree

from .._eigensolver import InvariantBlock
from .._operator import Pencil


class ProjectedSylvester(eqx.Module):
    """Y ↦ P (A Q Y − B Q Y L) + τ E Cᴴ Y,  Q = I − C Cᴴ,  P = I − E Eᴴ.

    A square nonsingular map of n×m blocks; for a right side in the range of P, the
    solution lies in the range of Q. The class is closed under transposition, so a
    solver for it solves for tangents and cotangents. Unused columns of C and E are
    zero.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        class Shown(ieig.AbstractSylvesterSolver):
            def solve(self, system, rhs, **options):
                print(type(system).__name__, rhs.shape)  # while it is traced
                return ieig.DeflatedGMRES().solve(system, rhs, **options)

        def share(a):
            adjoint = ieig.ImplicitAdjoint(Shown())
            return jnp.abs(ieig.eigs(a, k=1, adjoint=adjoint).eigenvectors[0, 0])

        jax.eval_shape(jax.grad(share), jnp.array([[2.0, 1.0], [0.5, 3.0]]))
        ```
    """

    pencil: Pencil
    # The bases, row by row: XLA would transpose them for every product with a vector.
    _domain_rows: Inexact[Array, "m n"]
    _range_rows: Inexact[Array, "m n"]
    matrix: Inexact[Array, "m m"]  # L
    scale: Float[Array, ""]  # τ

    def __init__(
        self,
        pencil: Pencil,
        domain_basis: Inexact[Array, "n m"],
        range_basis: Inexact[Array, "n m"],
        matrix: Inexact[Array, "m m"],
        scale: Float[Array, ""],
    ):
        self.pencil, self.matrix, self.scale = pencil, matrix, scale
        self._domain_rows, self._range_rows = domain_basis.T, range_basis.T

    @property
    def domain_basis(self) -> Inexact[Array, "n m"]:  # C
        return self._domain_rows.T

    @property
    def range_basis(self) -> Inexact[Array, "n m"]:  # E
        return self._range_rows.T

    @property
    def active(self) -> Bool[Array, " m"]:
        """Which columns are in use."""
        return jnp.any(self.domain_basis != 0, axis=0)

    def restrict(self, y: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Q y."""
        return y - times(self.domain_basis, dot(self.domain_basis, y))

    def project(self, y: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """P y."""
        return y - times(self.range_basis, dot(self.range_basis, y))

    def border(self, y: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """τ E Cᴴ y."""
        inside = dot(self.domain_basis, y)
        return self.scale.astype(y.dtype) * times(self.range_basis, inside)

    def mm(self, y: Inexact[Array, "n m"]) -> Inexact[Array, "n m"]:
        q = self.restrict(y)
        outside = self.pencil.sylvester(q, self.matrix)
        return self.project(outside) + self.border(y)

    def transpose(self) -> "ProjectedSylvester":
        return ProjectedSylvester(
            self.pencil.transpose(),
            self.range_basis.conj(),
            self.domain_basis.conj(),
            self.matrix.T,
            self.scale,
        )


def dot(basis: Array, y: Array) -> Array:
    """Cᴴ y, without a complex copy of a real basis."""
    if jnp.iscomplexobj(y) and not jnp.iscomplexobj(basis):
        return jax.lax.complex(basis.T @ y.real, basis.T @ y.imag)
    # Avoids a conjugate copy of the basis.
    return (basis.T @ y.conj()).conj()


def times(basis: Array, h: Array) -> Array:
    if jnp.iscomplexobj(h) and not jnp.iscomplexobj(basis):
        return jax.lax.complex(basis @ h.real, basis @ h.imag)
    return basis @ h


def error_of(block: InvariantBlock) -> Float[Array, ""]:
    """The size of a change of A that the pairs of a block cannot be told from."""
    worst = jnp.max(jnp.where(block.active, block.residuals, 0))
    return jnp.maximum(float(jnp.finfo(worst.dtype).eps) * block.norm, worst)


class AbstractSylvesterSolver(eqx.Module):
    """Solves `ProjectedSylvester` systems, all columns in one call.

    Works in two steps, as a lineax solver does: `init` prepares a state from the system,
    once; `compute` uses it to solve for a right side, once more in each round of
    refinement. A subclass implements both, or `solve` alone, which does both.

    The caller checks the backward error of the result and refines it, so a solver may
    return whatever it has reached.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        class Kronecker(ieig.AbstractSylvesterSolver):
            def solve(self, system, rhs, **options):
                flat = lambda y: system.mm(y.reshape(rhs.shape)).ravel()
                m = jax.vmap(flat)(jnp.eye(rhs.size, dtype=rhs.dtype)).T
                return jnp.linalg.solve(m, rhs.ravel()).reshape(rhs.shape)

        def share(a):
            adjoint = ieig.ImplicitAdjoint(Kronecker())
            return jnp.abs(ieig.eigs(a, k=1, adjoint=adjoint).eigenvectors[0, 0])

        jax.grad(share)(jnp.array([[2.0, 1.0], [0.5, 3.0]]))
        ```
    """

    def init(self, system: ProjectedSylvester, options: dict[str, Any]) -> PyTree:
        """Prepares the system before there is a right side.

        The options are `selection` and `k`, by which the pairs were found, and
        `transformation`, that of the Krylov run that found them, or `None`, so that a
        solver can find the same part of the spectrum again; `preconditioner`, which
        approximates `(A − λB)⁻¹`, or `None`; and `rtol`, the target backward error.
        """
        return system, options

    def compute(self, state: PyTree, rhs: Inexact[Array, "n m"]) -> Inexact[Array, "n m"]:
        """Solves `system.mm(y) = rhs`."""
        system, options = state
        return self.solve(system, rhs, **options)

    def solve(
        self, system: ProjectedSylvester, rhs: Inexact[Array, "n m"], **options: Any
    ) -> Inexact[Array, "n m"]:
        """`init` and `compute` in one."""
        if type(self).compute is AbstractSylvesterSolver.compute:
            raise NotImplementedError(
                f"{type(self).__name__} has neither `compute` nor `solve`."
            )
        return self.compute(self.init(system, options), rhs)

    def for_block(self, block: InvariantBlock) -> "AbstractSylvesterSolver":
        """The same, with what the eigensolver leaves behind once the pairs are known."""
        del block
        return self

    def whatever(self) -> "AbstractSylvesterSolver":
        """The same, but it returns what it finds of a system that is nearly singular."""
        return self

    def transpose(self) -> "AbstractSylvesterSolver":
        """The solver for the transposed systems; most are their own."""
        return self
