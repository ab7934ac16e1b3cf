"""The Krylov decomposition: extended by Arnoldi steps, truncated at a restart."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Inexact, Int, PyTree

from .._kernels import kernel
from .basis import (
    from_rows,
    inner,
    norm,
    project,
    random_vector,
    rotate,
    scaled,
    to_rows,
    vector_of,
    with_vector,
)


class KrylovDecomposition(NamedTuple):
    """`A V[:m] = V H` with orthonormal rows of V: m + 1 vectors of `c` real rows, each
    split into `parts` of equal length."""

    basis: PyTree[Float[Array, "m1 c _parts _size"]]
    matrix: Inexact[Array, "m1 m"]


class Orthogonalised(NamedTuple):
    """`w = V h + rest`, with `before` the norm of w and `after` that of the rest."""

    coefficients: Inexact[Array, " m1"]
    rest: PyTree[Float[Array, "c _parts _size"]]
    before: Float[Array, ""]
    after: Float[Array, ""]


def orthogonalise(
    used: Int[Array, ""],
    basis: PyTree[Float[Array, "m1 c _parts _size"]],
    w: PyTree[Float[Array, "c _parts _size"]],
    metric: Callable[[PyTree[Array]], PyTree[Array]] | None = None,
) -> Orthogonalised:
    """Classical Gram–Schmidt against the `used` vectors, with a second pass if the first
    cancelled (Daniel, Gragg, Kaufman and Stewart 1976); in the inner product of the
    `metric` B, ⟨x, B y⟩."""

    def measured(w: PyTree[Array]) -> tuple[PyTree[Array], Float[Array, ""]]:
        """B w, and the norm of w."""
        image = to_rows(metric(from_rows(w)))  # pyright: ignore[reportOptionalCall]
        return image, jnp.sqrt(inner(w, image))

    def one_pass(state: tuple) -> tuple:
        h, w, image, size, rounds, _ = state
        if metric is None:
            w, correction, after = project(used, basis, w)
        else:
            w, correction, _ = project(used, basis, w, image)
            image, after = measured(w)
        again = (rounds == 0) & (after <= size / jnp.sqrt(2))
        return h + correction, w, image, after, rounds + 1, again

    image, before = (None, norm(w)) if metric is None else measured(w)
    m1, c = jtu.tree_leaves(basis)[0].shape[:2]
    h = jnp.zeros(m1, before.dtype)
    h = h if c == 1 else jax.lax.complex(h, h)
    init = h, w, image, before, jnp.asarray(0), jnp.asarray(True)
    # A loop, because its body is compiled only once.
    h, w, _, after, _, _ = jax.lax.while_loop(lambda s: s[-1], one_pass, init)
    return Orthogonalised(h, w, before, after)


def place(
    used: Int[Array, ""],
    row: Int[Array, ""],
    basis: PyTree[Float[Array, "m1 c _parts _size"]],
    found: Orthogonalised,
) -> tuple[PyTree[Float[Array, "m1 c _parts _size"]], Inexact[Array, " m1"], Array]:
    """Stores the normalised rest in the basis: after the used vectors, or, without a test
    for breakdown, in place of one of them. Zero after a breakdown."""
    h, w, before, size = found
    broken = (row == used) & (size <= 10 * jnp.finfo(size.dtype).eps * before)
    w = jtu.tree_map(lambda w: jnp.where(broken, 0, w / size), w)
    h = h.at[used].set(jnp.where(broken, 0, size).astype(h.dtype))
    return with_vector(basis, row, w), h, broken


@kernel("orthogonalise", in_place=2)
def append(
    used: Int[Array, ""],
    row: Int[Array, ""],
    basis: PyTree[Float[Array, "m1 c _parts _size"]],
    w: PyTree[Float[Array, "c _parts _size"]],
) -> tuple[PyTree[Float[Array, "m1 c _parts _size"]], Inexact[Array, " m1"], Array]:
    """Orthogonalises w and places it; returns the basis, its coefficients, and whether
    nothing was left."""
    return place(used, row, basis, orthogonalise(used, basis, w))


def append_within(
    admit: Callable[[PyTree[Array]], PyTree[Array]],
    used: Int[Array, ""],
    row: Int[Array, ""],
    basis: PyTree[Float[Array, "m1 c _parts _size"]],
    w: PyTree[Float[Array, "c _parts _size"]],
) -> tuple[PyTree[Float[Array, "m1 c _parts _size"]], Inexact[Array, " m1"], Array]:
    """`append` of a w in the subspace onto which `admit` projects, which holds the basis.

    After cancellation, the rest of w is small, but what rounding brought in from outside
    the subspace is not. It is removed too; otherwise eigenvalues of the excluded part (0,
    often a wanted one) grow out of it.
    """
    basis, h, _ = append(used, row, basis, w)
    v = to_rows(admit(from_rows(vector_of(basis, row))))
    size = norm(v)
    after = size * h[used].real
    broken = (row == used) & (
        after <= 10 * jnp.finfo(after.dtype).eps * jnp.linalg.norm(h)
    )
    v = scaled(v, jnp.where(broken, jnp.inf, size))
    h = h.at[used].set(jnp.where(broken, 0, after).astype(h.dtype))
    return with_vector(basis, row, v), h, broken


def expand(
    mv: Callable[[PyTree[Array]], PyTree[Array]],
    decomposition: KrylovDecomposition,
    start: Int[Array, ""],
    anew: Bool[Array, ""] | bool = False,
    *,
    admit: Callable[[PyTree[Array]], PyTree[Array]] | None = None,
    metric: Callable[[PyTree[Array]], PyTree[Array]] | None = None,
    seed: Int[Array, ""] | int = 0,
) -> KrylovDecomposition:
    """Extends the decomposition from `start` vectors and their residual to full size.

    With `anew`, the residual is replaced by a random vector. The same happens after a
    breakdown: the residual of an invariant subspace is rounding, and its direction means
    nothing.
    """
    m = decomposition.matrix.shape[1]

    def fresh(v: PyTree[Array], j: Int[Array, ""]) -> PyTree[Array]:
        leaves, treedef = jtu.tree_flatten(v)
        # Avoids the seeds of the default start vector, 0 and 1.
        first = jnp.asarray(seed) + j + 2
        w = [random_vector(x.shape, x.dtype, first + i) for i, x in enumerate(leaves)]
        w = jtu.tree_unflatten(treedef, w)
        return w if admit is None else to_rows(admit(from_rows(w)))

    def step(state: tuple) -> tuple:
        (basis, matrix), j, anew = state
        v = vector_of(basis, j)
        w = jax.lax.cond(
            anew, lambda v: fresh(v, j), lambda v: to_rows(mv(from_rows(v))), v
        )
        used = j + 1
        # A random vector replaces the residual, and no product was made.
        grown = jnp.where(anew, j, used)
        if metric is not None:
            found = orthogonalise(used, basis, w, metric)
            basis, h, broken = place(used, grown, basis, found)
        elif admit is not None:
            basis, h, broken = append_within(admit, used, grown, basis, w)
        else:
            basis, h, broken = append(used, grown, basis, w)
        h = jnp.where(anew, matrix[:, jnp.minimum(j, m - 1)], h)
        matrix = jax.lax.dynamic_update_index_in_dim(
            matrix, h, j, 1, allow_negative_indices=False
        )
        return KrylovDecomposition(basis, matrix), grown, broken

    def unfinished(state: tuple) -> Bool[Array, ""]:
        _, j, anew = state
        return (j < m) | anew

    basis, matrix = decomposition
    matrix = matrix.at[start].multiply(jnp.where(anew, 0, 1))
    init = KrylovDecomposition(basis, matrix), jnp.asarray(start), jnp.asarray(anew)
    return jax.lax.while_loop(unfinished, step, init)[0]


def restart(
    decomposition: KrylovDecomposition,
    q: Inexact[Array, "m m"],
    p: Int[Array, ""],
    without: Bool[Array, ""] | None = None,
) -> KrylovDecomposition:
    """Keeps the leading p Schur vectors, followed by the residual vector; `without` it
    nothing stands in its place (after the kernel, anything)."""
    basis, matrix = decomposition
    m = matrix.shape[1]
    kept = jnp.arange(m) < p
    q = jnp.where(kept, q, 0)
    # Columns 0 to p − 1 are those of q, column p picks the residual, others are zero.
    rest = 1 if without is None else (~without).astype(q.dtype)
    turn = jnp.zeros((m + 1, m + 1), q.dtype).at[:m, :m].set(q).at[m, p].set(rest)
    basis = jtu.tree_map(lambda b: rotate(p, turn, b), basis)
    return KrylovDecomposition(basis, turn.conj().T @ matrix @ q)
