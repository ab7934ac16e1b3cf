"""The small eigenvalue problem L W = W M, with its derivatives and its ties.

`eigen_of_block` has the only formula with 1/(λ_j − λ_i) in the package. It leaves out
the coupling between tied eigenvalues, so that a tie never affects anything outside it;
`nan_tangent` (`_ad/missing.py`) afterwards marks the derivatives that do not exist.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact

from .._ad import joined, root, tied_values
from .._batch import only_if
from .._numerics import inv


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


def blur(
    eigenvalues: Complex[Array, " m"],
    active: Bool[Array, " m"],
    rtol: Float[ArrayLike, ""],
    error: Float[Array, ""],
    outside: Complex[Array, " m"] | None = None,
) -> Float[Array, " m"]:
    """The approximate relative error of each vector if that of the matrix is `error`:
    `error` divided by the gap to the nearest eigenvalue that does not tie."""
    w = eigenvalues
    gap = jnp.abs(w[:, None] - w[None, :])
    apart = active[None, :] & ~tied(w, active, rtol) & ~jnp.eye(w.size, dtype=bool)
    gap = jnp.min(jnp.where(apart, gap, jnp.inf), axis=0)
    if outside is not None:
        gap = jnp.fmin(gap, jnp.abs(w - outside))
    gap = jnp.where(gap > 0, gap, jnp.inf)
    return 10 * (error / gap + w.size * float(jnp.finfo(gap.dtype).eps))


class Eigen(NamedTuple):
    """The eigenpairs of L, with derivatives; and which pairs have none."""

    eigenvalues: Complex[Array, " m"]
    coordinates: Complex[Array, "m m"]  # W
    duals: Complex[Array, "m m"]  # W⁻¹
    lost: Bool[Array, " m"]


def eigen_of_block(
    matrix: Inexact[Array, "m m"],
    eigenvalues: Complex[Array, " m"],
    coordinates: Complex[Array, "m m"],
    inverse: Complex[Array, "m m"] | None = None,
    *,
    active: Bool[Array, " m"],
    tie_rtol: Float[ArrayLike, ""],
    known: Float[ArrayLike, ""] = 0.0,
    drop: bool = False,
) -> Eigen:
    """Makes the known eigenpairs (λ, W) of L differentiable with respect to L.

    Vectors inside a tie move with the space they span; their mixing is left out.
    Eigenvalues inside a tie have first derivatives for functions symmetric in them; their
    second derivatives do not exist and are NaN. So are cotangents that differ inside a
    tie, unless `drop` asks to leave them as they are.
    Tangents of vectors have no component along the vector; any gauge applied afterwards
    turns this into its own derivative.

    `lost` marks pairs that cannot be told from defective ones, as L is only accurate to
    rounding and to `known`. The caller must make their derivatives NaN. They do not enter
    the derivatives of other pairs.

    `inverse` is W⁻¹, if it is known.
    """
    ties = tied(eigenvalues, active, tie_rtol)
    both = active[:, None] & active[None, :]
    apart = ~ties & ~jnp.eye(active.size, dtype=bool) & both
    fixed = jax.lax.stop_gradient((matrix, eigenvalues, coordinates))
    dual = _dual(*fixed, inverse, both)
    lost = _defective(dual.condition, eigenvalues, matrix, ties, apart, known) & active
    values, _, w, duals = _eigen_root(
        (eigenvalues, jnp.zeros_like(coordinates), coordinates, dual.duals),
        matrix,
        both=both,
        apart=apart,
        skewed=dual.skewed,
    )
    # Cotangents of a smooth function differ about as much as the eigenvalues do.
    eps = float(jnp.finfo(values.dtype).eps)
    rtol = jnp.inf if drop else jnp.maximum(eps**0.5, 10 * jnp.asarray(tie_rtol))
    values = tied_values(values, ties, jax.lax.stop_gradient(rtol))
    return Eigen(values, w, duals, lost)


class _Dual(NamedTuple):
    duals: Complex[Array, "m m"]  # W⁻¹
    condition: Float[Array, " m"]  # of the eigenvalues
    skewed: Bool[Array, ""]  # whether some of these are large


def _dual(
    matrix: Inexact[Array, "m m"],
    eigenvalues: Complex[Array, " m"],
    coordinates: Complex[Array, "m m"],
    inverse: Complex[Array, "m m"] | None,
    both: Bool[Array, "m m"],
) -> _Dual:
    """W⁻¹, whose rows are left eigenvectors, each as accurate as its conditioning allows.

    Vectors of a nearly defective eigenvalue are nearly dependent, and their rounding
    enters all rows of an inverse. Two correction steps for the eigenvalue problem of Lᵀ
    remove it from the rows of the other pairs.
    """
    w = jnp.where(both, coordinates, jnp.eye(both.shape[0], dtype=coordinates.dtype))
    inverse = inv(w) if inverse is None else inverse
    size = _norms(w, 0)
    plain = _norms(inverse, 1) * size
    # The errors of the others are correlated: they cancel in symmetric functions. Below
    # 1000, single precision gains nothing: all rounding is as large.
    moderate = plain < max(float(jnp.finfo(plain.dtype).eps) ** -0.25, 1e3)
    skewed = ~jnp.all(moderate)

    def refined(found: tuple) -> tuple:
        u, _ = found
        l = jnp.where(both, matrix, 0).astype(w.dtype)
        values = jnp.where(jnp.diagonal(both), eigenvalues, 0)[:, None]
        gap = values.T - values
        apart = both & (gap != 0)
        gap = jnp.where(apart, gap, 1)

        def look(_, state: tuple) -> tuple:
            u, r, error, better = state
            rest = better @ l - values * better
            size = _norms(rest, 1) / _norms(better, 1)
            improved = moderate & (size < error)
            u, r = (
                jnp.where(improved[:, None], new, old)
                for new, old in ((better, u), (rest, r))
            )
            better = u - jnp.where(apart, (r @ w) / gap, 0) @ inverse
            better = better / jnp.sum(better * w.T, axis=1, keepdims=True)
            return u, r, jnp.where(improved, size, error), better

        # Once for the inverse, then once for each of two steps.
        init = u, jnp.zeros_like(u), jnp.full_like(plain, jnp.inf), u
        u, *_ = jax.lax.fori_loop(0, 3, look, init)
        return u, _norms(u, 1) * size

    return _Dual(*only_if(skewed, refined, (inverse, plain)), skewed)  # pyright: ignore[reportCallIssue]


def inverse_of_conjugates(
    w: Complex[Array, "m m"], eigenvalues: Complex[Array, " m"]
) -> Complex[Array, "m m"]:
    """W⁻¹ for the eigenvectors of a real matrix as `geev` returns them: a + ib and a − ib
    side by side, and real ones. Uses the inverse of the real matrix of a and b.

    Two rows c and d of that inverse give the rows (c − id)/2 and (c + id)/2 of W⁻¹.
    """
    up, down = eigenvalues.imag > 0, eigenvalues.imag < 0
    real = jnp.linalg.inv(jnp.where(down, -w.imag, w.real))
    up, down = up[:, None], down[:, None]
    c = jnp.where(down, jnp.roll(real, 1, axis=0), real)
    d = jnp.where(up, -jnp.roll(real, -1, axis=0), jnp.where(down, real, 0))
    half = jnp.where(up | down, 0.5, 1.0).astype(real.dtype)
    return jax.lax.complex(c * half, d * half)


def _norms(x: Inexact[Array, "m m"], axis: int) -> Float[Array, " m"]:
    return jnp.sqrt(jnp.sum(jnp.abs(x) ** 2, axis=axis))


def _defective(
    condition: Float[Array, " m"],
    eigenvalues: Complex[Array, " m"],
    matrix: Inexact[Array, "m m"],
    ties: Bool[Array, "m m"],
    apart: Bool[Array, "m m"],
    known: Float[ArrayLike, ""],
) -> Bool[Array, " m"]:
    """Which eigenvalues a change of L within its error may merge with another one.

    To first order, a change E moves an eigenvalue by κ‖E‖ (Wilkinson 1965). If that
    reaches the gap to the next one, a defective matrix is within E, and a derivative has
    no correct digit: its relative error is κ‖E‖/gap. So an eigenvalue with a large κ and
    no close neighbour keeps its derivatives. Those of a semisimple tie have moderate κ.
    """
    values, a = jax.lax.stop_gradient((eigenvalues, matrix))
    norm = jnp.linalg.norm(a)
    error = 10 * jnp.maximum(jnp.finfo(norm.dtype).eps * norm, known).astype(norm.dtype)
    gap = jnp.abs(values[:, None] - values[None, :])
    gap = jnp.min(jnp.where(apart, gap, jnp.inf), axis=0)
    return merges(condition, gap, jnp.any(ties, axis=0), error, norm)


def merges(
    condition: Float[Array, " m"],
    gap: Float[Array, " m"],
    in_tie: Bool[Array, " m"],
    error: Float[Array, ""],
    norm: Float[Array, ""],
) -> Bool[Array, " m"]:
    # Negated, because vectors dependent to the last digit give NaN.
    return ~(condition * error <= gap) | (in_tie & ~(condition**2 * error <= norm))


@root
def _eigen_root(found, _, matrix, t_matrix, *, both, apart, skewed):
    """L W = W M, with M = diag(values) + coupling; and W⁻¹. The coupling is zero here,
    but free to move inside ties.

    With G = W⁻¹L̇W the tangents are `Ṁ = G` on the diagonal and inside ties, and
    `Ẇ = W Y`, where `Y M − M Y = G` elsewhere: `y_ij = g_ij / (λ_j − λ_i)` (Magnus 1985;
    Giles 2008, section 3). The coupling is kept because its tangents inside a tie enter
    the second derivatives of every other pair.
    """
    if t_matrix is None:
        return None, None, None, None
    values, coupling, w, duals = found
    eye = jnp.eye(both.shape[0], dtype=w.dtype)
    w, duals = jnp.where(both, w, eye), jnp.where(both, duals, eye)
    l, coupling, t = (jnp.where(both, x, 0) for x in (matrix, coupling, t_matrix))
    values = jnp.where(jnp.diagonal(both), values, 0)
    t_w, t_m = _tangents(l, values, coupling, w, duals, t, apart, skewed)
    # The columns of W⁻ᵀ are the vectors of Lᵀ.
    t_duals, _ = _tangents(l.T, values, coupling.T, duals.T, w.T, t.T, apart, skewed)
    t_coupling = jnp.where(jnp.eye(both.shape[0], dtype=bool), 0, t_m)
    return _diagonal(t_m), t_coupling, t_w, t_duals.T


def _tangents(
    matrix: Inexact[Array, "m m"],
    values: Complex[Array, " m"],
    coupling: Complex[Array, "m m"],
    w: Complex[Array, "m m"],
    duals: Complex[Array, "m m"],
    t: Inexact[Array, "m m"],
    apart: Bool[Array, "m m"],
    skewed: Bool[Array, ""],
) -> tuple[Complex[Array, "m m"], Complex[Array, "m m"]]:
    """Ẇ and Ṁ of `Ẇ M − L Ẇ + W Ṁ = L̇ W`; where eigenvalues are not `apart`, W⁻¹Ẇ is
    zero and Ṁ is not.

    Ẇ = W Y combines nearly dependent vectors with large factors and a small result. The
    equation has no such numbers in the columns of other pairs: if some vectors are nearly
    dependent, the solution is refined by its residual.

    A column is NaN if it exceeds its right side by the inverse of the rounding of L: then
    fewer than two of its digits are known.
    """

    def equation(x: tuple[Array, Array], matrices: tuple) -> tuple[Array, Array]:
        l, values, coupling, w, duals = matrices
        t_w, t_m = x
        inside = w @ jnp.where(apart, 0, t_m)
        bound = jnp.where(apart, t_m, duals @ t_w)
        return t_w * values + t_w @ coupling - _product(l, t_w) + inside, bound

    known = matrix, values, coupling, w, duals
    fixed = jax.lax.stop_gradient(known)

    def inverse(rhs: tuple[Array, Array]) -> tuple[Array, Array]:
        r, bound = rhs
        _, values, _, w, duals = fixed
        # Multiplying by zero keeps the NaN of what has no derivative.
        gap = jnp.where(apart, values[None, :] - values[:, None], 1)
        g = _product(duals, r)
        inside = g * jnp.where(apart, 1 / gap, 0) + jnp.where(apart, 0, bound)
        return _product(w, inside), jnp.where(apart, bound, g)

    def image(x: tuple) -> tuple:
        return equation(x, fixed)

    def refined(rhs: Callable, first: tuple, image: Callable, inverse: Callable) -> tuple:
        """The solution for `first`; and, for use if vectors are `skewed`, the one for
        `rhs()`."""
        known = inverse(first)
        return known, only_if(skewed, lambda x: _in_rounds(rhs, image, inverse, x), known)

    eps = float(jnp.finfo(w.dtype).eps)
    norm = jnp.linalg.norm(fixed[0])

    def sure(x: tuple[Array, Array], size: Array) -> tuple[Array, Array]:
        """x, or NaN in columns where it is too large for right sides of that `size`."""
        lost = eps * norm * _norms(x[0], 0) > 0.01 * size
        asked = size > 10 * size.size * eps * jnp.max(size)
        return jnp.where(lost & asked, jnp.nan, x[0]), x[1]

    def solve(rhs: tuple[Array, Array]) -> tuple[Array, Array]:
        (t_w, t_m), (better, _) = refined(lambda: rhs, rhs, image, inverse)
        # Ẇ only: the rounding of Ṁ cancels in functions symmetric in close values.
        return sure((jnp.where(skewed, better, t_w), t_m), _norms(rhs[0], 0))

    def solve_transposed(ct: tuple[Array, Array]) -> tuple[Array, Array]:
        back, inverse_back = (_transposed(fn, ct) for fn in (image, inverse))
        first = jnp.where(skewed, 0 * ct[0], ct[0]), ct[1]
        known, better = refined(lambda: (ct[0], 0 * ct[1]), first, back, inverse_back)
        found = jtu.tree_map(lambda k, b: jnp.where(skewed, k + b, k), known, better)
        return sure(found, _norms(ct[0], 0) + norm * _norms(ct[1], 0))

    rhs = _product(t, w)
    solution = jax.lax.custom_linear_solve(
        lambda x: equation(x, known),
        # The zero is made from a tangent; otherwise JAX cannot transpose the solve.
        (rhs, jnp.where(False, rhs, 0)),
        lambda _, rhs: solve(rhs),
        lambda _, ct: solve_transposed(ct),
    )
    t_w, t_m = joined(*solution)
    return t_w, t_m


def _in_rounds(rhs: Callable, image: Callable, inverse: Callable, like: tuple) -> tuple:
    """The solution for `rhs()`, refined twice."""

    def round(_, x: tuple) -> tuple:
        rest = jtu.tree_map(jnp.subtract, rhs(), image(x))
        return jtu.tree_map(jnp.add, x, inverse(rest))

    return jax.lax.fori_loop(0, 3, round, jtu.tree_map(jnp.zeros_like, like))


def _product(t: Inexact[Array, "m m"], w: Complex[Array, "m m"]) -> Complex[Array, "m m"]:
    """t W; for a real t by two real products."""
    if jnp.iscomplexobj(t):
        return t @ w
    return jax.lax.complex(t @ w.real, t @ w.imag)


def _diagonal(x: Inexact[Array, "m m"]) -> Inexact[Array, " m"]:
    """The diagonal of x, as a sum: its transpose is no scatter."""
    return jnp.sum(jnp.where(jnp.eye(len(x), dtype=bool), x, 0), axis=0)


def _transposed(fn: Callable, like: tuple) -> Callable:
    return lambda x: jax.linear_transpose(fn, like)(x)[0]
