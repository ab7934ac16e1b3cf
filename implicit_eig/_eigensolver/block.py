"""What an eigensolver returns: the selected pairs as one invariant block."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact, Int

from .._batch import only_if
from .._krylov import leading, nearest_outside, schur_basis
from .._operator import complex_dtype, Pencil, safe_norm, times_real
from .._solution import RESULTS
from .._spectral import AbstractSelection, AbstractTransformation, order
from .rayleigh_ritz import biorthogonal, galerkin, left_defect, norms as norms_of


class Spectrum(eqx.Module):
    """All pairs of `A v = λ B v`, with `Uᴴ B V = I`."""

    eigenvalues: Complex[Array, " n"]
    right: Complex[Array, "n n"]  # V
    left: Complex[Array, "n n"]  # U
    selected: Bool[Array, " n"]
    norm: Float[Array, ""]  # of A

    def transpose(self) -> "Spectrum":
        """The spectrum of the transposed pencil."""
        right, left = self.left.conj(), self.right.conj()
        return Spectrum(self.eigenvalues, right, left, self.selected, self.norm)


class InvariantBlock(eqx.Module):
    """The selected pairs as one block: `A X = B X L`, and `L W = W diag(λ)`.

    The best columns come first, those that are not `active` last. There may be more than
    k of them: for a real operator X and L are real, so a conjugate pair is kept whole
    even if its second member is not wanted.

    **Attributes:**

    - `basis`: X, shape `(n, m)`, orthonormal columns.
    - `matrix`: L, shape `(m, m)`. The active columns by themselves span an invariant
        subspace, so L has no entries below them.
    - `eigenvalues`, `coordinates`: λ and W. Active columns of W are zero in rows that
        are not active.
    - `left_basis`: C with `Cᴴ A = L Cᴴ B` and `Cᴴ B X = I` on active columns, or `None`.
    - `active`: whether a column may be differentiated: wanted (or the partner of a
        wanted one) and converged.
    - `residuals`: `‖A v − λ B v‖ / ‖v‖` of the pairs.
    - `norm`, `mass_norm`: estimates of `‖A‖` and `‖B‖`.
    - `outside`: for each column, the nearest of the known eigenvalues that are not in the
        block (Ritz values, after a Krylov run), NaN if there is none; or `None`.
    - `transformation`: the one under which the Krylov run found the pairs; derivatives
        reuse it and its factor.
    - `spectrum`: all pairs, if the eigensolver found them all; reused likewise.
    - `position`: for each column, the place of its pair among those given to `of`.
    - `symmetric`: whether the pencil is its own transpose, and C is made from X.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig

        class Ours(ieig.AbstractEigensolver):
            def compute(self, pencil, selection, k, *, v0, left, progress_meter):
                w, v = jnp.linalg.eig(pencil.mm(jnp.eye(pencil.n, dtype=pencil.dtype)))
                return ieig.InvariantBlock.from_pairs(pencil, selection, k, w, v)

        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        ieig.eigs(a, k=1, eigensolver=Ours())
        ```
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
    mass_norm: Float[ArrayLike, ""] = 1.0
    position: Int[Array, " m"] | None = None
    symmetric: bool = eqx.field(static=True, default=False)

    @classmethod
    def from_pairs(
        cls,
        pencil: Pencil,
        selection: AbstractSelection,
        k: int,
        eigenvalues: Inexact[Array, " p"],
        eigenvectors: Inexact[Array, "n p"],
        *,
        left: Inexact[Array, "n p"] | None = None,
        rtol: float | None = None,
        stats: dict[str, Any] | None = None,
    ) -> "InvariantBlock":
        """The k best of p ≥ k eigenpairs, found in any way. A pair counts as converged if
        its residual is at most `rtol · |λ| ‖B‖` (default: `sqrt(eps)`), or rounding. Real
        or complex, of any scale; NaN for a pair that does not exist.

        For a real pencil, conjugate partners must stand side by side, the positive
        imaginary part first, as `geev` returns them; give p > k if a pair may be cut
        at k. `left` are left eigenvectors, `uᴴ A = λ uᴴ B`, in the same order. Without
        them `eigs(left=True)` refuses the eigensolver.
        """
        w, v, left = _as_complex(pencil, k, eigenvalues, eigenvectors, left)
        is_real = pencil.is_real and selection.keeps_pairs
        there = jnp.all(jnp.isfinite(v), axis=0) & jnp.isfinite(w)
        w, sound = jnp.where(there, w, jnp.nan), there
        if is_real:
            w, v, left, paired = _in_pairs(w, v, left)
            sound = there & paired
        eps = float(jnp.finfo(w.dtype).eps)
        accuracy = 10 * eps * jnp.max(jnp.where(there, jnp.abs(w), 0))
        accuracy = jnp.broadcast_to(accuracy, w.shape)
        perm, second, wanted = choose(selection, k, w, v, is_real, accuracy)
        rtol = eps**0.5 if rtol is None else rtol
        outside, there = nearest_outside(w, perm, wanted), there[perm]
        sound = sound[perm]
        # Random vectors take the place of those that do not exist.
        start = jax.random.normal(jax.random.key(0), v.shape, v.real.dtype)[
            :, : perm.size
        ]
        v = jnp.where(there, v[:, perm], start.astype(v.dtype))
        basis = schur_basis(v, second, is_real)
        duals = None
        if left is not None:
            dual = jnp.where(there, left[:, perm], start.astype(v.dtype))
            left_basis = schur_basis(dual, second, is_real)
            duals = left_basis, left_basis.conj().T.astype(dual.dtype) @ dual
        block = cls.of(
            pencil,
            basis,
            w[perm],
            basis.conj().T.astype(v.dtype) @ v,
            k=k,
            second=second,
            wanted=wanted,
            usable=sound,
            rtol=rtol,  # pyright: ignore[reportArgumentType]
            left=duals,
            outside=outside,
        )
        counts = {"num_matvecs": 0, "num_restarts": 0} | ({} if stats is None else stats)
        counts = {name: jnp.asarray(count) for name, count in counts.items()}
        return dataclasses.replace(block, stats=block.stats | counts)

    @classmethod
    def of(
        cls,
        pencil: Pencil,
        basis: Inexact[Array, "n m"],
        eigenvalues: Complex[Array, " m"],
        coordinates: Complex[Array, "m m"],
        *,
        k: int,
        second: Bool[Array, " m"],
        wanted: Bool[Array, " m"],
        usable: Bool[Array, " m"],
        rtol: float,
        slack: float = 1e3,
        scale: Float[Array, ""] | None = None,
        norms: tuple[Float[Array, ""], Float[Array, ""]] | None = None,
        measured: tuple[Inexact[Array, "m m"], Float[Array, " m"]] | None = None,
        left: tuple[Inexact[Array, "n m"], Complex[Array, "m m"]] | None = None,
        outside: Complex[Array, " m"] | None = None,
        judge: bool = True,
    ) -> "InvariantBlock":
        """The block of pairs (λ, X W), X any orthonormal columns: the one place that
        establishes the invariants of this class.

        A pair is `active` if it is `wanted`, `usable`, and has a residual of at most
        `rtol |λ| ‖B‖` (or `rtol scale ‖B‖`) or of rounding, `slack · eps ‖A‖`, and if the
        same holds for its conjugate partner; `second` marks the later one of the two.
        Residuals are checked first, so that a column which is no eigenpair stands behind
        the others and is no part of their span.

        `norms` are ‖A‖ and ‖B‖, by default estimated from products with X and a random
        vector; `measured` are L and the residuals, if they are known. `left` is an
        orthonormal basis and the coordinates of the left vectors in it; if these are not
        left vectors, the result is `left_not_found` and no column is active. Without
        `judge`, all pairs that are wanted and usable are active, in the order given.
        """
        coordinates = leading(wanted, coordinates)
        there = jnp.isfinite(eigenvalues)
        values = jnp.where(there, eigenvalues, 0)
        if measured is None:
            matrix, residuals, ax, bx = galerkin(pencil, basis, values, coordinates)
            if norms is None:
                norms = norms_of(pencil, ax, bx)
        else:
            matrix, residuals = measured
        norm, mass_norm = norms  # pyright: ignore[reportGeneralTypeIssues]
        rounding = slack * float(jnp.finfo(norm.dtype).eps) * norm
        scale = jnp.abs(values) if scale is None else scale
        enough = jnp.maximum(rtol * scale * mass_norm, rounding)
        enough = jnp.broadcast_to(enough, residuals.shape)
        residuals = jnp.where(there, residuals, jnp.nan)
        active, position = wanted & usable & there, None
        if judge:
            active = _both_or_none(active & (residuals <= enough), second)
        complete = jnp.all(active | ~wanted)
        result = RESULTS.where(complete, RESULTS.successful, RESULTS.not_converged)
        if judge:
            index = jnp.arange(second.size)
            active, position, second, eigenvalues, residuals, enough, outside = (
                _active_first(
                    active, index, second, eigenvalues, residuals, enough, outside
                )
            )
            basis, matrix, coordinates, left = only_if(
                jnp.any(position != index),
                lambda x: _in_front(*x, position, second),  # pyright: ignore[reportCallIssue]
                (basis, matrix, coordinates, left),
            )
        matrix, coordinates = (leading(active, x) for x in (matrix, coordinates))
        dual = None
        if left is not None:
            dual = biorthogonal(pencil, left[0], basis, active)
        block = cls(
            basis=basis,
            matrix=matrix,
            eigenvalues=eigenvalues,
            coordinates=coordinates,
            left_basis=dual,
            active=active,
            residuals=residuals,
            norm=norm,
            mass_norm=mass_norm,
            stats={"num_converged": jnp.sum(active[:k])},
            result=result,
            outside=outside,
            position=position,
        )
        if dual is None or not judge:
            return block
        defect = left_defect(pencil, dual, matrix, active)
        size = jnp.max(jnp.where(active, safe_norm(dual), 0))
        enough = 10 * jnp.max(jnp.where(active, enough, 0)) * size
        unlike = ~(defect <= enough) & (result == RESULTS.successful)
        return without(block, unlike, RESULTS.left_not_found)


def choose(
    selection: AbstractSelection,
    k: int,
    eigenvalues: Complex[Array, " p"],
    eigenvectors: Complex[Array, "n p"],
    is_real: bool,
    accuracy: Float[Array, " p"],
) -> tuple[Int[Array, " m"], Bool[Array, " m"], Bool[Array, " m"]]:
    """The k best, and one more for a real operator: their indices, which are second in a
    conjugate pair, and which are wanted (the extra one may not be)."""
    m = min(k + 1, eigenvalues.size) if is_real else k
    target, overlaps = selection.target(), None
    if target is not None:
        overlaps = jnp.abs(target.conj().astype(eigenvectors.dtype) @ eigenvectors)
    found = order(selection, eigenvalues, overlaps, is_real, accuracy)
    second = found.second[:m]
    return found.permutation[:m], second, (jnp.arange(m) < k) | second


def _both_or_none(
    active: Bool[Array, " m"], second: Bool[Array, " m"]
) -> Bool[Array, " m"]:
    """Conjugate partners are active together or not at all; `second` marks the later."""
    pair = jnp.arange(second.size) - second.astype(int)
    apart = pair[:, None] != pair[None, :]
    return jnp.all(active[None, :] | apart, axis=1)


def _active_first(active: Bool[Array, " m"], *columns: Array | None) -> list:
    """Moves what belongs to active pairs before what belongs to the others."""
    there = [x for x in columns if x is not None]
    behind, *there = jax.lax.sort((~active, *there), is_stable=True)
    rest = iter(there)
    return [~behind, *(None if x is None else next(rest) for x in columns)]


def _in_front(
    basis: Inexact[Array, "n m"],
    matrix: Inexact[Array, "m m"],
    coordinates: Complex[Array, "m m"],
    left: tuple[Inexact[Array, "n m"], Complex[Array, "m m"]] | None,
    position: Int[Array, " m"],
    second: Bool[Array, " m"],
):
    """The same span with a basis whose leading columns span the leading pairs in the
    order `position`; `second` refers to that order."""
    is_real = not jnp.iscomplexobj(basis)
    order = position[None, :] == jnp.arange(position.size)[:, None]

    def turned(basis: Array, coordinates: Array) -> tuple[Array, Array, Array]:
        coordinates = coordinates @ order.astype(coordinates.dtype)
        turn = schur_basis(coordinates, second, is_real)
        return basis @ turn, turn.conj().T.astype(coordinates.dtype) @ coordinates, turn

    basis, coordinates, turn = turned(basis, coordinates)
    left = None if left is None else turned(*left)[:2]
    return basis, turn.conj().T @ matrix @ turn, coordinates, left


def _as_complex(
    pencil: Pencil,
    k: int,
    eigenvalues: Inexact[Array, " p"],
    eigenvectors: Inexact[Array, "n p"],
    left: Inexact[Array, "n p"] | None,
) -> tuple[Complex[Array, " p"], Complex[Array, "n p"], Complex[Array, "n p"] | None]:
    """The pairs in one dtype, with vectors of unit norm; errors name the argument."""
    dtype = complex_dtype(pencil.dtype)
    w = jnp.asarray(eigenvalues)
    if w.ndim != 1 or w.size < k:
        raise ValueError(f"`eigenvalues` must have shape (p,), p ≥ {k}; got {w.shape}.")
    vectors = []
    for name, v in (("eigenvectors", eigenvectors), ("left", left)):
        if v is None:
            vectors.append(None)
            continue
        v = jnp.asarray(v)
        if v.shape != (pencil.n, w.size):
            raise ValueError(
                f"`{name}` must have shape {(pencil.n, w.size)}; got {v.shape}."
            )
        v, size = v.astype(dtype), safe_norm(v)
        vectors.append(
            times_real(v, (1 / jnp.where(size > 0, size, 1)).astype(v.real.dtype))
        )
    return w.astype(dtype), *vectors


def _in_pairs(w, v, left):
    """For a real pencil: makes near-conjugate neighbours exactly conjugate, and drops a
    negligible imaginary part of the others. Also returns which pairs are sound; one that
    is neither is no eigenpair, and its real part holds its place."""
    eps = float(jnp.finfo(w.dtype).eps)
    up, down = w.imag > 0, w.imag < 0
    before, after = jnp.roll(w, 1), jnp.roll(w, -1)
    near = eps**0.5 * jnp.abs(w)
    up = up & (jnp.abs(after - w.conj()) <= near) & (after.imag < 0)
    down = down & jnp.roll(up, 1)
    lone = ~up & ~down
    sound = ~lone | (jnp.abs(w.imag) <= near)
    w = jnp.where(lone, w.real.astype(w.dtype), jnp.where(down, before.conj(), w))

    def paired(x):
        # A real vector may come with a complex phase.
        top = jnp.argmax(jnp.abs(x), axis=0)
        top = jnp.take_along_axis(x, top[None], axis=0)
        size = jnp.abs(top)
        phase = jnp.where(size > 0, top.conj(), 1) / jnp.where(size > 0, size, 1).astype(
            x.dtype
        )
        real = (x * phase).real.astype(x.dtype)
        return jnp.where(lone, real, jnp.where(down, jnp.roll(x, 1, axis=1).conj(), x))

    return w, paired(v), None if left is None else paired(left), sound


def without(
    block: InvariantBlock, useless: Bool[Array, ""], result: RESULTS
) -> InvariantBlock:
    """The block; where it is `useless`, with this `result` and no active columns."""
    return eqx.tree_at(
        lambda b: (b.active, b.result),
        block,
        (block.active & ~useless, RESULTS.where(useless, result, block.result)),
    )


def nonfinite(block: InvariantBlock, useless: Bool[Array, ""]) -> InvariantBlock:
    """The block, or NaN where it is `useless`."""
    nan = jnp.where(useless, jnp.nan, 0).astype(block.residuals.dtype)
    names = "basis", "eigenvalues", "residuals"
    found = {name: getattr(block, name) for name in names}
    found = {name: x + nan.astype(x.dtype) for name, x in found.items()}
    return without(dataclasses.replace(block, **found), useless, RESULTS.nonfinite)
