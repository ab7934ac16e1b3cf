"""Any lineax solver, with one shifted system per pair.

With a Schur form L = U T Uᴴ the Sylvester system becomes one shifted system per column,

    P (A − t_jj B) y_j = r_j + Σ_{i<j} P B y_i t_ij ,

coupled in one direction, so equal or defective eigenvalues inside L do no harm. L is
triangular up to 2×2 blocks, best pair first, so the right side of one pair involves no
other.
"""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Inexact

from .._numerics import device_eig
from .._operator import complex_dtype, Pencil, promises_nothing
from .._spectral import Inverse
from .system import AbstractSylvesterSolver, dot, error_of, ProjectedSylvester, times


_DIRECT = (lx.LU, lx.QR, lx.SVD, lx.AutoLinearSolver)


class Columnwise(AbstractSylvesterSolver):
    """Solves the shifted systems one after the other with a lineax solver.

    A system that is singular to within the error of its pair has no answer, whether or
    not the right side shows it: in the transposed system of an eigenvalue, it does not if
    another copy of the eigenvalue was left out. A direct solver also solves for a random
    right side, at two more triangular solves, which reveals it.
    """

    linear_solver: lx.AbstractLinearSolver
    error: Float[Array, ""] | None = None  # of A; known once the pairs are known

    def for_block(self, block):
        return Columnwise(self.linear_solver, error_of(block))

    def whatever(self):
        return Columnwise(self.linear_solver)

    def init(self, system, options):
        return system, options, *complex_schur(system.matrix)

    def compute(self, state, rhs):
        system, given, t, u = state
        preconditioner = given["preconditioner"]
        m = t.shape[0]
        above = jnp.triu(t, 1)
        right = times(rhs, u)
        negligible = 0.1 * given["rtol"] * jnp.linalg.norm(rhs)
        probe = self.error is not None and isinstance(self.linear_solver, _DIRECT)
        random = jax.random.normal(jax.random.key(0), rhs.shape[:1], rhs.real.dtype)
        random = system.project(random[:, None].astype(right.dtype))[:, 0]

        def column(solved, j):
            earlier = system.project(system.pencil.mass_mm(solved) @ above[:, j])
            b = right[:, j] + earlier
            operator = _Shifted(system, t[j, j])
            options = {}
            if preconditioner is not None:
                options["preconditioner"] = _Projected(system, preconditioner, b.dtype)

            def one(b):
                y = lx.linear_solve(
                    operator, b, self.linear_solver, options=options, throw=False
                ).value
                return system.restrict(y[:, None])[:, 0]

            def solve(b):
                if not probe:
                    y, regular = one(b), True
                else:
                    y, z = jax.vmap(one)(jnp.stack([b, random]))
                    missed = jnp.linalg.norm(random - operator.mv(z))
                    missed = jnp.maximum(missed, self.error * jnp.linalg.norm(z))
                    regular = missed <= 0.01 * jnp.linalg.norm(random)
                # What has no answer must not spoil other columns' answers.
                return jnp.where(regular & jnp.all(jnp.isfinite(y)), y, 0)

            # A loss on one pair leaves rounding errors here for the others. Columns that
            # are not in use are always zero, and their shift may be an eigenvalue.
            y = jax.lax.cond(jnp.linalg.norm(b) <= negligible, jnp.zeros_like, solve, b)
            return solved.at[:, j].set(y), None

        solved, _ = jax.lax.scan(column, jnp.zeros_like(right), jnp.arange(m))
        y = solved @ u.conj().T
        return y if jnp.iscomplexobj(rhs) else y.real


