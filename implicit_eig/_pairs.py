"""From the block (X, L) to eigenpairs: the small eigenvalue problem, where ties live.

`eigen_of_block` carries the only formula with 1/(λ_j − λ_i) in the package. It leaves
the coupling between tied eigenvalues out, so that nothing outside a tie is ever touched
by it; `nan_tangent` (`_missing.py`) afterwards marks what does not exist.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact

from ._batch import only_if
from ._check import check_real
from ._eigensolver import combine, InvariantBlock
from ._gauge import AbstractGauge
from ._gauge_guard import guarded
from ._linear_map import joined
from ._missing import absent, nan_tangent
from ._operator import Pencil


Ties = Literal["nan", "drop"]


def check_ties(ties: str, tie_rtol: float | None) -> None:
    if ties not in ("nan", "drop"):
        raise ValueError(f'`ties` must be "nan" or "drop"; got {ties!r}.')
    if tie_rtol is not None:
        check_real("tie_rtol", tie_rtol, zero=True)


def default_tie_rtol(n: int, dtype) -> float:
    """Rounding of an eigenvalue of a matrix of order n, with some room."""
    return 10 * max(n, 1) * float(jnp.finfo(dtype).eps)


def accuracy_of(block: InvariantBlock, pencil: Pencil) -> Float[Array, ""]:
    """The default `tie_rtol`: eigenvalues are not known better than their residuals."""
    worst = jnp.max(jnp.where(block.active, block.residuals, 0))
    largest = jnp.max(jnp.where(block.active, jnp.abs(block.eigenvalues), 0))
    known = 10 * worst / jnp.where(largest > 0, largest, 1)
    least = default_tie_rtol(pencil.n, pencil.dtype)
    return jnp.maximum(least, jnp.where(largest > 0, known, 0))


def tied(
    eigenvalues: Complex[Array, " m"],
    active: Bool[Array, " m"],
    rtol: Float[ArrayLike, ""],
) -> Bool[Array, "m m"]:
    """Which pairs of distinct indices have a gap ≤ rtol · max|λ|."""
    both = active[:, None] & active[None, :] & ~jnp.eye(active.size, dtype=bool)
    gap = jnp.abs(eigenvalues[:, None] - eigenvalues[None, :])
    largest = jnp.max(jnp.where(active, jnp.abs(eigenvalues), 0), initial=0)
    return both & (gap <= rtol * largest)


class Eigen(NamedTuple):
    """The eigenpairs of L, with derivatives; and which have none."""

    eigenvalues: Complex[Array, " m"]
    coordinates: Complex[Array, "m m"]  # W
    duals: Complex[Array, "m m"]  # W⁻¹
    lost: Bool[Array, " m"]


def eigen_of_block(
    matrix: Inexact[Array, "m m"],
    eigenvalues: Complex[Array, " m"],
    coordinates: Complex[Array, "m m"],
    *,
    active: Bool[Array, " m"],
    tie_rtol: Float[ArrayLike, ""],
    known: Float[ArrayLike, ""] = 0.0,
) -> Eigen:
    """The eigenpairs (λ, W) of L, known, made differentiable with respect to L.

    Vectors inside a tie move with the space they span, and their mixing is left out.
    Eigenvalues inside a tie have first derivatives, right for functions symmetric in
    them, and no second ones, which are NaN.
    The scale of a vector is carried along (no component along itself), which any gauge
    applied afterwards turns into its own derivative.

    `lost` are pairs that cannot be told from defective ones: L is known to rounding, and
    to `known`. Their derivatives are to be made NaN by whoever calls. Nothing of them
    enters those of the other pairs.
    """
    ties = tied(eigenvalues, active, tie_rtol)
    both = active[:, None] & active[None, :]
    apart = ~ties & ~jnp.eye(active.size, dtype=bool) & both
    dual = _dual(
        *(jax.lax.stop_gradient(x) for x in (matrix, eigenvalues, coordinates)), both
    )
    lost = _defective(dual.condition, eigenvalues, matrix, ties, apart, known) & active
    spectrum, w, duals = _eigen_root(
        matrix,
        jnp.diag(eigenvalues),
        coordinates,
        dual.duals,
        both=both,
        apart=apart,
        skewed=dual.skewed,
    )
    values = _once(jnp.diagonal(spectrum), jnp.any(ties, axis=0))
    return Eigen(values, w, duals, lost)


class _Dual(NamedTuple):
    duals: Complex[Array, "m m"]  # W⁻¹
    condition: Float[Array, " m"]  # of the eigenvalues
    skewed: Bool[Array, ""]  # whether some of these are large


def _dual(
    matrix: Inexact[Array, "m m"],
    eigenvalues: Complex[Array, " m"],
    coordinates: Complex[Array, "m m"],
    both: Bool[Array, "m m"],
) -> _Dual:
    """W⁻¹, whose rows are left eigenvectors as accurate as each is conditioned.

    Vectors of a nearly defective eigenvalue are nearly dependent, and their rounding
    enters all rows of an inverse. Two steps of the eigenvalue problem of Lᵀ take it out
    of the rows of the other pairs.
    """
    eye = jnp.eye(both.shape[0], dtype=coordinates.dtype)
    w = jnp.where(both, coordinates, eye)
    inverse = jnp.linalg.inv(w)
    size = jnp.linalg.norm(w, axis=0)
    eps = jnp.finfo(size.dtype).eps
    # Of the others the errors belong together: they cancel in symmetric functions.
    moderate = jnp.linalg.norm(inverse, axis=1) * size < eps**-0.25
    skewed = ~jnp.all(moderate)
    l = jnp.where(both, matrix, 0).astype(w.dtype)
    values = jnp.where(jnp.diagonal(both), eigenvalues, 0)[:, None]
    gap = values.T - values
    apart = both & (gap != 0)
    gap = jnp.where(apart, gap, 1)

    def defect(u: Array) -> tuple[Array, Array]:
        r = u @ l - values * u
        return r, jnp.linalg.norm(r, axis=1) / jnp.linalg.norm(u, axis=1)

    def refined(u: Array) -> Array:
        for _ in range(2):
            r, error = defect(u)
            better = u - jnp.where(apart, (r @ w) / gap, 0) @ inverse
            better = better / jnp.sum(better * w.T, axis=1, keepdims=True)
            improved = moderate & (defect(better)[1] < error)
            u = jnp.where(improved[:, None], better, u)
        return u

    duals = only_if(skewed, refined, inverse)
    return _Dual(duals, jnp.linalg.norm(duals, axis=1) * size, skewed)


def _defective(
    condition: Float[Array, " m"],
    eigenvalues: Complex[Array, " m"],
    matrix: Inexact[Array, "m m"],
    ties: Bool[Array, "m m"],
    apart: Bool[Array, "m m"],
    known: Float[ArrayLike, ""],
) -> Bool[Array, " m"]:
    """Which eigenvalues a change of L by its own error may merge with another one.

    To first order a change E moves an eigenvalue by κ‖E‖ (Wilkinson 1965). Where that is
    the gap to the next one, a defective matrix is as near as E, and a derivative has no
    digit: its relative error is κ‖E‖/gap. So an eigenvalue with a large κ and no other
    one close to it keeps its derivatives. Those of a semisimple tie have moderate κ.
    """
    values, a = jax.lax.stop_gradient((eigenvalues, matrix))
    norm = jnp.linalg.norm(a)
    error = 10 * jnp.maximum(jnp.finfo(norm.dtype).eps * norm, known).astype(norm.dtype)
    gap = jnp.abs(values[:, None] - values[None, :])
    gap = jnp.min(jnp.where(apart, gap, jnp.inf), axis=0)
    return _merges(condition, gap, jnp.any(ties, axis=0), error, norm)


def _merges(
    condition: Float[Array, " m"],
    gap: Float[Array, " m"],
    in_tie: Bool[Array, " m"],
    error: Float[Array, ""],
    norm: Float[Array, ""],
) -> Bool[Array, " m"]:
    # Negated: NaN comes of vectors that are dependent to the last digit.
    return ~(condition * error <= gap) | (in_tie & ~(condition**2 * error <= norm))


@eqx.filter_custom_jvp
def _eigen_root(matrix, spectrum, coordinates, duals, *, both, apart, skewed):
    """L W = W M, with M diagonal here, but free to move inside ties; and W⁻¹.

    With G = W⁻¹L̇W the tangents are `Ṁ = G` on the diagonal and inside ties, and
    `Ẇ = W Y`, where `Y M − M Y = G` elsewhere: `y_ij = g_ij / (λ_j − λ_i)` (Magnus 1985;
    Giles 2008, section 3). M is kept as a matrix because its off-diagonal tangents
    inside a tie enter the second derivatives of every other pair.
    """
    del matrix, both, apart, skewed
    return spectrum, coordinates, duals


@_eigen_root.def_jvp
def _(primals, tangents, *, both, apart, skewed):
    t_matrix, *_ = tangents
    options = {"both": both, "apart": apart, "skewed": skewed}
    out = _eigen_root(*primals, **options)
    if t_matrix is None:
        return out, (None, None, None)
    spectrum, w, duals = out
    eye = jnp.eye(both.shape[0], dtype=w.dtype)
    w, duals = jnp.where(both, w, eye), jnp.where(both, duals, eye)
    l, m, t = (
        jnp.where(both, x, 0).astype(w.dtype) for x in (primals[0], spectrum, t_matrix)
    )
    t_w, t_spectrum = _tangents(l, m, w, duals, t, apart, skewed)
    # The columns of W⁻ᵀ are the vectors of Lᵀ.
    t_duals, _ = _tangents(l.T, m.T, duals.T, w.T, t.T, apart, skewed)
    return out, (t_spectrum, t_w, t_duals.T)


def _tangents(
    matrix: Complex[Array, "m m"],
    spectrum: Complex[Array, "m m"],
    w: Complex[Array, "m m"],
    duals: Complex[Array, "m m"],
    t: Complex[Array, "m m"],
    apart: Bool[Array, "m m"],
    skewed: Bool[Array, ""],
) -> tuple[Complex[Array, "m m"], Complex[Array, "m m"]]:
    """Ẇ and Ṁ of `Ẇ M − L Ẇ + W Ṁ = L̇ W`, W⁻¹Ẇ zero and Ṁ not zero where eigenvalues
    are not `apart`.

    Of nearly dependent vectors Ẇ = W Y takes large multiples, with a small difference.
    The equation has no such numbers in the columns of other pairs: where some vectors
    are nearly dependent, its residual is made to vanish once more.
    """

    def equation(m: Array, x: tuple[Array, Array], matrices: tuple) -> tuple:
        l, w, duals = matrices
        t_w, t_m = x
        inside = w @ jnp.where(apart, 0, t_m)
        bound = jnp.where(apart, t_m, duals @ t_w)
        return t_w @ m - l @ t_w + inside, bound

    known = matrix, w, duals
    fixed, values = jax.lax.stop_gradient((known, jnp.diagonal(spectrum)))
    gap = jnp.where(apart, values[None, :] - values[:, None], 1)

    def once(rhs: tuple[Array, Array]) -> tuple[Array, Array]:
        r, bound = rhs
        _, w, duals = fixed
        g = duals @ r
        inside = jnp.where(apart, g / gap, bound)
        return w @ inside, jnp.where(apart, bound, g)

    def solve(image: Callable, inverse: Callable, rhs: tuple) -> tuple[Array, Array]:
        def refined(x: tuple) -> tuple:
            # From x on: what does not depend on it, XLA computes before it is asked.
            for _ in range(2):
                rest = jtu.tree_map(jnp.subtract, rhs, image(x))
                x = jtu.tree_map(jnp.add, x, inverse(rest))
            return x

        return only_if(skewed, refined, inverse(rhs))

    def transposed(fn: Callable, like: tuple) -> Callable:
        return lambda x: jax.linear_transpose(fn, like)(x)[0]

    def image(x: tuple) -> tuple:
        return equation(jnp.diag(values), x, fixed)

    def refined_transposed(_, ct: tuple) -> tuple:
        of_w, of_m = (ct[0], 0 * ct[1]), (0 * ct[0], ct[1])
        x = solve(transposed(image, ct), transposed(once, ct), of_w)
        return jtu.tree_map(jnp.add, x, transposed(once, ct)(of_m))

    rhs = t @ w
    solution = jax.lax.custom_linear_solve(
        lambda x: equation(spectrum, x, known),
        # The zero is made of a tangent, or JAX cannot transpose the solve.
        (rhs, 0 * rhs),
        # Ẇ only: the rounding of Ṁ cancels in functions symmetric in close eigenvalues.
        lambda _, rhs: (solve(image, once, rhs)[0], once(rhs)[1]),
        refined_transposed,
    )
    return joined(*solution)


@jax.custom_jvp
def _once(x: Inexact[Array, " k"], missing: Bool[Array, " k"]) -> Inexact[Array, " k"]:
    """x, whose second derivative does not exist where `missing`."""
    del missing
    return x


@_once.defjvp
def _(primals, tangents):
    (x, missing), (t, _) = primals, tangents
    return _once(x, missing), nan_tangent(t, missing)


class Eigenpairs(eqx.Module):
    eigenvalues: Complex[Array, " k"]
    right: Complex[Array, "n k"]
    left: Complex[Array, "n k"] | None
    lost: Bool[Array, " k"]  # which cannot be told from defective ones


def pairs_of_block(
    pencil: Pencil,
    block: InvariantBlock,
    basis: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
    left_basis: Inexact[Array, "n m"] | None,
    *,
    marks: tuple[Float[Array, " m"] | None, Float[Array, " m"]],
    k: int,
    gauge: AbstractGauge,
    ties: Ties,
    tie_rtol: Float[ArrayLike, ""],
) -> Eigenpairs:
    """The first k pairs of `block`, in the gauge, `uᴴBv = 1`, from its differentiable
    `basis`, `matrix` and `left_basis`.

    `marks` are zeros to be added to the eigenvalues and to the vectors: their tangents
    are NaN where the linear solve for a pair failed.
    """
    active, error = block.active, _error(pencil, block)
    missing = ~active[:k]
    known = error
    if pencil.mass is not None:
        # L is a part of B⁻¹A.
        known = error * jnp.linalg.norm(block.matrix) / block.norm
    found = eigen_of_block(
        matrix,
        block.eigenvalues,
        block.coordinates,
        active=active,
        tie_rtol=tie_rtol,
        known=known,
    )
    w, coordinates = found.eigenvalues, found.coordinates
    duals = found.duals.conj().T
    cut = _near(block, tie_rtol)
    lost = found.lost
    if block.left_basis is not None:
        lost = lost | _lost(block, duals, cut, error, tie_rtol)
    lost = lost[:k]
    scale = jax.vmap(gauge, in_axes=1, out_axes=1)
    right = scale(combine(basis, coordinates[:, :k]))
    no_value = no_vector = missing | lost
    if ties == "nan":
        # One of two tied eigenvalues, or a vector of either, has no derivative.
        no_value = no_value | cut[:k]
        in_tie = jnp.any(tied(w, active, tie_rtol), axis=0)
        no_vector = no_value | in_tie[:k]
    vectors = [right]
    if left_basis is not None:
        left = combine(jnp.where(active, left_basis, 0), duals[:, :k])
        overlap = jnp.sum(left.conj() * pencil.mass_mm(right), axis=0)
        vectors.append(left / jnp.where(missing, jnp.nan, overlap.conj()))
    values = nan_tangent(w[:k], no_value)
    right, *left = [nan_tangent(x, no_vector) for x in vectors]
    of_values, of_vectors = marks
    if of_values is not None:
        values = values + of_values[:k].astype(values.dtype)
    right = right + of_vectors[:k].astype(right.dtype)
    fixed = jax.lax.stop_gradient(w[:k])
    nowhere = absent(pencil, values=fixed, missing=missing)
    values, right = (x + nowhere.astype(x.dtype) for x in (values, right))
    right, *left = guarded(gauge, right, *left)
    return Eigenpairs(values, right, left[0] if left else None, lost)


def _error(pencil: Pencil, block: InvariantBlock) -> Float[Array, ""]:
    """The size of a change of A for which the pairs would be exact."""
    worst = jnp.max(jnp.where(block.active, block.residuals, 0))
    eps = float(jnp.finfo(pencil.dtype).eps)
    return jnp.maximum(eps * block.norm, worst)


def _near(block: InvariantBlock, rtol: Float[ArrayLike, ""]) -> Bool[Array, " m"]:
    """Which pairs tie with one outside the block."""
    if block.outside is None:
        return jnp.zeros(block.active.shape, bool)
    gap = jnp.abs(block.eigenvalues - block.outside)
    largest = jnp.max(jnp.where(block.active, jnp.abs(block.eigenvalues), 0))
    return block.active & (gap <= rtol * largest)


def _lost(
    block: InvariantBlock,
    duals: Complex[Array, "m m"],
    cut: Bool[Array, " m"],
    error: Float[Array, ""],
    tie_rtol: Float[ArrayLike, ""],
) -> Bool[Array, " m"]:
    """`_defective` in the whole space: with eigenvalues outside the block too."""
    values, active = block.eigenvalues, block.active
    right = combine(block.basis, block.coordinates)
    left = combine(jnp.where(active, block.left_basis, 0), jax.lax.stop_gradient(duals))
    condition = jnp.linalg.norm(right, axis=0) * jnp.linalg.norm(left, axis=0)
    ties = tied(values, active, tie_rtol)
    apart = active[:, None] & active[None, :] & ~ties & ~jnp.eye(active.size, dtype=bool)
    gap = jnp.abs(values[:, None] - values[None, :])
    gap = jnp.min(jnp.where(apart, gap, jnp.inf), axis=0)
    if block.outside is not None:
        beyond = jnp.abs(values - block.outside)
        gap = jnp.where(~cut & (beyond < gap), beyond, gap)
    in_tie = jnp.any(ties, axis=0) | cut
    return active & _merges(condition, gap, in_tie, 10 * error, block.norm)
