"""What an eigensolver returns, and the base class of eigensolvers."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact

from .._operator import Pencil
from .._progress_meter import AbstractProgressMeter
from .._solution import RESULTS
from .._transformation import AbstractTransformation
from .._which import AbstractSelection


class InvariantBlock(eqx.Module):
    """The selected pairs as one block: `A X = B X L`, and `L W = W diag(λ)`.

    Columns stand best first, those that are not `active` last. There may be more than k
    of them: for a real operator X and L are real, so a conjugate pair whose second
    member is not wanted is kept whole.

    **Attributes:**

    - `basis`: X, shape `(n, m)`, orthonormal columns.
    - `matrix`: L, shape `(m, m)`. Active columns span an invariant subspace of their
        own, so L has no entries below them.
    - `eigenvalues`, `coordinates`: λ and W. Active columns of W are zero in rows that
        are not active.
    - `left_basis`: C with `Cᴴ A = L Cᴴ B` and `Cᴴ B X = I` on active columns, or `None`.
    - `active`: whether a column may be differentiated: wanted (or the partner of a
        wanted one) and converged.
    - `residuals`: `‖A v − λ B v‖ / ‖v‖` of the pairs.
    - `norm`: an estimate of `‖A‖`.
    - `transformation`: that of the Krylov run which found the pairs; solvers of their
        derivatives use it, and its factor, again.
    """

    basis: Inexact[Array, "n m"]
    matrix: Inexact[Array, "m m"]
    eigenvalues: Complex[Array, " m"]
    coordinates: Complex[Array, "m m"]
    left_basis: Inexact[Array, "n m"] | None
    active: Bool[Array, " m"]
    residuals: Float[Array, " m"]
    norm: Float[Array, ""]
    stats: dict[str, Any]
    result: RESULTS
    transformation: AbstractTransformation | None = None


def without(
    block: InvariantBlock, useless: Bool[Array, ""], result: RESULTS
) -> InvariantBlock:
    """The block, reported by `result` and without derivatives where it is `useless`."""
    return eqx.tree_at(
        lambda b: (b.active, b.result),
        block,
        (block.active & ~useless, RESULTS.where(useless, result, block.result)),
    )


class AbstractEigensolver(eqx.Module):
    """Finds the selected eigenpairs of a pencil. No derivatives: they are the rule's.

    A subclass implements `compute`. Whatever it runs, the derivative of its pairs is
    taken by the implicit rule at the pairs it returns.
    """

    @abc.abstractmethod
    def compute(
        self,
        pencil: Pencil,
        selection: AbstractSelection,
        k: int,
        *,
        v0: Inexact[Array, " n"] | None,
        left: bool,
        progress_meter: AbstractProgressMeter,
    ) -> InvariantBlock:
        """Returns the `k` best pairs of `pencil` in the sense of `selection`.

        `v0` is a start vector or `None`; `left` asks for the left basis. Runs under
        `jit` and `vmap`.
        """


class Galerkin(NamedTuple):
    """`matrix` is L with `A X ≈ B X L`; `residuals` are the true ones, `‖Av − λBv‖/‖v‖`,
    of the pairs (λ, X W)."""

    matrix: Inexact[Array, "m m"]
    residuals: Float[Array, " m"]
    ax: Inexact[Array, "n m"]
    bx: Inexact[Array, "n m"]


def galerkin(
    pencil: Pencil,
    basis: Inexact[Array, "n m"],
    eigenvalues: Complex[Array, " m"],
    coordinates: Complex[Array, "m m"],
) -> Galerkin:
    """What A and B make of the span of X, at one block product with each.

    With R = A X − B X L a pair has the defect `R w + B X (L w − λ w)`, whose norm needs
    m×m matrices only: no further block of n-vectors is formed.
    """
    ax, bx = pencil.mm(basis), pencil.mass_mm(basis)
    if pencil.mass is None:
        matrix = basis.conj().T @ ax
    else:
        q, r = jnp.linalg.qr(bx)
        # B may map a column that is not in use to nothing.
        size = jnp.abs(jnp.diagonal(r))
        kept = size > r.shape[0] * jnp.finfo(size.dtype).eps * jnp.max(size)
        r = jnp.where(kept[:, None], r, jnp.eye(r.shape[0], dtype=r.dtype))
        right = jnp.where(kept[:, None], q.conj().T @ ax, 0)
        matrix = jax.scipy.linalg.solve_triangular(r, right)
    rest = ax - bx @ matrix
    inside = matrix.astype(coordinates.dtype) @ coordinates - coordinates * eigenvalues

    def products(left, gram, right):
        inner = jnp.sum(left.conj() * (gram.astype(right.dtype) @ right), axis=0)
        return inner.real

    square = (
        products(coordinates, rest.conj().T @ rest, coordinates)
        + 2 * products(coordinates, rest.conj().T @ bx, inside)
        + products(inside, bx.conj().T @ bx, inside)
    )
    size = products(coordinates, basis.conj().T @ basis, coordinates)
    size = jnp.where(size > 0, size, 1)
    return Galerkin(matrix, jnp.sqrt(jnp.maximum(square, 0) / size), ax, bx)


def biorthogonal(
    pencil: Pencil,
    left: Inexact[Array, "n m"],
    basis: Inexact[Array, "n m"],
    active: Bool[Array, " m"],
) -> Inexact[Array, "n m"]:
    """The basis C of the active columns' span of `left` with `Cᴴ B X = I` on them."""
    left = jnp.where(active, left, 0)
    gram = left.conj().T @ pencil.mass_mm(basis)
    both = active[:, None] & active[None, :]
    gram = jnp.where(both, gram, jnp.eye(active.size, dtype=gram.dtype))
    return left @ jnp.linalg.inv(gram).conj().T


