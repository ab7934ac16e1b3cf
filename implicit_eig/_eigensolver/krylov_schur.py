"""Krylov–Schur: Arnoldi with thick restarts (Stewart 2001), in real arithmetic for real
operators, wholly inside one `while_loop`.

Three layers, so that the adjoint solver can stand on the same code: `_expand` (one
Arnoldi step), `KrylovDecomposition` and `_restart` (the factorisation), `krylov_schur`
(the driver), and `KrylovSchur`, the eigensolver a user holds.

A complex vector is held as two real rows. XLA's CPU products of real row-major bases run
at BLAS speed, complex ones 3 to 6 times slower.

A vector may be a pytree of arrays, so that a part of order n stays sharded over devices
beside a small one that every device holds.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int, PyTree

from .._batch import one_by_one, only_if
from .._check import check_flag, check_integer, check_real
from .._operator import complex_dtype, of_moderate_size, Pencil, times_real
from .._progress_meter import AbstractProgressMeter, NoProgressMeter
from .._solution import RESULTS
from .._transformation import (
    AbstractTransformation,
    default_linear_solver,
    Direct,
    Inverse,
    MassInverted,
    ShiftedPencil,
)
from .._which import AbstractSelection, order
from .base import (
    AbstractEigensolver,
    biorthogonal,
    galerkin,
    InvariantBlock,
    leading,
    nearest_outside,
    schur_basis,
    without,
)


# Least width of a piece in which a basis is rotated: products of this width run at full
# speed.
_PIECE = 4096


class KrylovDecomposition(NamedTuple):
    """`A V[:m] = V H` with orthonormal rows of V: m + 1 vectors of `c` real rows, each in
    `parts` of equal length."""

    basis: PyTree[Float[Array, "m1 c _parts _size"]]
    matrix: Inexact[Array, "m1 m"]


class Ritz(NamedTuple):
    """The Ritz pairs of a decomposition, wanted and converged ones first."""

    values: Complex[Array, " m"]
    vectors: Complex[Array, "m m"]
    second: Bool[Array, " m"]
    residuals: Float[Array, " m"]
    wanted: Bool[Array, " m"]
    converged: Bool[Array, " m"]
    rounding: Float[Array, ""]
    finite: Bool[Array, ""]


class KrylovResult(NamedTuple):
    """The wanted Schur vectors; `m` columns of which the `active` ones converged. `done`
    tells that all did, and that the search for better ones came to its end. `outside`
    are the unwanted Ritz values nearest to the wanted ones. With x the vector `rest` and
    b the `coupling`, `A X = X L + x bᵀ`."""

    basis: PyTree[Inexact[Array, "_n m"]]
    matrix: Inexact[Array, "m m"]
    eigenvalues: Complex[Array, " m"]
    coordinates: Complex[Array, "m m"]
    active: Bool[Array, " m"]
    outside: Complex[Array, " m"]
    norm: Float[Array, ""]
    finite: Bool[Array, ""]
    done: Bool[Array, ""]
    rest: PyTree[Inexact[Array, " _n"]]
    coupling: Inexact[Array, " m"]
    num_matvecs: Int[Array, ""]
    num_restarts: Int[Array, ""]


def to_rows(x: PyTree[Inexact[Array, " _n"]]) -> PyTree[Float[Array, "c _parts _size"]]:
    def rows(x):
        parts = jax.device_count()
        parts = parts if x.size % parts == 0 else 1
        rows = jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x[None]
        return rows.reshape(-1, parts, x.size // parts)

    return jtu.tree_map(rows, x)


def from_rows(
    x: PyTree[Float[Array, "c *_m _parts _size"]],
) -> PyTree[Inexact[Array, "*_m _n"]]:
    def vectors(x):
        x = x.reshape(*x.shape[:-2], -1)
        return jax.lax.complex(x[0], x[1]) if x.shape[0] == 2 else x[0]

    return jtu.tree_map(vectors, x)


def _coefficients(
    basis: PyTree[Float[Array, "m1 c _parts _size"]],
    w: PyTree[Float[Array, "c _parts _size"]],
) -> Inexact[Array, " m1"]:
    """⟨v_i, w⟩ for every basis vector."""

    def part(basis, w):
        m1, c, *_ = basis.shape
        rows, w = basis.reshape(m1 * c, -1), w.reshape(c, -1)
        if c == 1:
            return rows @ w[0]
        with_real, with_imag = ((rows @ x).reshape(m1, 2) for x in (w[0], w[1]))
        return jax.lax.complex(
            with_real[:, 0] + with_imag[:, 1], with_imag[:, 0] - with_real[:, 1]
        )

    return _sum(jtu.tree_map(part, basis, w))


def _combination(
    h: Inexact[Array, " m1"], basis: PyTree[Float[Array, "m1 c _parts _size"]]
) -> PyTree[Float[Array, "c _parts _size"]]:
    """Σ h_i v_i."""

    def part(basis):
        m1, c, *shape = basis.shape
        rows = basis.reshape(m1 * c, -1)
        if c == 1:
            return (h @ rows).reshape(c, *shape)
        real = jnp.stack([h.real, -h.imag], axis=1).reshape(-1)
        imag = jnp.stack([h.imag, h.real], axis=1).reshape(-1)
        return (jnp.stack([real, imag]) @ rows).reshape(c, *shape)

    return jtu.tree_map(part, basis)


def _rotate(
    q: Inexact[Array, "m1 m1"], basis: Float[Array, "m1 c parts size"]
) -> Float[Array, "m1 c parts size"]:
    """The vectors Σ_i q_ij v_i, in the memory of the old ones and about a vector more.

    One piece of every part after the other. There are as many parts as devices: of n
    sharded over them a part is what one of them holds, and no piece leaves it.
    """
    m1, c, parts, size = basis.shape
    if c == 2:
        real = jnp.stack([q.real, -q.imag], axis=1).reshape(2 * m1, m1)
        imag = jnp.stack([q.imag, q.real], axis=1).reshape(2 * m1, m1)
        q = jnp.stack([real, imag], axis=2).reshape(2 * m1, 2 * m1)
    width = min(size, max(_PIECE, size // (2 * m1)))

    def turn(start, width, basis):
        old = jax.lax.dynamic_slice_in_dim(basis, start, width, axis=3)
        new = (q.T @ old.reshape(m1 * c, parts * width)).reshape(old.shape)
        return jax.lax.dynamic_update_slice_in_dim(basis, new, start, axis=3)

    basis = jax.lax.fori_loop(
        0, size // width, lambda i, b: turn(i * width, width, b), basis
    )
    if size % width:
        basis = turn(size - size % width, size % width, basis)
    return basis


def _sum(tree: PyTree[Array]) -> Array:
    return jtu.tree_reduce(jnp.add, tree)


def _norm(x: PyTree[Float[Array, "c _parts _size"]]) -> Float[Array, ""]:
    return jnp.sqrt(_sum(jtu.tree_map(lambda x: jnp.sum(x * x), x)))


def _scaled(x: PyTree[Array], size: Array) -> PyTree[Array]:
    return jtu.tree_map(lambda x: x / size, x)


def _minus(x: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
    return jtu.tree_map(jnp.subtract, x, y)


def _orthogonalise(
    basis: PyTree[Float[Array, "m1 c _parts _size"]],
    w: PyTree[Float[Array, "c _parts _size"]],
    admit: Callable[[PyTree[Array]], PyTree[Array]],
) -> tuple[
    Inexact[Array, " m1"], PyTree[Float[Array, "c _parts _size"]], Float[Array, ""]
]:
    """Classical Gram–Schmidt, with a second pass where the first cancelled (Daniel,
    Gragg, Kaufman and Stewart 1976).

    What cancellation leaves of w is small, what rounding let in from outside the admitted
    subspace is not; so that is taken out as well, or eigenvalues of the excluded part (0,
    often a wanted one) grow out of it.
    """
    before = _norm(w)
    h = _coefficients(basis, w)
    w = _minus(w, _combination(h, basis))

    def again(state):
        h, w = state
        w = to_rows(admit(from_rows(w)))
        correction = _coefficients(basis, w)
        return h + correction, _minus(w, _combination(correction, basis))

    h, w = only_if(_norm(w) <= before / jnp.sqrt(2), again, (h, w))
    return h, w, before


def _expand(
    mv: Callable[[PyTree[Array]], PyTree[Array]],
    admit: Callable[[PyTree[Array]], PyTree[Array]],
    j: Int[Array, ""],
    decomposition: KrylovDecomposition,
) -> KrylovDecomposition:
    """One Arnoldi step: orthogonalises A v_j and appends it as v_{j+1}."""
    basis, matrix = decomposition
    eps = jnp.finfo(matrix.dtype).eps
    vj = jtu.tree_map(lambda b: jax.lax.dynamic_index_in_dim(b, j, keepdims=False), basis)
    h, w, before = _orthogonalise(basis, to_rows(mv(from_rows(vj))), admit)
    size = _norm(w)
    # An invariant subspace: the residual is rounding, so its direction means nothing.
    # Go on with a fresh direction, uncoupled.
    broken = size <= 10 * eps * before
    w = only_if(broken, lambda _: _fresh(basis, admit, j), _scaled(w, size))
    h = h.at[j + 1].set(jnp.where(broken, 0, size).astype(h.dtype))
    basis = jtu.tree_map(
        lambda b, w: jax.lax.dynamic_update_index_in_dim(b, w, j + 1, 0), basis, w
    )
    matrix = jax.lax.dynamic_update_index_in_dim(matrix, h, j, 1)
    return KrylovDecomposition(basis, matrix)


def _fresh(
    basis: PyTree[Float[Array, "m1 c _parts _size"]],
    admit: Callable[[PyTree[Array]], PyTree[Array]],
    seed: Int[Array, ""],
) -> PyTree[Float[Array, "c _parts _size"]]:
    """A random direction orthogonal to the basis."""
    leaves, treedef = jtu.tree_flatten(basis)
    leaves = [_random(x.shape[1:], x.dtype, seed + i) for i, x in enumerate(leaves)]
    w = to_rows(admit(from_rows(jtu.tree_unflatten(treedef, leaves))))

    def twice(_, w):
        _, w, _ = _orthogonalise(basis, _scaled(w, _norm(w)), admit)
        return w

    w = jax.lax.fori_loop(0, 2, twice, w)
    return _scaled(w, _norm(w))


def _random(shape: tuple[int, ...], dtype, seed: Int[Array, ""]) -> Float[Array, "..."]:
    """Numbers between -1 and 1 by a hash of their indices (Wellons' lowbias32).

    `jax.random` takes longer to compile than the rest of a Krylov step, for a direction
    that most runs never need.
    """
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        index = index * jnp.uint32(shape[axis])
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    x = index + jnp.uint32(0x9E3779B9) * (seed.astype(jnp.uint32) + 1)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    x = x ^ (x >> 16)
    return x.astype(dtype) / jnp.asarray(2**31, dtype) - 1


def _ritz(
    decomposition: KrylovDecomposition,
    selection: AbstractSelection,
    k: int,
    rtol: float,
    least: Float[Array, ""],
    is_real: bool,
) -> Ritz:
    basis, matrix = decomposition
    m = matrix.shape[1]
    eps = jnp.finfo(matrix.dtype).eps
    finite = jnp.all(jnp.isfinite(matrix))
    projected = jnp.where(finite, matrix[:m], jnp.eye(m, dtype=matrix.dtype))
    projected, size = of_moderate_size(projected)
    values, vectors = jnp.linalg.eig(projected)
    values = times_real(values, size[0])
    target, overlaps = selection.target(), None
    if target is not None:
        overlaps = jnp.abs(_target_coordinates(basis[:m], target).conj() @ vectors)
    residuals = jnp.abs(matrix[m].astype(vectors.dtype) @ vectors)
    residuals = residuals * _least_part(basis, vectors)
    rounding = 10 * eps * jnp.max(jnp.abs(values))
    enough = jnp.maximum(rtol * jnp.maximum(jnp.abs(values), least), rounding)
    # What has not converged is ranked as if it had.
    accuracy = jnp.clip(residuals, rounding, enough)
    found = order(selection, values, overlaps, is_real, accuracy)
    perm, second = found.permutation, found.second
    values, vectors = values[perm], vectors[:, perm]
    residuals, enough = residuals[perm], enough[perm]
    index = jnp.arange(m)
    wanted = (index < k) | ((index == k) & second)
    converged = wanted & (residuals <= enough) & finite
    # Both of a pair or none, whatever rounding says.
    partner = jnp.where(second, index - 1, index)
    paired = jnp.concatenate([second[1:], jnp.zeros(1, bool)])
    partner = jnp.where(paired, index + 1, partner)
    converged = converged & converged[partner]
    front = jnp.lexsort((index, ~converged, ~wanted))
    return Ritz(
        values[front],
        vectors[:, front],
        second[front],
        residuals[front],
        wanted[front],
        converged[front],
        rounding,
        finite,
    )


def _least_part(
    basis: PyTree[Float[Array, "m1 c _parts _size"]], vectors: Complex[Array, "m m"]
) -> Float[Array, " m"]:
    """How much larger a residual is in one part of a Ritz vector, relative to that part,
    than in the whole: 1 for a vector of one part.

    The first part is taken for the large one, and never looked at.
    """
    worst = jnp.ones(vectors.shape[1], vectors.real.dtype)
    for part in jtu.tree_leaves(basis)[1:]:
        rows = from_rows(jnp.moveaxis(part, 1, 0)).astype(vectors.dtype)
        size = jnp.linalg.norm(rows[:-1].T @ vectors, axis=0)
        tiny = jnp.finfo(size.dtype).tiny
        worst = jnp.maximum(worst, jnp.linalg.norm(rows[-1]) / jnp.maximum(size, tiny))
    return worst


def _target_coordinates(
    basis: Float[Array, "m c n"], target: Inexact[Array, " n"]
) -> Complex[Array, " m"]:
    """⟨v_i, t⟩ for a complex target, whether the basis is real or complex."""
    if basis.shape[1] == 2:
        return _coefficients(basis, to_rows(target.astype(complex_dtype(target.dtype))))
    parts = target.real[None], target.imag[None]
    return jax.lax.complex(*(_coefficients(basis, part) for part in parts))


def _sharpened(
    matrix: Inexact[Array, "m m"],
    q: Inexact[Array, "m m"],
    p: Int[Array, ""],
    values: Complex[Array, " m"],
    vectors: Complex[Array, "m m"],
) -> Inexact[Array, "m m"]:
    """q, whose leading p columns are to span an invariant subspace of `matrix`, to
    rounding.

    Eigenvectors of a nearly defective matrix are nearly dependent, and the orthonormal
    basis of their span is then inaccurate by as much. Newton's method on the Riccati
    equation of the subspace (Stewart 1973) repairs it: with T = qᴴ A q, solve
    `T₂₂ P − P T₁₁ = −T₂₁` and turn span(q₁) into span(q₁ + q₂ P).
    """
    m = matrix.shape[0]
    lead = jnp.arange(m) < p
    across = ~lead[:, None] & lead[None, :]
    same = lead[:, None] == lead[None, :]
    enough = 10 * jnp.finfo(q.dtype).eps * jnp.linalg.norm(matrix)
    gap = jnp.where(across, values[:, None] - values[None, :], 1)
    gap = jnp.where(gap == 0, enough.astype(gap.dtype), gap)

    def defect(q):
        t = jnp.where(across, q.conj().T @ matrix @ q, 0)
        return t, jnp.linalg.norm(t)

    def newton(state):
        q, t, size, rounds = state
        # The Sylvester equation, by the eigenvectors of T₁₁ and T₂₂.
        w = q.conj().T.astype(vectors.dtype) @ vectors
        w = jnp.where(same, w, 0)
        g = jnp.linalg.solve(w, t.astype(w.dtype) @ w) / gap
        y = -jnp.linalg.solve(w.T, (w @ jnp.where(across, g, 0)).T).T
        y = y if jnp.iscomplexobj(q) else y.real
        y = jnp.where(across, y, 0)
        better, _ = jnp.linalg.qr(q @ (jnp.eye(m, dtype=q.dtype) + y - y.conj().T))
        t_new, size_new = defect(better)
        improved = size_new < size
        q = jnp.where(improved, better, q)
        t = jnp.where(improved, t_new, t)
        rounds = jnp.where(improved, rounds + 1, 5)
        return q, t, jnp.minimum(size, size_new), rounds

    def unfinished(state):
        _, _, size, rounds = state
        return (size > enough) & (rounds < 5)

    return jax.lax.while_loop(unfinished, newton, (q, *defect(q), jnp.asarray(0)))[0]


def _restart(
    decomposition: KrylovDecomposition,
    q: Inexact[Array, "m m"],
    p: Int[Array, ""],
) -> KrylovDecomposition:
    """Keeps the leading p Schur vectors, and the residual vector after them."""
    basis, matrix = decomposition
    m = matrix.shape[1]
    rotated = q.conj().T @ matrix[:m] @ q
    kept = jnp.arange(m) < p
    square = jnp.where(kept[:, None] & kept[None, :], rotated, 0)
    coupling = jnp.where(kept, matrix[m] @ q, 0)
    matrix = jnp.zeros_like(matrix).at[:m].set(square).at[p].set(coupling)
    # Columns 0 to p − 1 are those of q, column p picks the residual, the rest are zero.
    turn = jnp.zeros((m + 1, m + 1), q.dtype)
    turn = turn.at[:m, :m].set(jnp.where(kept, q, 0)).at[m, p].set(1)
    basis = jtu.tree_map(lambda b: _rotate(turn, b), basis)
    return KrylovDecomposition(basis, matrix)


def _begin_anew(
    decomposition: KrylovDecomposition,
    p: Int[Array, ""],
    anew: Bool[Array, ""],
    admit: Callable[[PyTree[Array]], PyTree[Array]],
    seed: Int[Array, ""],
) -> KrylovDecomposition:
    """Of p converged vectors, a random one after them in place of their residual."""
    basis, matrix = decomposition
    residual = jtu.tree_map(
        lambda b: jax.lax.dynamic_index_in_dim(b, p, keepdims=False), basis
    )
    w = only_if(anew, lambda _: _fresh(basis, admit, seed), residual)
    basis = jtu.tree_map(
        lambda b, w: jax.lax.dynamic_update_index_in_dim(b, w, p, 0), basis, w
    )
    return KrylovDecomposition(basis, matrix.at[p].multiply(jnp.where(anew, 0, 1)))


def krylov_schur(
    mv: Callable[[PyTree[Array]], PyTree[Array]],
    v0: PyTree[Inexact[Array, " _n"]],
    selection: AbstractSelection,
    k: int,
    *,
    krylov_dim: int,
    rtol: float,
    max_restarts: int | Int[Array, ""],
    least: float | Float[Array, ""] = 0.0,
    confirm: bool = True,
    repeated: bool = False,
    admit: Callable[[PyTree[Array]], PyTree[Array]] = lambda v: v,
    progress_meter: AbstractProgressMeter = NoProgressMeter(),
) -> KrylovResult:
    """The driver. `v0` fixes the arithmetic, real or complex, and the structure of a
    vector.

    Returns k columns, one more in real arithmetic. A Ritz pair has converged when its
    residual is below `rtol |λ|`, or `rtol least`, or rounding of the largest Ritz value.

    With `confirm` the run does not end there. What was found is kept, the Krylov space
    begins anew with a random vector and grows to its full size: what `v0` was blind to,
    because it lay in an invariant subspace, shows and has to converge. Of extreme
    eigenvalues it goes on until the best pair beyond the wanted ones is apart from them,
    or known as well: it may be a second copy of one of them, which has no derivatives
    then. With `repeated` it
    grows until the best pair beyond the wanted ones is known well enough to be no better
    than they; again and again while anything better turns up. One Krylov space holds one
    vector of each eigenspace, so this is how more copies of an eigenvalue are found.

    `admit` projects onto the invariant subspace the run is confined to, against rounding
    and after a breakdown, when the run goes on with a random vector.
    """
    options = {
        "k": k,
        "krylov_dim": krylov_dim,
        "rtol": rtol,
        "confirm": confirm,
        "repeated": repeated,
        "progress_meter": progress_meter,
    }
    # Without closures over arrays, which may be those of a batch.
    mv, admit = (eqx.filter_closure_convert(fn, v0) for fn in (mv, admit))
    run = functools.partial(_run, **options)
    real = jtu.tree_leaves(v0)[0].real.dtype
    limits = jnp.asarray(max_restarts), jnp.asarray(least, real)
    return one_by_one(run, mv, v0, selection, admit, *limits)


def _run(
    mv: Callable[[PyTree[Array]], PyTree[Array]],
    v0: PyTree[Inexact[Array, " _n"]],
    selection: AbstractSelection,
    admit: Callable[[PyTree[Array]], PyTree[Array]],
    max_restarts: Int[Array, ""],
    least: Float[Array, ""],
    *,
    k: int,
    krylov_dim: int,
    rtol: float,
    confirm: bool,
    repeated: bool,
    progress_meter: AbstractProgressMeter,
) -> KrylovResult:
    v0_dtype = jtu.tree_leaves(v0)[0].dtype
    is_real = not jnp.issubdtype(v0_dtype, jnp.complexfloating)
    m = krylov_dim
    width = k + 1 if is_real else k
    rows = to_rows(v0)
    first = _scaled(rows, _norm(rows))
    basis = jtu.tree_map(
        lambda v: jnp.zeros((m + 1, *v.shape), v.dtype).at[0].set(v), first
    )
    matrix = jnp.zeros((m + 1, m), v0_dtype)

    class State(NamedTuple):
        decomposition: KrylovDecomposition
        start: Int[Array, ""]
        restarts: Int[Array, ""]
        matvecs: Int[Array, ""]
        norm: Float[Array, ""]
        finite: Bool[Array, ""]
        done: Bool[Array, ""]
        eigenvalues: Complex[Array, " m"]
        coordinates: Complex[Array, "m m"]
        active: Bool[Array, " m"]
        outside: Complex[Array, " m"]
        searches: Int[Array, ""]
        found: Complex[Array, " m"]

    def cycle(state: State) -> State:
        decomposition = jax.lax.fori_loop(
            state.start, m, lambda j, d: _expand(mv, admit, j, d), state.decomposition
        )
        ritz = _ritz(decomposition, selection, k, rtol, least, is_real)
        count = jnp.sum(ritz.converged)
        needed = jnp.sum(ritz.wanted)
        complete = (count == needed) & ritz.finite
        values = ritz.values[:width]
        if repeated or (confirm and selection.is_extreme(is_real)):
            # The best one that is not wanted is apart from them, or known as well.
            beyond = ritz.values[needed]
            apart = jnp.where(ritz.wanted, jnp.abs(ritz.values - beyond), jnp.inf)
            size = rtol * jnp.abs(beyond)
            size = rtol**-0.5 * size if repeated else jnp.maximum(size, jnp.min(apart))
            settled = ritz.residuals[needed] <= jnp.maximum(size, ritz.rounding)
            complete = complete & ((state.searches == 0) | settled)
        done = complete & (state.searches > 0) if confirm or repeated else complete
        if repeated:
            moved = jnp.abs(values - state.found) > 1e3 * rtol * jnp.abs(values)
            done = done & ~jnp.any(moved & ritz.converged[:width])
        done = done | ~ritz.finite
        last = complete | done | (state.restarts + 1 >= max_restarts)
        # Keep the wanted ones and a part of the rest; more as pairs converge, so that
        # locked vectors do not eat up the room for new ones (Stathopoulos, Saad and Wu
        # 1998). The part varies, from 0.4 to 0.73 by the golden ratio: a fixed one may
        # drop the same Ritz values each time, and what a wanted pair grows from with
        # them. At the end, the wanted ones.
        part = 40 + (state.restarts * 21) % 34
        keep = jnp.minimum(needed + part * (m - needed + count) // 100, m - 2)
        keep = jnp.where(last, needed, keep)
        keep = keep + ritz.second[jnp.minimum(keep, m - 1)].astype(keep.dtype)
        q = schur_basis(ritz.vectors, ritz.second, is_real)
        q = _sharpened(decomposition.matrix[:m], q, keep, ritz.values, ritz.vectors)
        coordinates = (q.conj().T.astype(ritz.vectors.dtype) @ ritz.vectors)[
            :width, :width
        ]
        worst = jnp.max(jnp.where(ritz.wanted, ritz.residuals, 0))
        # In a batch, a run that is done goes round with the others.
        ended = state.done | done | (state.restarts + 1 >= max_restarts)
        progress_meter.step(state.restarts + 1, count, needed, worst, ended)
        decomposition = _restart(decomposition, q, keep)
        if confirm or repeated:
            decomposition = _begin_anew(
                decomposition, keep, complete & ~done, admit, state.restarts
            )
        return State(
            decomposition,
            keep,
            state.restarts + 1,
            state.matvecs + m - state.start,
            jnp.max(jnp.abs(ritz.values)),
            ritz.finite,
            done,
            values,
            leading(ritz.converged[:width], coordinates),
            ritz.converged[:width],
            nearest_outside(ritz.values, jnp.arange(m), ritz.wanted)[:width],
            state.searches + complete.astype(state.searches.dtype),
            jnp.where(complete, values, state.found),
        )

    zero = jnp.asarray(0)
    dtype = complex_dtype(v0_dtype)
    init = State(
        KrylovDecomposition(basis, matrix),
        zero,
        zero,
        zero,
        jnp.zeros((), matrix.real.dtype),
        jnp.asarray(True),
        jnp.asarray(False),
        jnp.zeros(width, dtype),
        jnp.zeros((width, width), dtype),
        jnp.zeros(width, bool),
        jnp.zeros(width, dtype),
        zero,
        jnp.zeros(width, dtype),
    )
    end = jax.lax.while_loop(lambda s: ~s.done & (s.restarts < max_restarts), cycle, init)
    vectors = jtu.tree_map(
        lambda b: from_rows(jnp.moveaxis(b[:width], 1, 0)).T, end.decomposition.basis
    )
    rest = jtu.tree_map(
        lambda b: from_rows(jax.lax.dynamic_index_in_dim(b, end.start, keepdims=False)),
        end.decomposition.basis,
    )
    return KrylovResult(
        vectors,
        leading(end.active, end.decomposition.matrix[:width, :width]),
        end.eigenvalues,
        end.coordinates,
        end.active,
        end.outside,
        end.norm,
        end.finite,
        end.done,
        rest,
        end.decomposition.matrix[end.start, :width],
        end.matvecs,
        end.restarts,
    )


def default_start(n: int, dtype) -> Inexact[Array, " n"]:
    """A fixed random vector: runs repeat."""
    real = jnp.finfo(dtype).dtype
    parts = [_random((n,), real, jnp.asarray(seed)) for seed in (0, 1)]
    is_real = not jnp.issubdtype(dtype, jnp.complexfloating)
    return parts[0] if is_real else jax.lax.complex(*parts)


def norm_estimate(mv: Callable[[Array], Array], n: int, dtype) -> Float[Array, ""]:
    """‖A‖, about: that of an average product."""
    random = default_start(n, dtype)
    return jnp.linalg.norm(mv(random)) / jnp.linalg.norm(random)


def start_vector(v0: Inexact[Array, " n"] | None, n: int, dtype) -> Inexact[Array, " n"]:
    """`v0` with a random part of relative size `eps^(1/6)`: a mode that `v0` has no part
    along, because it has another symmetry, or lies in another block, or because `v0` is
    a mode itself, is then in the Krylov space from the first step. Smaller, it would not
    show before worse ones have converged; larger, nothing were left of a good `v0`."""
    random = default_start(n, dtype)
    if v0 is None:
        return random
    # Its square may underflow.
    v0 = v0.astype(dtype)
    largest = jnp.max(jnp.abs(v0))
    v0 = v0 / jnp.where(largest > 0, largest, 1).astype(dtype)
    part = jnp.finfo(dtype).eps ** (1 / 6) * jnp.linalg.norm(v0) / jnp.linalg.norm(random)
    return v0 + part.astype(dtype) * random


class KrylovSchur(AbstractEigensolver):
    """Matrix-free restarted Krylov method (Stewart, SIAM J. Matrix Anal. Appl. 23, 2001).

    Finds extreme eigenvalues from products with A alone. **Others it may miss** ("SM",
    "SI" of real operators, callables, `Nearest`, `Overlap`): pairs at the rim converge
    first, and no product tells that better ones exist inside. So it may with a
    `krylov_dim` below the default. The pairs it returns then are eigenpairs, and the
    result is `RESULTS.unconfirmed` instead of `successful`; `Dense` knows. What `v0`
    alone would be blind to is found: it gets a random part of relative size `eps^(1/6)`,
    and once all pairs have converged, the run goes on for a cycle with a fresh random
    vector.

    Memory: `krylov_dim + 1`
    vectors. What converged is judged by the recurrence and verified by true residuals.

    A Krylov space of one start vector holds one copy of a repeated eigenvalue; more
    appear only through rounding or after a breakdown. `repeated=True` looks for them.

    **Arguments:**

    - `rtol`: a pair has converged when `‖Av − λv‖ ≤ rtol |λ| ‖v‖` (or reached rounding
        of the largest eigenvalue). Default: `eps^(2/3)` of the precision.
    - `krylov_dim`: largest dimension of the Krylov space; default `max(2k + 1, 20)`.
        Where that is not below n, `eigs` takes `Dense` (`stats["dense_fallback"]`).
    - `max_restarts`: default `10 n`, as in SciPy; a restart takes a
        quarter to two thirds of `krylov_dim` products.
    - `repeated`: search on, with fresh start vectors orthogonal to what was found, until
        nothing better turns up: finds every copy of repeated eigenvalues, and what `v0`
        was blind to. Costs about one more run, and another one for each round of copies.

    - `mass_solver`: with `mass=`, any lineax solver for B; the Krylov spaces are those of
        B⁻¹A. Default: a factorisation, where the entries of B are known. B must be
        regular.
    """

    rtol: float | None = eqx.field(static=True, default=None)
    krylov_dim: int | None = eqx.field(static=True, default=None)
    max_restarts: int | None = eqx.field(static=True, default=None)
    repeated: bool = eqx.field(static=True, default=False)
    mass_solver: lx.AbstractLinearSolver | None = None

    def __check_init__(self):
        solver = self.mass_solver
        if not isinstance(solver, lx.AbstractLinearSolver | None):
            raise TypeError(f"`mass_solver` must be a lineax solver; got {solver!r}.")
        if self.rtol is not None:
            check_real("rtol", self.rtol, zero=True)
        if self.krylov_dim is not None:
            check_integer("krylov_dim", self.krylov_dim, 3)
        if self.max_restarts is not None:
            check_integer("max_restarts", self.max_restarts, 1)
        check_flag("repeated", self.repeated)

    def tolerance(self, dtype) -> float:
        eps = float(jnp.finfo(dtype).eps)
        return eps ** (2 / 3) if self.rtol is None else self.rtol

    def dimension(self, n: int, k: int) -> int:
        """The Krylov dimension used for k pairs of an operator of order n."""
        m = self._default(k) if self.krylov_dim is None else self.krylov_dim
        if m < k + 3 and m < n:
            raise ValueError(
                f"`krylov_dim` must be at least k + 3 = {k + 3}; got {self.krylov_dim}."
            )
        return min(m, n - 1)

    def suits(self, n: int, k: int) -> bool:
        """Whether a Krylov space is less than the whole space: otherwise take `Dense`,
        which needs no more products, and then knows all eigenvalues."""
        self.dimension(n, k)
        return n > (self._default(k) if self.krylov_dim is None else self.krylov_dim)

    def confirms(self, selection: AbstractSelection, k: int, is_real: bool) -> bool:
        """Whether no other pair is wanted more than those on which a run ends."""
        small = self.krylov_dim is not None and self.krylov_dim < self._default(k)
        return selection.is_extreme(is_real) and not small

    def limit(self, n: int) -> int:
        """The largest number of restarts."""
        return 10 * n if self.max_restarts is None else self.max_restarts

    @staticmethod
    def _default(k: int) -> int:
        return max(2 * k + 1, 20)

    def compute(self, pencil, selection, k, *, v0, left, progress_meter):
        dtype = pencil.dtype if selection.keeps_pairs else complex_dtype(pencil.dtype)
        start = start_vector(v0, pencil.n, dtype)

        def run(transformation: AbstractTransformation) -> InvariantBlock:
            limit = self.limit(pencil.n)
            found = self.find(transformation, selection, k, start, limit, progress_meter)
            return self.block(transformation, selection, k, start, found, left=left)

        if pencil.mass is None:
            return run(Direct(pencil))
        solver = self.mass_solver
        if solver is None:
            solver = default_linear_solver(
                [pencil.mass], "`mass`", "`KrylovSchur(mass_solver=...)`"
            )
        mass = ShiftedPencil(Pencil(pencil.mass, None), jnp.zeros((), pencil.dtype))
        inverse = Inverse.of(mass, solver)
        norm = norm_estimate(mass.mv, pencil.n, pencil.dtype)
        _, singular = inverse.is_singular(default_start(pencil.n, pencil.dtype), norm)
        block = run(MassInverted(pencil, inverse))
        block.stats["num_solves"] += 1
        return without(block, singular & jnp.isfinite(norm), RESULTS.singular)

    def find(
        self,
        transformation: AbstractTransformation,
        selection: AbstractSelection,
        k: int,
        start: Inexact[Array, " n"],
        limit: Int[Array, ""] | int,
        progress_meter: AbstractProgressMeter = NoProgressMeter(),
    ) -> KrylovResult:
        """A run of at most `limit` restarts with products of the transformation."""
        n = transformation.pencil.n
        return krylov_schur(
            transformation.mv,
            start,
            transformation.selection(selection),
            k,
            krylov_dim=self.dimension(n, k),
            rtol=self.tolerance(start.dtype),
            max_restarts=limit,
            repeated=self.repeated,
            progress_meter=progress_meter,
        )

    def block(
        self,
        transformation: AbstractTransformation,
        selection: AbstractSelection,
        k: int,
        start: Inexact[Array, " n"],
        found: KrylovResult,
        *,
        left: bool,
    ) -> InvariantBlock:
        """The wanted pairs of a pencil, of which a run from `start` has `found` those of
        its transformation."""
        pencil = transformation.pencil
        rtol = self.tolerance(start.dtype)
        solves, products = found.num_matvecs, found.active.size
        num_restarts, norm = found.num_restarts, found.norm
        if transformation.inverse is None:
            pairs = _pairs_if_finite(transformation, found, rtol, norm)
        else:
            # θ says nothing about the size of A. A random vector does, on average.
            norm = norm_estimate(pencil.mv, pencil.n, pencil.dtype)
            products = products + 1
            found = _purified(found)
            first = _pairs(transformation, found, rtol, norm)
            # Close to one eigenvalue the rounding errors of its θ drown the others'.
            pairs = jax.lax.cond(
                first.verified,
                lambda _: first,
                lambda found: _pairs(
                    transformation, _multiplied(transformation, found), rtol, norm
                ),
                found,
            )
            solves = solves + jnp.where(first.verified, 0, found.active.size)
        active, matrix, size = found.active & pairs.verified, pairs.matrix, pairs.size
        # Squares of anything smaller would underflow, and verify nothing.
        eps = jnp.finfo(pencil.dtype).eps
        tiny = jnp.finfo(pencil.dtype).tiny ** 0.5 / eps
        active = active & ((norm == 0) | (norm > tiny))
        converged = jnp.sum(active[:k])
        good = (converged == k) & found.done
        wanted = transformation.selection(selection)
        confirmed = self.confirms(wanted, k, pencil.is_real)
        success = RESULTS.successful if confirmed else RESULTS.unconfirmed
        result = RESULTS.where(good, success, RESULTS.not_converged)
        left_basis = None
        if left:
            # The transposed pencil has the same eigenvalues, and conj(left vectors).
            limit = self.limit(pencil.n)
            dual = self.find(transformation.transpose(), selection, k, start, limit)
            if transformation.inverse is not None:
                dual = _purified(dual)
            left_basis = biorthogonal(
                pencil, dual.basis.conj(), pairs.basis, active & dual.active
            )
            inside = jnp.where(active, leading(active, matrix), 0).conj().T
            defect = (
                pencil.adjoint_mm(left_basis)
                - pencil.adjoint_mass_mm(left_basis) @ inside
            )
            good = jnp.linalg.norm(jnp.where(active, defect, 0)) <= 1e3 * (
                jnp.linalg.norm(left_basis)
                * (rtol * jnp.max(jnp.where(active, size, 0)) + 10 * eps * norm)
            )
            result = RESULTS.where(
                good | (result != success), result, RESULTS.left_not_found
            )
            solves = solves + dual.num_matvecs
            products = products + active.size
            num_restarts = num_restarts + dual.num_restarts
        result = RESULTS.where(found.finite, result, RESULTS.nonfinite)
        nan = jnp.where(found.finite, 0.0, jnp.nan).astype(norm.dtype)
        return InvariantBlock(
            basis=pairs.basis,
            matrix=leading(active, matrix),
            eigenvalues=pairs.eigenvalues + nan.astype(pairs.eigenvalues.dtype),
            coordinates=pairs.coordinates,
            left_basis=left_basis,
            active=active,
            residuals=pairs.residuals + nan,
            norm=norm,
            mass_norm=pairs.mass_norm,
            stats=transformation.stats(solves, products)
            | {"num_restarts": num_restarts, "num_converged": converged},
            result=result,
            transformation=transformation,
            outside=transformation.eigenvalues(found.outside),
        )


class _Pairs(NamedTuple):
    """Eigenpairs of a pencil from a run's Schur vectors, and what their residuals say;
    `size` is |λ| ‖B‖."""

    basis: Inexact[Array, "n m"]
    matrix: Inexact[Array, "m m"]
    eigenvalues: Complex[Array, " m"]
    coordinates: Complex[Array, "m m"]
    residuals: Float[Array, " m"]
    size: Float[Array, " m"]
    mass_norm: Float[Array, ""]
    verified: Bool[Array, ""]


def _pairs(
    transformation: AbstractTransformation,
    found: KrylovResult,
    rtol: float,
    norm: Float[Array, ""],
) -> _Pairs:
    pencil = transformation.pencil
    values, coordinates = transformation.eigenvalues(found.eigenvalues), found.coordinates
    matrix, residuals, _, bx = galerkin(pencil, found.basis, values, coordinates)
    mass_norm = jnp.linalg.norm(bx) / found.active.size**0.5
    size = jnp.abs(values) * mass_norm
    # The recurrence may claim more than the pairs hold.
    eps = jnp.finfo(pencil.dtype).eps
    enough = jnp.maximum(10 * rtol * size, 1e3 * eps * norm)
    verified = jnp.all(jnp.where(found.active, residuals <= enough, True))
    return _Pairs(
        found.basis, matrix, values, coordinates, residuals, size, mass_norm, verified
    )


def _pairs_if_finite(
    transformation: AbstractTransformation,
    found: KrylovResult,
    rtol: float,
    norm: Float[Array, ""],
) -> _Pairs:
    """In a branch of its own the blocks that residuals take, A X and two more, are gone
    before vectors are made of X: of 47 vectors of length n, 18 in a real run for 6 pairs.
    """

    def nothing(found: KrylovResult) -> _Pairs:
        shapes = jax.eval_shape(lambda f: _pairs(transformation, f, rtol, norm), found)
        return jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    return jax.lax.cond(
        found.finite, lambda f: _pairs(transformation, f, rtol, norm), nothing, found
    )


def _multiplied(
    transformation: AbstractTransformation, found: KrylovResult
) -> KrylovResult:
    """X after one more product with C, `C X L⁻¹`, orthonormal again.

    In eigenvectors rather than Schur vectors, where these are not close to dependent: the
    coupling of a Schur vector to one with a far larger θ would let its rounding in.
    """
    active = found.active
    both = active[:, None] & active[None, :]
    eye = jnp.eye(active.size, dtype=found.matrix.dtype)
    inside = jnp.where(both, found.matrix, eye)
    w = jnp.where(both, found.coordinates, eye.astype(found.coordinates.dtype))
    if not jnp.iscomplexobj(inside):
        # Of a pair (w, w̄), w first: its real and imaginary parts.
        w = jnp.where(found.eigenvalues.imag < 0, w.imag, w.real)
    w = w / jnp.linalg.norm(w, axis=0).astype(w.dtype)
    apart = jnp.linalg.svd(w, compute_uv=False)[-1] > jnp.finfo(w.dtype).eps ** 0.5
    w = jnp.where(apart, w, eye)
    inverse = jnp.linalg.inv(w)
    image = jax.vmap(transformation.mv)((found.basis @ w).T).T
    image = image @ jnp.linalg.inv(inverse @ inside @ w)
    basis, r = jnp.linalg.qr(jnp.where(active, image, found.basis))
    coordinates = (r @ inverse).astype(found.coordinates.dtype) @ found.coordinates
    return found._replace(basis=basis, coordinates=leading(active, coordinates))


def _purified(found: KrylovResult) -> KrylovResult:
    """X after one more product with A, which costs none: `A X L⁻¹ = X + x bᵀL⁻¹`.

    It takes out what A maps to almost nothing: of a shift-inverted operator, infinite
    eigenvalues and eigenvalues far away, which weigh most in a residual (Ericsson and
    Ruhe 1980; Nour-Omid, Parlett, Ericsson and Jensen 1987).
    """
    active = found.active
    both = active[:, None] & active[None, :]
    eye = jnp.eye(active.size, dtype=found.matrix.dtype)
    inside = jnp.where(both, found.matrix, eye)
    step = jnp.linalg.solve(inside.T, jnp.where(active, found.coupling, 0))
    # Of [X x] with orthonormal columns the Gram matrix is known.
    triangle = jnp.linalg.cholesky(eye + jnp.outer(step.conj(), step)).conj().T
    inverse = jnp.linalg.inv(triangle)
    return found._replace(
        basis=(found.basis + jnp.outer(found.rest, step)) @ inverse,
        matrix=triangle @ found.matrix @ inverse,
        coordinates=triangle.astype(found.coordinates.dtype) @ found.coordinates,
    )
