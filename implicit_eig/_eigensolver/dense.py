"""LAPACK's `geev` on the materialised matrix."""

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from .._operator import Pencil, SparseOperator
from .._solution import RESULTS
from .._which import AbstractSelection, order
from .base import (
    AbstractEigensolver,
    biorthogonal,
    galerkin,
    InvariantBlock,
    leading,
    of_moderate_size,
    schur_basis,
    times_real,
)


class Dense(AbstractEigensolver):
    """All eigenpairs by LAPACK's `geev`, of which the wanted ones are kept.

    For matrices that fit in memory, and for selections only a full spectrum can answer
    (interior eigenvalues, arbitrary callables). Left vectors come along. Cost: O(n³),
    whatever k; an operator that is not a matrix is materialised by n products
    (counted in `stats`).

    With a mass matrix `B` the pairs are those of `B⁻¹A`; `B` must be regular.
    """

    def compute(self, pencil, selection, k, *, v0, left, progress_meter):
        del v0, left, progress_meter
        pencil, size, products = _materialised(pencil)
        a = pencil.operator.as_matrix()
        if pencil.mass is not None:
            b = pencil.mass.as_matrix()
            a = jnp.linalg.solve(b, a)
        finite = jnp.all(jnp.isfinite(a))
        a = jnp.where(finite, a, jnp.eye(pencil.n, dtype=a.dtype))
        a, rest = of_moderate_size(a)
        w, u, v = jax.lax.linalg.eig(a)
        w = times_real(w, rest[0])
        if pencil.mass is not None:
            # geev's left vectors z of B⁻¹A belong to u = B⁻ᴴz.
            u = jnp.linalg.solve(b.conj().T.astype(u.dtype), u)
        return _select(pencil, selection, k, w, u, v, finite, size, products)


def _materialised(pencil: Pencil) -> tuple[Pencil, Float[Array, ""], int]:
    """A/s − λB as matrices, s, and the products with A that took."""
    known = isinstance(pencil.operator, lx.MatrixLinearOperator | SparseOperator)
    matrix, size = of_moderate_size(pencil.operator.as_matrix())
    operator, mass = lx.MatrixLinearOperator(matrix), None
    if pencil.mass is not None:
        mass = lx.MatrixLinearOperator(pencil.mass.as_matrix())
    return Pencil(operator, mass), size[0, 0], 0 if known else pencil.n


def _select(
    pencil: Pencil, selection: AbstractSelection, k: int, w, u, v, finite, size, products
) -> InvariantBlock:
    """The block of A from the eigenpairs of A/s, where nothing has an extreme size."""
    n, is_real = pencil.n, pencil.is_real
    m = min(k + 1, n) if is_real else k
    target = selection.target()
    overlaps = None
    if target is not None:
        overlaps = jnp.abs(target.conj().astype(v.dtype) @ v)
    found = order(selection, times_real(w, size), overlaps, is_real)
    perm, second = found.permutation[:m], found.second[:m]
    w, v, u = w[perm], v[:, perm], u[:, perm]
    # Column k is there for the partner of column k − 1, or idle.
    wanted = (jnp.arange(m) < k) | second
    basis = schur_basis(v, second, is_real)
    coordinates = leading(wanted, basis.conj().T.astype(v.dtype) @ v)
    matrix, residuals, *_ = galerkin(pencil, basis, w, coordinates)
    left_basis = biorthogonal(pencil, schur_basis(u, second, is_real), basis, wanted)
    nan = jnp.where(finite, 0.0, jnp.nan).astype(residuals.dtype)
    return InvariantBlock(
        basis=basis + nan.astype(basis.dtype),
        matrix=times_real(leading(wanted, matrix), size),
        eigenvalues=times_real(w, size) + nan.astype(w.dtype),
        coordinates=coordinates,
        left_basis=left_basis,
        active=wanted & finite,
        residuals=residuals * size + nan,
        norm=jnp.linalg.norm(pencil.operator.as_matrix()) * size,
        stats={
            "num_matvecs": jnp.asarray(products),
            "num_restarts": jnp.asarray(0),
            "num_converged": jnp.where(finite, k, 0),
        },
        result=RESULTS.where(finite, RESULTS.successful, RESULTS.nonfinite),
    )
