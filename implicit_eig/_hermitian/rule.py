"""The rule for Hermitian pencils: tangents of (V, M) with `A V = B V M`, `Vᴴ B V = I`.

M is the diagonal of the eigenvalues and the coupling of tied ones, which is zero here but
free to move: with R = ȦV − ḂVM and G = VᴴR,

    Ṁ = G on the diagonal and inside ties,        V̇ = V K + Y,
    K M − M K = G elsewhere,    K = −½ VᴴḂV there,
    A Y − B Y M = −R + B V G,   Vᴴ B Y = 0.

Eigenvalues need no solve. Y is the part outside the selected subspace; where all pairs
are at hand there is none. (Magnus 1985; Nelson 1976 for one vector.)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact

from .._ad import joined, root
from .._operator import complex_dtype, Pencil
from .._rule.adjoint import SylvesterSolve
from .._rule.bordered import solve_bordered
from .._rule.rule import along, triangle
from .minres import MinresSolve


def hermitian_root(pencil, eigenvalues, vectors, signal, *, active, apart, solve):
    """The pairs (λ, V) of `pencil`, found elsewhere, made differentiable, and between
    them the coupling M − Λ of those that tie; m zeros, the tangents of which are NaN for
    vectors whose linear solve failed, and the `signal` (see `block_root`).

    Columns that are not `active` have zero tangents. `apart` says which pairs do not tie.
    Without `solve` the columns are all there are.
    """
    coupling = jnp.zeros(apart.shape, vectors.dtype)
    found = eigenvalues, coupling, vectors, jnp.zeros_like(eigenvalues), signal
    return _hermitian_root(found, pencil, active=active, apart=apart, solve=solve)


@root
def _hermitian_root(found, t_found, pencil, t_pencil, *, active, apart, solve):
    values, coupling, vectors, _, signal = found
    t_signal = t_found[-1]
    v = jnp.where(active, vectors, 0)
    # An idle entry stands for a system with a zero right side, regular as the first one.
    values = jnp.where(active, values, jax.lax.stop_gradient(values[0]))
    matrix = jnp.diag(values).astype(v.dtype) + jnp.where(_both(active), coupling, 0)
    rhs = along(t_pencil, pencil, lambda p: p.mm(v))
    inside, bound = _hermitian(v.conj().T @ rhs), jnp.zeros_like(matrix)
    if pencil.mass is not None:
        image = along(t_pencil, pencil, lambda p: p.mass_mm(v))
        bound = _hermitian(v.conj().T @ image)
        rhs, inside, bound = rhs - image @ matrix, inside - bound @ matrix, -bound / 2
    diagonal = jnp.eye(active.size, dtype=bool)
    t_values = jnp.sum(jnp.where(diagonal, inside.real, 0), axis=0)
    t_coupling = jnp.where(apart | diagonal | ~_both(active), 0, inside)
    k = _rotation(values, matrix, jnp.where(apart, inside, bound), apart)
    t_vectors, mark = v @ k, jnp.zeros_like(t_values)
    t_signal = jnp.zeros_like(signal) if t_signal is None else t_signal
    t_signal = t_signal + 0 * jnp.sum(t_values)
    if solve is not None:
        outside = _outside(pencil, v, matrix, rhs, active, solve, t_signal)
        t_vectors = t_vectors + outside[0]
        mark, t_signal = outside[1:]
    return t_values, t_coupling, t_vectors, mark, t_signal


def _hermitian(x: Inexact[Array, "m m"]) -> Inexact[Array, "m m"]:
    """Of a change that is not Hermitian its Hermitian part counts."""
    return (x + x.conj().T) / 2


def _both(active: Bool[Array, " m"]) -> Bool[Array, "m m"]:
    return active[:, None] & active[None, :]


def _rotation(
    values: Float[Array, " m"],
    matrix: Inexact[Array, "m m"],
    rhs: Inexact[Array, "m m"],
    apart: Bool[Array, "m m"],
) -> Inexact[Array, "m m"]:
    """K with `K M − M K = rhs` where pairs are apart, `K = rhs` where not."""
    fixed = jax.lax.stop_gradient(values)
    gap = jnp.where(apart, fixed[None, :] - fixed[:, None], 1).astype(rhs.dtype)

    def divided(_, rhs: Array) -> Array:
        return rhs / gap

    return jax.lax.custom_linear_solve(
        lambda k: jnp.where(apart, k @ matrix - matrix @ k, k), rhs, divided, divided
    )


def _outside(
    pencil: Pencil,
    v: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
    rhs: Inexact[Array, "n m"],
    active: Bool[Array, " m"],
    solve: MinresSolve | SylvesterSolve,
    signal: Float[Array, ""],
) -> tuple[Inexact[Array, "n m"], Float[Array, " m"], Float[Array, ""]]:
    """Y, the mark of failed solves, and the signal."""
    if isinstance(solve, SylvesterSolve):
        return _by_sylvester(pencil, v, matrix, rhs, active, solve, signal)
    image = pencil.mass_mm(v)
    values = jax.lax.stop_gradient(jnp.diagonal(matrix).real)
    fixed = jax.lax.stop_gradient(v)
    scale = jnp.max(jnp.abs(values))
    scale = jnp.where(scale > 0, scale, 1).astype(v.dtype)

    def project(x: Array) -> Array:
        return x - image @ (v.conj().T @ x)

    def matvec(unknowns: tuple) -> tuple:
        y, mark, signal = unknowns
        inside = image.conj().T @ y
        z = y - v @ inside
        out = project(pencil.sylvester(z, matrix))
        # The mark times zero: derivatives of a solution of which a part failed are NaN.
        zero = 0 * jnp.sum(matrix.real) * jnp.sum(mark)
        return out + scale * image @ inside, mark + zero, signal

    def solved(_, right: tuple) -> tuple:
        rhs, mark, signal = right
        y, failed, error = solve(fixed, values, rhs)
        y = y + fixed @ (fixed.conj().T @ rhs) / scale
        failed = failed & active
        error = jnp.where(jnp.any(failed), error, 0)
        return y, jnp.where(failed, jnp.nan, mark), signal + error

    def solved_transposed(_, right: tuple) -> tuple:
        rhs, mark, signal = right
        rhs = rhs.conj()
        y, failed, error = solve(fixed, values, rhs)
        y = y + fixed @ (fixed.conj().T @ rhs) / scale
        # A cotangent is a sum over the pairs.
        failed = jnp.any(failed & active)
        y = jnp.where(failed, jnp.nan, y.conj())
        return y, mark, signal + jnp.where(failed, error, 0)

    # Zeros that depend on the right side: JAX cannot transpose the solve otherwise.
    right = -rhs, 0 * jnp.sum(rhs.real, axis=0), signal
    y, mark, signal = joined(
        *jax.lax.custom_linear_solve(matvec, right, solved, solved_transposed)
    )
    # Its part along V is taken off only here: solvers see how large the whole right side
    # is, in either mode, by which they know what is left of it for rounding.
    return y + v @ (v.conj().T @ rhs) / scale, mark, signal


def _by_sylvester(
    pencil: Pencil,
    v: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
    rhs: Inexact[Array, "n m"],
    active: Bool[Array, " m"],
    solve: SylvesterSolve,
    signal: Float[Array, ""],
) -> tuple[Inexact[Array, "n m"], Float[Array, " m"], Float[Array, ""]]:
    """By the solver that was asked for: the bordered system of X = V T⁻¹, which has
    orthonormal columns."""
    t = jnp.eye(active.size, dtype=v.dtype)
    x, l, right = v, matrix, rhs
    if pencil.mass is not None:
        t = triangle(jax.lax.stop_gradient(v), active)
        inverse = jnp.linalg.inv(t)
        x, l, right = v @ inverse, t @ matrix @ inverse, rhs @ inverse
    coordinates = t.astype(complex_dtype(t.dtype))
    found = solve_bordered(pencil, x, l, -right, active, solve, coordinates, signal)
    y = found.outside @ t
    if pencil.mass is not None:
        y = y - v @ (v.conj().T @ pencil.mass_mm(y))
    return y, found.mark, found.signal
