"""The rule that differentiates everything: tangents of the block root (X, L).

    F(X, L; A, B) = (A X − B X L,  Cᴴ X − I) = 0

By the implicit function theorem, the tangents of X and L solve one bordered Sylvester
system. JAX transposes the rule for reverse mode and differentiates it again for higher
orders: X and L inside the rule come from the differentiable function itself.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Inexact

from .._ad import root
from .._operator import Pencil
from .bordered import solve_bordered
from .symmetric import symmetric_left_tangent


def block_root(pencil, block, signal, *, coordinates, solve):
    """Makes the invariant block (X, L, C) of `pencil`, found elsewhere, differentiable.

    X, L and C (or `None`) are returned unchanged; their tangents depend on those of the
    pencil alone. Columns that are not active have zero tangents. Also returns m zeros,
    one for each pair (column of `coordinates`), whose tangents are NaN if the linear
    solve for the pair failed: add them to what is made of X without C. `signal` is a zero
    that is passed on, to carry the error of a failed solve: in its tangent in forward
    mode, in the cotangent of the argument in reverse mode.
    """
    mark = jnp.zeros(block.active.shape, block.matrix.real.dtype)
    found = block.basis, block.matrix, block.left_basis, mark, signal
    return _block_root(
        found,
        pencil,
        coordinates=coordinates,
        active=block.active,
        solve=solve,
        symmetric=block.symmetric,
    )


@root
def _block_root(
    found, t_found, pencil, t_pencil, *, coordinates, active, solve, symmetric
):
    """Any tangent with `AẊ + ȦX = BẊL + ḂXL + BXL̇` will do for what users see, since
    pairs, projectors and functions of them do not depend on the basis of span(X). Without
    a left basis, take the one with `XᴴẊ = 0` at the base point; the solve also gives L̇.
    With a left basis, take `CᴴBẊ = 0`, for which `L̇ = Cᴴ(ȦX − ḂXL)` needs no solve.
    """
    basis, matrix, left_basis, _, signal = found
    t_signal = t_found[-1]
    x, l = _only(active, basis, matrix)
    # ȦX − ḂXL
    rhs = along(t_pencil, pencil, lambda p: p.sylvester(x, l))
    if t_signal is None:
        t_signal = jnp.zeros_like(signal)
    # The zero depends on the right side; otherwise JAX cannot transpose the solve.
    t_signal = t_signal + 0 * jnp.sum(rhs.real).astype(t_signal.dtype)
    solution = solve_bordered(pencil, x, l, -rhs, active, solve, coordinates, t_signal)
    t_basis, t_matrix, t_left = solution.outside, solution.inside, None
    if left_basis is not None:
        c = jnp.where(active, left_basis, 0)
        t_matrix = c.conj().T @ rhs
        t_basis = t_basis - x @ (c.conj().T @ pencil.mass_mm(t_basis))
        if symmetric:
            t_image = along(t_pencil, pencil, lambda p: p.mass_mm(x))
            t_left = symmetric_left_tangent(pencil, t_image, x, t_basis, active)
            t_signal = solution.signal
        else:
            t_left, t_signal = _left_tangent(
                t_pencil, pencil, (x, l, c), t_basis, active, solve, solution.signal
            )
        # Kept dual to the whole of X.
        t_left = t_left + jnp.sum(solution.mark).astype(t_left.dtype)
        return t_basis, t_matrix, t_left, solution.mark, t_signal
    return t_basis, t_matrix, t_left, solution.mark, solution.signal


def _only(
    active: Bool[Array, " m"],
    basis: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
) -> tuple[Inexact[Array, "n m"], Inexact[Array, "m m"]]:
    """The active part; the other columns are zero and decoupled from it."""
    both = active[:, None] & active[None, :]
    # An idle diagonal entry becomes the shift of a system with a zero right side; this
    # system is regular if the shift is an eigenvalue in use.
    idle = jax.lax.stop_gradient(matrix[0, 0]) * jnp.eye(active.size, dtype=matrix.dtype)
    return jnp.where(active, basis, 0), jnp.where(both, matrix, idle)


def along(t_pencil, pencil: Pencil, fn: Callable[[Pencil], Array]) -> Array:
    """The tangent of `fn(pencil)`. Leaves that do not vary have `None` as tangent."""
    moving = jtu.tree_map(lambda t: t is not None, t_pencil, is_leaf=lambda t: t is None)
    dynamic, static = eqx.partition(pencil, moving)
    return jax.jvp(lambda p: fn(eqx.combine(p, static)), (dynamic,), (t_pencil,))[1]


def _left_tangent(t_pencil, pencil, found, t_x, active, solve, signal):
    """Ċ from AᴴC = BᴴCLᴴ, kept dual to X: d(CᴴBX) = 0; and the signal.

    conj(C) is a right block of the transposed pencil; so is Z, which has orthonormal
    columns, with conj(C) = Z T and T held constant.
    """
    x, l, c = found
    t = triangle(jax.lax.stop_gradient(c.conj()), active)
    t_inverse = jnp.linalg.inv(t)
    z, m = c.conj() @ t_inverse, t @ l.T @ t_inverse

    def residual(pencil: Pencil) -> Array:
        transposed = pencil.transpose()
        return transposed.sylvester(z, m)

    rhs = along(t_pencil, pencil, residual)
    solution = solve_bordered(
        pencil.transpose(), z, m, -rhs, active, solve.transpose(), signal=signal
    )
    t_c = (solution.outside @ t).conj()
    drift = t_c.conj().T @ pencil.mass_mm(x) + c.conj().T @ (
        along(t_pencil, pencil, lambda p: p.mass_mm(x)) + pencil.mass_mm(t_x)
    )
    return t_c - c @ drift.conj().T, solution.signal


def triangle(
    c: Inexact[Array, "n m"], active: Bool[Array, " m"]
) -> Inexact[Array, "m m"]:
    """The upper triangular T with C T⁻¹ orthonormal on the active columns.

    Uses Cholesky factorisations of Gram matrices, the first one shifted, so that C may be
    ill-conditioned (Fukaya, Kannan, Nakatsukasa, Yamamoto and Yanagisawa 2020).
    Householder reflections would gather the rows of a C that is sharded over devices.
    """
    both = active[:, None] & active[None, :]
    eye = jnp.eye(active.size, dtype=c.dtype)
    first = 10 * float(jnp.finfo(c.dtype).eps)

    def step(i, t: Array) -> Array:
        q = c @ jnp.linalg.inv(t)
        gram = q.conj().T @ q
        shift = jnp.where(i == 0, first, 0) * jnp.trace(gram)
        gram = jnp.where(both, gram, eye) + shift * eye
        return jnp.linalg.cholesky(gram).conj().T @ t

    return jax.lax.fori_loop(0, 3, step, eye)