def of_moderate_size(
    a: Inexact[Array, "*batch n n"],
) -> tuple[Inexact[Array, "*batch n n"], Float[Array, "*batch 1 1"]]:
    """`a / s` and s: 1, or for entries of extreme size the power of two that makes the
    largest of `a / s` about 1.

    For `geev`, which scales matrices of extreme size itself, and in some LAPACKs forgets
    to scale the eigenvalues back.
    """
    largest = jnp.max(jnp.abs(a), axis=(-2, -1), keepdims=True)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 1))
    least = float(jnp.finfo(a.dtype).tiny) ** 0.25
    extreme = (largest > 0) & ((largest < least) | (largest > 1 / least))
    size = jnp.where(extreme, jnp.ldexp(jnp.ones_like(largest), exponent - 1), 1)
    return times_real(a, 1 / size), size


def times_real(x: Inexact[Array, "*n"], size: Float[Array, "*n"]) -> Inexact[Array, "*n"]:
    """`x · size`, part by part: nothing overflows on the way."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(x.real * size, x.imag * size)
    return x * size


def leading(active: Bool[Array, " m"], x: Inexact[Array, "m m"]) -> Inexact[Array, "m m"]:
    """Without the entries below the active columns, which are rounding errors."""
    return jnp.where(active[:, None] | ~active[None, :], x, 0)


def combine(
    basis: Inexact[Array, "n m"], coordinates: Complex[Array, "m k"]
) -> Complex[Array, "n k"]:
    """X W; a real X is never cast to complex."""
    if jnp.iscomplexobj(basis):
        return basis @ coordinates
    return jax.lax.complex(basis @ coordinates.real, basis @ coordinates.imag)


def schur_basis(
    vectors: Complex[Array, "m m"], second: Bool[Array, " m"], is_real: bool
) -> Inexact[Array, "m m"]:
    """Orthonormal Q whose leading columns span the leading eigenvectors.

    For a real matrix a pair (v, v̄) spans what (Re v, Im v) does, and Q is real.
    """
    if is_real:
        vectors = jnp.where(second, vectors.imag, vectors.real)
    return jnp.linalg.qr(vectors)[0]
