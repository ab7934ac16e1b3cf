"""LAPACK's `geev` on the materialised matrix."""

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from .._operator import Pencil, SparseOperator
from .._solution import RESULTS
from .._which import AbstractSelection
from .base import (
    AbstractEigensolver,
    biorthogonal,
    choose,
    galerkin,
    InvariantBlock,
    leading,
    of_moderate_size,
    schur_basis,
    Spectrum,
    times_real,
)
from .dense_pencil import eig_of_pencil, PencilEig


class Dense(AbstractEigensolver):
    """All eigenpairs by LAPACK's `geev`, of which the wanted ones are kept.

    For matrices that fit in memory, and for selections only a full spectrum can answer
    (interior eigenvalues, arbitrary callables). Left vectors come along. Cost: O(n³),
    whatever k; an operator that is not a matrix is materialised by n products
    (counted in `stats`).

    With a mass matrix B the pairs are those of B⁻¹A, or where B is singular or close to
    it, of (A − σB)⁻¹B, without its zeros: infinite eigenvalues, which `stats` counts as
    `num_infinite`. Every pair's residual is checked then.
    """

    def compute(self, pencil, selection, k, *, v0, left, progress_meter):
        del v0, left, progress_meter
        pencil, size, products = _materialised(pencil)
        a = pencil.operator.as_matrix()
        eye = jnp.eye(pencil.n, dtype=a.dtype)
        finite = jnp.all(jnp.isfinite(a))
        if pencil.mass is None:
            w, u, v = jax.lax.linalg.eig(jnp.where(finite, a, eye))
            none = jnp.zeros(pencil.n, bool)
            found = PencilEig(w, u, v, none, jnp.asarray(False))
        else:
            b = pencil.mass.as_matrix()
            finite = finite & jnp.all(jnp.isfinite(b))
            a, b = (jnp.where(finite, x, eye) for x in (a, b))
            found = eig_of_pencil(a, b)
        return _select(pencil, selection, k, found, finite, size, products)


def _materialised(pencil: Pencil) -> tuple[Pencil, Float[Array, ""], int]:
    """A/s − λB as matrices, s, and the products with A that took."""
    known = isinstance(pencil.operator, lx.MatrixLinearOperator | SparseOperator)
    matrix, size = of_moderate_size(pencil.operator.as_matrix())
    operator, mass = lx.MatrixLinearOperator(matrix), None
    if pencil.mass is not None:
        mass = lx.MatrixLinearOperator(pencil.mass.as_matrix())
    return Pencil(operator, mass), size[0, 0], 0 if known else pencil.n


def _select(
    pencil: Pencil,
    selection: AbstractSelection,
    k: int,
    pairs: PencilEig,
    finite: Bool[Array, ""],
    size: Float[Array, ""],
    products: int,
) -> InvariantBlock:
    """The block of A from the eigenpairs of A/s, where nothing has an extreme size."""
    is_real = pencil.is_real and selection.keeps_pairs
    w, u, v = pairs.eigenvalues, pairs.left, pairs.right
    norm = jnp.linalg.norm(pencil.operator.as_matrix())
    # Infinite for a defective eigenvalue: those who use it look at what they get.
    dual = u / jnp.sum(v.conj() * pencil.adjoint_mass_mm(u), axis=0)
    every = times_real(w, size), v, dual
    perm, second, wanted = choose(selection, k, times_real(w, size), v, is_real)
    v, u, infinite = v[:, perm], u[:, perm], pairs.infinite[perm]
    w = jnp.where(infinite, jnp.inf, w[perm])
    wanted = wanted & ~infinite
    basis = schur_basis(v, second, is_real)
    coordinates = leading(wanted, basis.conj().T.astype(v.dtype) @ v)
    matrix, residuals, *_ = galerkin(
        pencil, basis, jnp.where(infinite, 0, w), coordinates
    )
    good = jnp.ones(w.shape, bool)
    if pencil.mass is not None:
        norm_b = jnp.linalg.norm(pencil.mass.as_matrix())
        eps = jnp.finfo(residuals.dtype).eps
        good = residuals <= eps**0.5 * (norm + jnp.abs(w) * norm_b)
    enough = jnp.sum(pairs.infinite) <= pencil.n - k
    result = RESULTS.where(
        jnp.all(good | ~wanted), RESULTS.successful, RESULTS.residual_too_large
    )
    result = RESULTS.where(enough, result, RESULTS.infinite)
    result = RESULTS.where(pairs.singular, RESULTS.singular, result)
    wanted = wanted & good & ~pairs.singular
    left_basis = biorthogonal(pencil, schur_basis(u, second, is_real), basis, wanted)
    selected = jnp.zeros(pencil.n, bool).at[perm].set(wanted)
    nan = jnp.where(finite, 0.0, jnp.nan).astype(residuals.dtype)
    return InvariantBlock(
        basis=basis + nan.astype(basis.dtype),
        matrix=times_real(leading(wanted, matrix), size),
        eigenvalues=times_real(w, size) + nan.astype(w.dtype),
        coordinates=coordinates,
        left_basis=left_basis,
        active=wanted & finite,
        residuals=residuals * size + nan,
        norm=norm * size,
        stats={
            "num_matvecs": jnp.asarray(products),
            "num_restarts": jnp.asarray(0),
            "num_converged": jnp.sum((wanted & finite)[:k]),
            "num_infinite": jnp.sum(pairs.infinite),
        },
        result=RESULTS.where(finite, result, RESULTS.nonfinite),
        spectrum=Spectrum(*every, selected, norm * size),
    )
