"""The Schur form of a projected matrix: its eigenpairs, and the basis a restart keeps.

The kernels make one Schur form for both, and reorder it (LAPACK's `gees`, `trevc` and
`trexc`), as SLEPc does. XLA cannot reorder. Without kernels the eigenvectors come from
`device_eig`, and the basis from their QR factorisation, which Newton's method repairs
where they are nearly dependent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Inexact, Int

from .._batch import only_if
from .._kernels import kernel
from .._numerics import device_eig, solve
from .._operator import of_moderate_size, times_real


class SchurForm(NamedTuple):
    """`A = Z T Zᴴ`, and the eigenpairs of A in the order of the diagonal of T. Without
    the kernel, T and Z are left out: both are A."""

    values: Complex[Array, " m"]
    vectors: Complex[Array, "m m"]  # of unit norm
    triangle: Inexact[Array, "m m"]  # T
    turn: Inexact[Array, "m m"]  # Z


@kernel("schur")
def schur_form(matrix: Inexact[Array, "m m"]) -> SchurForm:
    moderate, size = of_moderate_size(_without_rounding(matrix))
    values, vectors = device_eig(moderate)
    return SchurForm(times_real(values, size[0]), vectors, matrix, matrix)


def _without_rounding(matrix: Inexact[Array, "m m"]) -> Inexact[Array, "m m"]:
    """The matrix without the rounding errors below its diagonal. `geev` balances: it
    would enlarge them."""
    row, column = (jax.lax.broadcasted_iota(int, matrix.shape, axis) for axis in (0, 1))
    size = jnp.abs(matrix)
    least = float(jnp.finfo(matrix.dtype).eps) * jnp.max(size)
    return matrix * ((row <= column) | (size > least)).astype(matrix.dtype)


@kernel("reorder")
def leading_basis(
    keep: Int[Array, ""],
    order: Int[Array, " m"],
    second: Bool[Array, " m"],
    values: Complex[Array, " m"],
    vectors: Complex[Array, "m m"],
    matrix: Inexact[Array, "m m"],
    triangle: Inexact[Array, "m m"],
    turn: Inexact[Array, "m m"],
) -> Inexact[Array, "m m"]:
    """Orthonormal Q whose leading `keep` columns span an invariant subspace of `matrix`:
    that of its first eigenpairs `values` and `vectors`, which stand in the Schur form in
    the places `order`. A pair is `second` if its conjugate partner comes before it, and
    `keep` separates no partners."""
    del order, triangle, turn
    q = schur_basis(vectors, second, not jnp.iscomplexobj(matrix))
    return sharpened(matrix, q, keep, values, vectors)


def sharpened(
    matrix: Inexact[Array, "m m"],
    q: Inexact[Array, "m m"],
    p: Int[Array, ""],
    values: Complex[Array, " m"],
    vectors: Complex[Array, "m m"],
) -> Inexact[Array, "m m"]:
    """q, improved until its leading p columns span an invariant subspace of `matrix` to
    rounding.

    Eigenvectors of a nearly defective matrix are nearly dependent, which makes an
    orthonormal basis of their span inaccurate to the same degree. Newton's method on the
    Riccati equation of the subspace (Stewart 1973) repairs it: with T = qᴴ A q, solve
    `T₂₂ P − P T₁₁ = −T₂₁` and turn span(q₁) into span(q₁ + q₂ P).
    """
    m = matrix.shape[0]
    lead = jnp.arange(m) < p
    across = ~lead[:, None] & lead[None, :]
    same = lead[:, None] == lead[None, :]
    enough = 10 * jnp.finfo(q.dtype).eps * jnp.linalg.norm(matrix)
    gap = jnp.where(across, values[:, None] - values[None, :], 1)
    gap = jnp.where(gap == 0, enough.astype(gap.dtype), gap)

    def newton(q: Array, t: Array) -> Array:
        """The Sylvester equation by the eigenvectors of T₁₁ and T₂₂."""
        w = jnp.where(same, q.conj().T.astype(vectors.dtype) @ vectors, 0)
        g = solve(w, t.astype(w.dtype) @ w) / gap
        y = -solve(w, w @ jnp.where(across, g, 0), left_side=False)
        y = jnp.where(across, y if jnp.iscomplexobj(q) else y.real, 0)
        return jnp.linalg.qr(q @ (jnp.eye(m, dtype=q.dtype) + y - y.conj().T))[0]

    def look(state: tuple) -> tuple:
        best, least, q, rounds, _ = state
        t = jnp.where(across, q.conj().T @ matrix @ q, 0)
        size = jnp.linalg.norm(t)
        better = size < least
        again = better & (size > enough) & (rounds < 5)
        best, least = jnp.where(better, q, best), jnp.minimum(size, least)
        return best, least, only_if(again, lambda q: newton(q, t), q), rounds + 1, again

    init = q, jnp.inf * enough, q, jnp.asarray(0), jnp.asarray(True)
    return jax.lax.while_loop(lambda state: state[-1], look, init)[0]


def schur_basis(
    vectors: Complex[Array, "m m"], second: Bool[Array, " m"], is_real: bool
) -> Inexact[Array, "m m"]:
    """Orthonormal Q whose leading columns span the leading eigenvectors.

    For a real matrix, a pair (v, v̄) is replaced by (Re v, Im v), and Q is real.
    """
    if is_real:
        vectors = jnp.where(second, vectors.imag, vectors.real)
    return jnp.linalg.qr(vectors)[0]