def complex_schur(
    a: Inexact[Array, "m m"],
) -> tuple[Inexact[Array, "m m"], Inexact[Array, "m m"]]:
    """T and unitary U with a ≈ U T Uᴴ, for small matrices.

    For a triangular matrix U mixes nothing; nor does it for a lower triangular one (the
    transposed L), which is reversed to be upper triangular. Entries below the diagonal
    within the tolerance of L are dropped: LAPACK would turn them into arbitrary
    rotations. A single real value stays real, so its system is a real one.
    """
    if a.shape[0] == 1:
        return a, jnp.ones_like(a)
    a = a.astype(complex_dtype(a.dtype))
    below, above = jnp.linalg.norm(jnp.tril(a, -1)), jnp.linalg.norm(jnp.triu(a, 1))
    index = jnp.arange(a.shape[0])
    index = jnp.where(below > above, index[::-1], index)
    a = a[index][:, index]
    small = jnp.abs(a) <= 10 * jnp.finfo(a.dtype).eps ** (2 / 3) * jnp.max(jnp.abs(a))
    a = jnp.where(small, jnp.triu(a), a)

    def by_eig(a):
        # GPUs have no Schur form: the QR of the eigenvectors triangularises too.
        u = jnp.linalg.qr(device_eig(a)[1])[0]
        return jnp.triu(u.conj().T @ a @ u), u

    def by_lapack(a):
        t, u = jax.lax.linalg.schur(a)
        return t, u

    t, u = jax.lax.platform_dependent(a, cpu=by_lapack, default=by_eig)
    return t, u[index]  # the reversal is its own inverse


def precondition(
    inverse: Pencil | Inverse, y: Inexact[Array, "n k"]
) -> Inexact[Array, "n k"]:
    """M Y; its real part for a complex M and a real Y, as in ARPACK's mode 3."""
    if jnp.iscomplexobj(y) or inverse.is_real:
        return inverse.mm(y)
    return inverse.mm(y.astype(inverse.dtype)).real


@promises_nothing
class _Shifted(lx.AbstractLinearOperator):
    """y ↦ P (A − t B) Q y + τ E Cᴴ y."""

    system: ProjectedSylvester
    shift: Inexact[Array, ""]

    def mv(self, vector):
        s, y = self.system, vector[:, None]
        q = s.restrict(y)
        outside = s.pencil.mm(q) - self.shift * s.pencil.mass_mm(q)
        return (s.project(outside) + s.border(y))[:, 0]

    def as_matrix(self):
        s = self.system
        if isinstance(s.pencil.operator, lx.MatrixLinearOperator):
            n = s.pencil.n
            b = jnp.eye(n, dtype=s.pencil.dtype)
            if s.pencil.mass is not None:
                b = s.pencil.mass.as_matrix()
            shifted = s.pencil.operator.matrix.astype(self.shift.dtype)
            shifted = shifted - self.shift * b.astype(self.shift.dtype)
            c = s.domain_basis.astype(shifted.dtype)
            shifted = s.project(shifted)
            shifted = shifted - (shifted @ c) @ c.conj().T
            return shifted + s.border(jnp.eye(n, dtype=shifted.dtype))
        eye = jnp.eye(s.pencil.n, dtype=self.shift.dtype)
        return jax.vmap(self.mv, in_axes=1, out_axes=1)(eye)

    def transpose(self):
        return _Shifted(self.system.transpose(), self.shift)

    def in_structure(self):
        return jax.ShapeDtypeStruct((self.system.pencil.n,), self.shift.dtype)

    def out_structure(self):
        return self.in_structure()


@promises_nothing
class _Projected(lx.AbstractLinearOperator):
    """Q M P y + C Eᴴ y / τ: turns M ≈ (A − λB)⁻¹ into a preconditioner of the projected
    system."""

    system: ProjectedSylvester
    inverse: Pencil | Inverse
    dtype: Any

    def mv(self, vector):
        s, y = self.system, vector[:, None]
        outside = s.restrict(precondition(self.inverse, s.project(y)))
        inside = times(s.domain_basis, dot(s.range_basis, y))
        return (outside + inside / s.scale.astype(y.dtype))[:, 0]

    def as_matrix(self):
        eye = jnp.eye(self.system.pencil.n, dtype=self.dtype)
        return jax.vmap(self.mv, in_axes=1, out_axes=1)(eye)

    def transpose(self):
        return _Projected(self.system.transpose(), self.inverse.transpose(), self.dtype)

    def in_structure(self):
        return jax.ShapeDtypeStruct((self.system.pencil.n,), self.dtype)

    def out_structure(self):
        return self.in_structure()
