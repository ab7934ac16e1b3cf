"""All eigenpairs of the materialised matrix: LAPACK's `geev` on CPUs."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int

from .._check import check_flag
from .._krylov import default_start, leading, nearest_outside, schur_basis
from .._numerics import device_eig_from_both_sides
from .._operator import of_moderate_size, Pencil, SparseOperator, times_real
from .._program import holds_function
from .._solution import RESULTS
from .._spectral import AbstractSelection
from .base import AbstractEigensolver
from .block import choose, InvariantBlock, nonfinite, Spectrum, without
from .dense_pencil import eig_of_pencil, PencilEig
from .rayleigh_ritz import galerkin


class Dense(AbstractEigensolver):
    """Computes all eigenpairs and keeps the wanted ones: by LAPACK's `geev`; on
    accelerators, up to order 64, by the QR iteration of [`implicit_eig.eig`][].

    For matrices that fit in memory, and for selections only a full spectrum can answer
    (interior eigenvalues, arbitrary callables). Left vectors come along. Cost: O(n³),
    whatever k; an operator that is not a matrix is materialised by n products (counted in
    `stats`). For a function, one more product checks that it is linear:
    `RESULTS.not_linear` if not.

    With a mass matrix B the pairs are those of B⁻¹A or, if B is singular or close to it,
    of (A − σB)⁻¹B without its zeros: those are infinite eigenvalues, which `stats` counts
    as `num_infinite`. Every pair's residual is then checked.

    **Arguments:**

    - `sharpen`: whether to make the block invariant to rounding even if its eigenvalues
        are close to defective, so that eigenvectors determine it to half the digits only.
        Pairs gain nothing by it; `invariant_subspace` asks for it.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        shift = lambda v: jnp.roll(v, 1)  # a function: its matrix is made of n products
        s = ieig.eigs(shift, 2, "LR", like=jnp.ones(5), eigensolver=ieig.Dense())
        ```
    """

    sharpen: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_flag("sharpen", self.sharpen)

    def compute(self, pencil, selection, k, *, v0, left, progress_meter):
        del v0, left, progress_meter
        given = pencil
        pencil, size, products = _materialised(given)
        linear, further = is_linear(given, pencil, size)
        a = pencil.operator.as_matrix()
        eye = jnp.eye(pencil.n, dtype=a.dtype)
        finite = jnp.all(jnp.isfinite(a))
        if pencil.mass is None:
            w, u, v = device_eig_from_both_sides(jnp.where(finite, a, eye))
            none = jnp.zeros(pencil.n, bool)
            found = PencilEig(w, u, v, none, jnp.asarray(False))
        else:
            b = pencil.mass.as_matrix()
            finite = finite & jnp.all(jnp.isfinite(b))
            a, b = (jnp.where(finite, x, eye) for x in (a, b))
            found = eig_of_pencil(a, b)
        sharpen = _sharpened if self.sharpen else _as_it_is
        block = _select(
            pencil, selection, k, found, finite, size, products + further, sharpen
        )
        return without(block, finite & ~linear, RESULTS.not_linear)

    @property
    def knows_all(self):
        return True

    def sharpened(self):
        return Dense(sharpen=True)


def is_linear(
    given: Pencil, found: Pencil, size: Float[Array, ""]
) -> tuple[Bool[Array, ""], int]:
    """Whether functions map a random vector as their matrices do, and how many products
    with A that took: a constant part, a modulus or a square is lost in a matrix."""
    x = default_start(given.n, given.dtype)[:, None]
    matrices = (
        (given.operator, given.mm, lambda x: times_real(found.mm(x), size), 1),
        (given.mass, given.mass_mm, found.mass_mm, 0),
    )
    linear, products = jnp.asarray(True), 0
    for operator, product, by_matrix, count in matrices:
        if not holds_function(operator):
            continue
        image, wanted = product(x), by_matrix(x)
        apart, norm = jnp.linalg.norm(image - wanted), jnp.linalg.norm(wanted)
        bound = jnp.finfo(norm.dtype).eps ** 0.5 * (jnp.linalg.norm(image) + norm)
        linear, products = linear & (apart <= bound), products + count
    return linear, products


def _materialised(pencil: Pencil) -> tuple[Pencil, Float[Array, ""], int]:
    """A/s − λB as matrices; s; and how many products with A that took."""
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
    sharpen: Callable[..., Array],
) -> InvariantBlock:
    """The block of A from the eigenpairs of A/s, in which nothing has an extreme size."""
    is_real = pencil.is_real and selection.keeps_pairs
    w, u, v = pairs.eigenvalues, pairs.left, pairs.right
    norm = jnp.linalg.norm(pencil.operator.as_matrix())
    # Infinite for a defective eigenvalue: its users check for that.
    dual = u / jnp.sum(v.conj() * pencil.adjoint_mass_mm(u), axis=0)
    every = times_real(w, size), v, dual
    accuracy = _accuracy(pencil, w, v, dual) * size
    perm, second, wanted = choose(selection, k, times_real(w, size), v, is_real, accuracy)
    v, u, infinite = v[:, perm], u[:, perm], pairs.infinite[perm]
    outside = nearest_outside(w, perm, wanted)
    w, wanted = jnp.where(infinite, jnp.inf, w[perm]), wanted & ~infinite
    basis = sharpen(pencil, schur_basis(v, second, is_real), pairs, perm, wanted)
    mirrored = pairs._replace(left=pairs.right.conj(), right=pairs.left.conj())
    left = schur_basis(u, second, is_real).conj()
    left = sharpen(pencil.transpose(), left, mirrored, perm, wanted).conj()
    norms, eps = (norm, jnp.ones_like(norm)), float(jnp.finfo(w.dtype).eps)
    if pencil.mass is not None:
        norms = norm, jnp.linalg.norm(pencil.mass.as_matrix())
    block = InvariantBlock.of(
        pencil,
        basis,
        w,
        basis.conj().T.astype(v.dtype) @ v,
        k=k,
        second=second,
        wanted=wanted,
        usable=jnp.isfinite(w) & ~pairs.singular,
        rtol=eps**0.5,
        slack=eps**-0.5,
        norms=norms,
        left=(left, left.conj().T.astype(u.dtype) @ u),
        outside=outside,
        judge=pencil.mass is not None,
    )
    wrong = block.result == RESULTS.not_converged
    result = RESULTS.where(wrong, RESULTS.residual_too_large, block.result)
    enough = jnp.sum(pairs.infinite) <= pencil.n - k
    result = RESULTS.where(enough, result, RESULTS.infinite)
    result = RESULTS.where(pairs.singular, RESULTS.singular, result)
    selected = jnp.zeros(pencil.n, bool).at[perm].set(wanted)
    block = dataclasses.replace(
        block,
        matrix=times_real(block.matrix, size),
        eigenvalues=times_real(block.eigenvalues, size),
        residuals=block.residuals * size,
        norm=norm * size,
        stats=block.stats
        | {
            "num_matvecs": jnp.asarray(products),
            "num_restarts": jnp.asarray(0),
            "num_infinite": jnp.sum(pairs.infinite),
        },
        result=result,
        spectrum=Spectrum(*every, selected, norm * size),
        outside=times_real(block.outside, size),  # pyright: ignore[reportArgumentType]
    )
    return nonfinite(block, ~finite)


def _accuracy(
    pencil: Pencil,
    eigenvalues: Complex[Array, " n"],
    right: Complex[Array, "n n"],
    dual: Complex[Array, "n n"],
) -> Float[Array, " n"]:
    """κ times the rounding of A − λB: the accuracy of each eigenvalue. For a defective
    one, whose κ is infinite, half the digits."""
    norm = _largest_column(pencil.operator.as_matrix())
    condition = jnp.linalg.norm(right, axis=0) * jnp.linalg.norm(dual, axis=0)
    if pencil.mass is not None:
        size = _largest_column(pencil.mass.as_matrix())
        norm = norm / jnp.where(size > 0, size, 1) + jnp.abs(eigenvalues)
        condition = condition * size
    eps = jnp.finfo(norm.dtype).eps
    return 10 * eps * norm * jnp.minimum(condition, eps**-0.5)


def _largest_column(a: Inexact[Array, "n n"]) -> Float[Array, ""]:
    """A lower bound of ‖A‖₂, near it for diagonal matrices of any order."""
    return jnp.max(jnp.linalg.norm(a, axis=0))


def _as_it_is(_, basis: Inexact[Array, "n m"], *__) -> Inexact[Array, "n m"]:
    return basis


def _sharpened(
    pencil: Pencil,
    basis: Inexact[Array, "n m"],
    pairs: PencilEig,
    chosen: Int[Array, " m"],
    wanted: Bool[Array, " m"],
) -> Inexact[Array, "n m"]:
    """The basis, with wanted columns that span an invariant subspace to rounding.

    Eigenvectors of a nearly defective eigenvalue are nearly dependent, which makes their
    basis inaccurate to the same degree. Newton's method repairs it: the correction Y in
    `A Y − B Y L = −R` is expanded in the other eigenvectors, with one small system each,
    `z (uᴴAv I − uᴴBv L) = −uᴴR`. Nothing is divided by differences inside L.
    """
    u, v = pairs.left, pairs.right
    others = jnp.ones(pencil.n, bool).at[chosen].set(~wanted)
    both = wanted[:, None] & wanted[None, :]
    eye = jnp.eye(wanted.size, dtype=u.dtype)

    def defect(basis: Array) -> tuple[Array, Array, Array]:
        zero = jnp.zeros(wanted.size, u.dtype)
        matrix, _, ax, bx = galerkin(pencil, basis, zero, 0 * eye)
        r = jnp.where(wanted, ax - bx @ leading(wanted, matrix), 0)
        return jnp.linalg.norm(r), r, matrix

    def newton(state):
        basis, size, r, matrix, rounds = state
        alpha, beta = (
            jnp.sum(u.conj() * image, axis=0)
            for image in (pencil.mm(v), pencil.mass_mm(v))
        )
        inside = jnp.where(both, matrix.astype(u.dtype), eye)

        def coefficients(alpha: Array, beta: Array, row: Array) -> Array:
            system = jnp.where(both, alpha * eye - beta * inside, eye)
            return jnp.linalg.solve(system.T, -row)

        z = jax.vmap(coefficients)(alpha, beta, u.conj().T @ r.astype(u.dtype))
        y = v @ jnp.where(others[:, None], z, 0)
        y = y if jnp.iscomplexobj(basis) else y.real
        better, _ = jnp.linalg.qr(basis + jnp.where(wanted, y, 0))
        found = defect(better)
        improved = found[0] < size
        kept = [
            jnp.where(improved, new, old)
            for new, old in zip((better, *found), (basis, size, r, matrix), strict=True)
        ]
        return *kept, jnp.where(improved, rounds + 1, 3)

    def unfinished(state):
        return (state[1] > enough) & (state[4] < 3)

    size, r, matrix = defect(basis)
    norm = jnp.linalg.norm(pencil.operator.as_matrix())
    enough = 10 * jnp.finfo(norm.dtype).eps * norm
    state = basis, size, r, matrix, jnp.asarray(0)
    return jax.lax.while_loop(unfinished, newton, state)[0]
