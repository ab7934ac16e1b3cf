"""What an eigensolver returns, and the base class of eigensolvers."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int

from .._operator import Pencil
from .._progress_meter import AbstractProgressMeter
from .._solution import RESULTS
from .._transformation import AbstractTransformation
from .._which import AbstractSelection, order


class Spectrum(eqx.Module):
    """All pairs of `A v = λ B v`, with `Uᴴ B V = I`."""

    eigenvalues: Complex[Array, " n"]
    right: Complex[Array, "n n"]  # V
    left: Complex[Array, "n n"]  # U
    selected: Bool[Array, " n"]
    norm: Float[Array, ""]  # of A

    def transpose(self) -> "Spectrum":
        """That of the transposed pencil."""
        right, left = self.left.conj(), self.right.conj()
        return Spectrum(self.eigenvalues, right, left, self.selected, self.norm)


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
    - `outside`: for each column, of the eigenvalues at hand that are not in the block (of
        a Krylov run, Ritz values) the nearest one, NaN where there is none; or `None`.
    - `transformation`: that of the Krylov run which found the pairs; solvers of their
        derivatives use it, and its factor, again.
    - `spectrum`: all pairs, where the eigensolver found them all, for the same use.
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
    spectrum: Spectrum | None = None
    outside: Complex[Array, " m"] | None = None

    @classmethod
    def from_pairs(
        cls,
        pencil: Pencil,
        selection: AbstractSelection,
        k: int,
        eigenvalues: Complex[Array, " p"],
        eigenvectors: Complex[Array, "n p"],
        *,
        rtol: float | None = None,
        stats: dict[str, Any] | None = None,
    ) -> "InvariantBlock":
        """The k best of p ≥ k eigenpairs found in any way, of which those count as
        converged that have a residual of at most `rtol · |λ|` (default: `sqrt(eps)`), or
        of rounding. Vectors of unit norm; NaN where there is none.

        For a real pencil conjugate partners must stand side by side, the positive
        imaginary part first, as `geev` gives them; give p > k where the pair at k may be
        cut. Without left basis: `eigs(left=True)` refuses the eigensolver.
        """
        is_real = pencil.is_real and selection.keeps_pairs
        eps = float(jnp.finfo(eigenvalues.dtype).eps)
        accuracy = jnp.full(
            eigenvalues.size, 10 * eps * jnp.nanmax(jnp.abs(eigenvalues))
        )
        perm, second, wanted = choose(
            selection, k, eigenvalues, eigenvectors, is_real, accuracy
        )
        w, v = eigenvalues[perm], eigenvectors[:, perm]
        # Something to stand for a vector that does not exist.
        there = jnp.all(jnp.isfinite(v), axis=0) & jnp.isfinite(w)
        start = jax.random.normal(jax.random.key(0), v.shape, v.real.dtype)
        v, w = jnp.where(there, v, start.astype(v.dtype)), jnp.where(there, w, 0)
        basis = schur_basis(v, second, is_real)
        coordinates = leading(wanted, basis.conj().T.astype(v.dtype) @ v)
        matrix, residuals, ax, bx = galerkin(pencil, basis, w, coordinates)
        eps = float(jnp.finfo(residuals.dtype).eps)
        norm = jnp.maximum(jnp.max(jnp.abs(w)), jnp.linalg.norm(ax) / w.size**0.5)
        size = jnp.abs(w) * jnp.linalg.norm(bx) / w.size**0.5
        rtol = eps**0.5 if rtol is None else rtol
        enough = jnp.maximum(rtol * size, 1e3 * eps * norm)
        active = wanted & there & (residuals <= enough)
        converged = jnp.sum(active[:k])
        counts = {"num_matvecs": 0, "num_restarts": 0, "num_converged": converged}
        counts |= {} if stats is None else stats
        return cls(
            basis=basis,
            matrix=leading(active, matrix),
            eigenvalues=jnp.where(there, w, jnp.nan),
            coordinates=coordinates,
            left_basis=None,
            active=active,
            residuals=jnp.where(there, residuals, jnp.nan),
            norm=norm,
            stats={name: jnp.asarray(count) for name, count in counts.items()},
            result=RESULTS.where(
                converged == k, RESULTS.successful, RESULTS.not_converged
            ),
            outside=nearest_outside(eigenvalues, perm, wanted),
        )


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

    !!! Example

        Subspace iteration (Bauer 1957), for eigenvalues of largest modulus:

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        class SubspaceIteration(ieig.AbstractEigensolver):
            num_steps: int = 300

            def compute(self, pencil, selection, k, *, v0, left, progress_meter):
                x = jax.random.normal(jax.random.key(0), (pencil.n, 2 * k), pencil.dtype)

                def step(_, x):
                    return jnp.linalg.qr(pencil.mm(x))[0]

                x = jax.lax.fori_loop(0, self.num_steps, step, x)
                w, y = jnp.linalg.eig(x.conj().T @ pencil.mm(x))
                return ieig.InvariantBlock.from_pairs(
                    pencil, selection, k, w, x.astype(y.dtype) @ y,
                    stats={"num_matvecs": 2 * k * (self.num_steps + 1)},
                )

        a = jnp.diag(jnp.arange(6.0)).at[0, 5].set(1.0)
        ieig.eigs(a, k=2, eigensolver=SubspaceIteration())
        ```
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


def nearest_outside(
    eigenvalues: Complex[Array, " p"], chosen: Int[Array, " m"], wanted: Bool[Array, " m"]
) -> Complex[Array, " m"]:
    """For each eigenvalue `chosen` and `wanted` the nearest one that is not; NaN where
    there is none."""
    inside = jnp.zeros(eigenvalues.size, bool).at[chosen].set(wanted)
    there = jnp.isfinite(eigenvalues)
    across = (wanted & there[chosen])[:, None] & (~inside & there)
    gap = jnp.abs(eigenvalues[chosen][:, None] - eigenvalues)
    gap = jnp.where(across, gap, jnp.inf)
    nearest = jnp.argmin(gap, axis=1)
    known = jnp.isfinite(jnp.min(gap, axis=1))
    return jnp.where(known, eigenvalues[nearest], jnp.nan)


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


def choose(
    selection: AbstractSelection,
    k: int,
    eigenvalues: Complex[Array, " p"],
    eigenvectors: Complex[Array, "n p"],
    is_real: bool,
    accuracy: Float[Array, " p"],
) -> tuple[Int[Array, " m"], Bool[Array, " m"], Bool[Array, " m"]]:
    """The k best, and of a real operator one more: their indices, which are second of a
    pair, which are wanted (the last one may be there for nothing)."""
    m = min(k + 1, eigenvalues.size) if is_real else k
    target, overlaps = selection.target(), None
    if target is not None:
        overlaps = jnp.abs(target.conj().astype(eigenvectors.dtype) @ eigenvectors)
    found = order(selection, eigenvalues, overlaps, is_real, accuracy)
    second = found.second[:m]
    return found.permutation[:m], second, (jnp.arange(m) < k) | second


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
