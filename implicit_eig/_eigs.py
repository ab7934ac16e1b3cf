"""Selected eigenpairs of any operator."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, ArrayLike, Inexact, Num, PyTree

from ._check import check_flag, check_integer
from ._eigensolver import (
    AbstractEigensolver,
    Dense,
    InvariantBlock,
    KrylovSchur,
    ShiftInvert,
)
from ._gauge import AbstractGauge, as_gauge
from ._implicit import block_root, ImplicitAdjoint
from ._operator import as_pencil, Domain, Pencil
from ._pairs import check_ties, default_tie_rtol, pairs_of_block, Ties
from ._progress_meter import AbstractProgressMeter, NoProgressMeter
from ._solution import raise_unless_successful, RESULTS, Solution
from ._which import (
    AbstractSelection,
    as_selection,
    as_shift,
    check_direction,
    check_vector,
    Nearest,
)


# Order up to which a dense spectrum answers questions about its inside.
_SMALL = 256


def eigs(
    operator: Any,
    k: int | None = 6,
    which: Any = "LM",
    *,
    sigma: ArrayLike | None = None,
    mass: Any = None,
    like: PyTree | None = None,
    v0: PyTree[ArrayLike] | None = None,
    left: bool = False,
    eigensolver: AbstractEigensolver | None = None,
    adjoint: ImplicitAdjoint | None = None,
    gauge: AbstractGauge | None = None,
    ties: Ties = "nan",
    tie_rtol: float | None = None,
    throw: bool = True,
    progress_meter: AbstractProgressMeter = NoProgressMeter(),
) -> Solution:
    """k eigenpairs of `A v = λ v` or `A v = λ B v`, differentiable.

    Who finds the pairs (`eigensolver`), who solves the linear systems of their
    derivatives (`adjoint`) and which scale vectors have (`gauge`) are three separate
    choices. Derivatives never pass through the eigensolver's steps: each costs the
    solution of one bordered Sylvester system for the selected pairs, and none for
    eigenvalues where left vectors are at hand (`Dense`, or `left=True`).

    **Arguments:**

    - `operator`: A, of order n: a square array; `BCOO` or `BCSR`; a SciPy sparse array
        (whose values become a constant); any lineax operator; or a callable `v -> A v`
        with `like=`. Differentiable: arrays, sparse values, leaves of operators, what a
        callable closes over. For batches use `jax.vmap`.
    - `k`: number of pairs, `1 ≤ k ≤ n`. `None` means all n of a dense matrix.
    - `which`: the wanted end of the spectrum: `"LM"`, `"SM"` (modulus), `"LR"`, `"SR"`
        (real part), `"LI"`, `"SI"` (imaginary part, of real operators its modulus); a
        callable `λ -> key`, largest key first; [`implicit_eig.Nearest`][];
        [`implicit_eig.Overlap`][].
    - `sigma`: a target, real or complex, no derivative: the k eigenvalues nearest to it,
        by [`implicit_eig.ShiftInvert`][]. With `which` a callable or `Overlap`: the best
        of those a Krylov space around the target shows.
    - `mass`: B, as `operator`. Infinite eigenvalues of a singular B are left out.
    - `like`: for a callable, a vector of its domain (or its `ShapeDtypeStruct`s).
    - `v0`: start vector of iterative eigensolvers; no derivative. Default: fixed.
    - `left`: whether to return left vectors and condition numbers.
    - `eigensolver`: default `Dense()` for arrays, else `KrylovSchur()` (where its Krylov
        space would fill the whole space, `Dense()`, noted in `stats`). With a target,
        `ShiftInvert(sigma)`, and `Dense()` up to order 256.
    - `adjoint`: default [`implicit_eig.ImplicitAdjoint`][]`()`.
    - `gauge`: default [`implicit_eig.LargestReal`][]`()`. Where none is given, the
        gradient of a loss that depends on the phase warns
        ([`implicit_eig.GaugeDependenceWarning`][]).
    - `ties`, `tie_rtol`: as in [`implicit_eig.eig`][], among the selected pairs.
        Eigenvalues that are not selected never matter. The default `tie_rtol` is at
        least ten times the largest residual over the largest `|λ|`: what an iterative
        solver found is tied when it cannot be told apart.
    - `throw`: raise when a run fails; else see `Solution.result`. Not an error:
        `RESULTS.unconfirmed`, by which `KrylovSchur` says that its pairs are right, and
        that better ones inside the spectrum may have escaped it. Pairs that did not
        converge have NaN derivatives, as have those whose linear solve for a derivative
        misses its tolerance ([`implicit_eig.ImplicitAdjoint`][]).
    - `progress_meter`: shows the run: `TextProgressMeter()`, `TqdmProgressMeter()`, or
        your own [`implicit_eig.AbstractProgressMeter`][].

    **Returns:** a [`implicit_eig.Solution`][]: exactly k pairs, best first, of a
    conjugate pair the one with positive imaginary part first.

    **Raises:** `ValueError` or `TypeError` for what can be seen from shapes, dtypes and
    Python values; a run-time error under `throw`.

    **Cost:** `Dense`: O(n³). `KrylovSchur`: `stats["num_matvecs"]` products; a gradient
    about as many products again, whatever the number of parameters. `ShiftInvert`: one
    factorisation, and `stats["num_solves"]` solves; a gradient about as many solves again
    with the same factor.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        def growth(rates):
            mv = lambda v: rates * v + 0.1 * jnp.roll(v, 1)
            return ieig.eigs(mv, k=1, which="LR", like=rates).eigenvalues[0].real

        jax.grad(growth)(jnp.linspace(0.0, 1.0, 100))
        ```
    """
    pencil = as_pencil(operator, mass, like)
    k = _check_k(k, pencil)
    check_ties(ties, tie_rtol)
    check_flag("left", left)
    check_flag("throw", throw)
    selection, target = _target(which, sigma, eigensolver, pencil.domain)
    gauge = as_gauge(gauge, pencil.domain)
    chosen = _choose(eigensolver, pencil, k, sigma, target)
    adjoint = check_adjoint(adjoint)
    if not isinstance(progress_meter, AbstractProgressMeter):
        raise TypeError(
            "`progress_meter` must be an `AbstractProgressMeter`; got "
            f"{progress_meter!r}."
        )
    start = _check_v0(v0, pencil)
    solution = _eigs(
        pencil,
        selection,
        k,
        start,
        left,
        chosen,
        adjoint.bind(pencil, chosen, selection, k, throw),
        gauge,
        ties,
        tie_rtol,
        progress_meter,
        isinstance(chosen, Dense) and not isinstance(eigensolver, Dense | None),
    )
    return raise_unless_successful(solution) if throw else solution


@eqx.filter_jit
def _eigs(
    pencil: Pencil,
    selection: AbstractSelection,
    k: int,
    v0: Inexact[Array, " n"] | None,
    left: bool,
    eigensolver: AbstractEigensolver,
    solve,
    gauge: AbstractGauge,
    ties: Ties,
    tie_rtol: float | None,
    progress_meter: AbstractProgressMeter,
    fell_back: bool,
) -> Solution:
    selection, v0, eigensolver, solve = stop((selection, v0, eigensolver, solve))
    block = eigensolver.compute(
        stop(pencil), selection, k, v0=v0, left=left, progress_meter=progress_meter
    )
    block = stop(block)
    if left and block.left_basis is None:
        raise ValueError(
            f"`left=True`, but {type(eigensolver).__name__} has no left basis."
        )
    solve = solve.for_block(block)
    if v0 is not None:
        zero = ~jnp.any(v0 != 0)
        result = RESULTS.where(zero, RESULTS.zero_start_vector, block.result)
        block = eqx.tree_at(lambda b: b.result, block, result)
    block.stats["dense_fallback"] = jnp.asarray(fell_back)
    return solution_of_block(
        pencil, block, solve, k=k, left=left, gauge=gauge, ties=ties, tie_rtol=tie_rtol
    )


def stop(tree: PyTree) -> PyTree:
    """`stop_gradient` on the arrays of a pytree."""
    dynamic, static = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(dynamic), static)


def solution_of_block(
    pencil: Pencil,
    block: InvariantBlock,
    solve,
    *,
    k: int,
    left: bool,
    gauge: AbstractGauge,
    ties: Ties,
    tie_rtol: float | None,
) -> Solution:
    """The data's way down: block → rule → pairs → what the user sees."""
    basis, matrix, left_basis, mark = block_root(
        pencil,
        block.basis,
        block.matrix,
        block.left_basis,
        coordinates=jnp.where(block.active, block.coordinates, 0),
        active=block.active,
        solve=solve,
    )
    if tie_rtol is None:
        # Eigenvalues are not known better than their residuals.
        worst = jnp.max(jnp.where(block.active, block.residuals, 0))
        largest = jnp.max(jnp.where(block.active, jnp.abs(block.eigenvalues), 0))
        known = 10 * worst / jnp.where(largest > 0, largest, 1)
        least = default_tie_rtol(pencil.n, pencil.dtype)
        accuracy = jnp.maximum(least, jnp.where(largest > 0, known, 0))
    else:
        accuracy = tie_rtol
    pairs = pairs_of_block(
        pencil,
        basis,
        matrix,
        left_basis if left else None,
        block.eigenvalues,
        block.coordinates,
        # Eigenvalues need no solve where there is a left basis.
        marks=(mark if left_basis is None else None, mark),
        active=block.active,
        k=k,
        gauge=gauge,
        ties=ties,
        tie_rtol=accuracy,
    )
    condition_numbers = None
    left_eigenvectors = None
    if pairs.left is not None:
        sizes = [jnp.linalg.norm(x, axis=0) for x in (pairs.left, pairs.right)]
        condition_numbers = sizes[0] * sizes[1]
        left_eigenvectors = pencil.domain.unflatten(pairs.left)
    eps = jnp.finfo(block.residuals.dtype).eps
    scale = jnp.maximum(jnp.abs(block.eigenvalues), eps * block.norm)[:k]
    residuals = block.residuals[:k] / jnp.where(scale > 0, scale, 1)
    return Solution(
        eigenvalues=pairs.eigenvalues,
        eigenvectors=pencil.domain.unflatten(pairs.right),
        left_eigenvectors=left_eigenvectors,
        residuals=residuals,
        condition_numbers=condition_numbers,
        stats=block.stats,
        result=block.result,
    )


def check_adjoint(adjoint: Any) -> ImplicitAdjoint:
    if adjoint is None:
        return ImplicitAdjoint()
    if not isinstance(adjoint, ImplicitAdjoint):
        raise TypeError(f"`adjoint` must be an `ImplicitAdjoint`; got {adjoint!r}.")
    return adjoint


def _check_k(k: Any, pencil: Pencil) -> int:
    n = pencil.n
    if k is None:
        if not isinstance(pencil.operator, lx.MatrixLinearOperator):
            raise ValueError(
                "`k=None` (all pairs) needs a dense matrix; got "
                f"{type(pencil.operator).__name__}."
            )
        return n
    k = check_integer("k", k, 1)
    if k > n:
        raise ValueError(f"`k` must be at most the order n = {n}; got {k}.")
    return k


def _target(
    which: Any, sigma: ArrayLike | None, eigensolver: Any, domain: Domain
) -> tuple[AbstractSelection, Num[Array, ""] | None]:
    """The selection, and the shift of a spectral transformation."""
    selection = as_selection(which, domain)
    if isinstance(eigensolver, ShiftInvert):
        if sigma is not None:
            raise ValueError(
                f"Give the target once; got `sigma={sigma}` beside "
                f"`eigensolver={eigensolver!r}`."
            )
        target = eigensolver.sigma
    elif sigma is not None:
        target = as_shift(sigma)
    else:
        return selection, selection.sigma if isinstance(selection, Nearest) else None
    if which == "LM":
        return Nearest(target), target
    if isinstance(which, str | Nearest):
        raise ValueError(
            f"Beside the target `sigma={target}` the eigenvalues nearest to it are "
            f"wanted; got `which={which!r}`. Leave `which` out, or pass a callable or "
            "`Overlap`."
        )
    return selection, target


def _choose(
    eigensolver: Any,
    pencil: Pencil,
    k: int,
    sigma: ArrayLike | None,
    target: Num[Array, ""] | None,
) -> AbstractEigensolver:
    if not isinstance(eigensolver, AbstractEigensolver | None):
        raise TypeError(
            f"`eigensolver` must be an `AbstractEigensolver`; got {eigensolver!r}."
        )
    if eigensolver is None:
        return _default(pencil, k, target)
    inner = eigensolver
    if isinstance(eigensolver, ShiftInvert):
        inner = eigensolver.inner
    elif isinstance(eigensolver, KrylovSchur) and sigma is not None:
        raise ValueError(
            f"`sigma={sigma}` asks for interior eigenvalues, which `KrylovSchur` cannot "
            "find from products with A alone; take `ShiftInvert(sigma, ...)` or "
            "`Dense()`."
        )
    if isinstance(inner, KrylovSchur) and not inner.suits(pencil.n, k):
        return Dense()
    return eigensolver


def _default(
    pencil: Pencil, k: int, target: Num[Array, ""] | None
) -> AbstractEigensolver:
    n, dense = pencil.n, isinstance(pencil.operator, lx.MatrixLinearOperator)
    if not KrylovSchur().suits(n, k):
        return Dense()
    if target is None:
        return Dense() if dense else KrylovSchur()
    # The whole spectrum of a small matrix takes no longer than to compile anything else.
    return Dense() if n <= _SMALL else ShiftInvert(target)


def _check_v0(v0: Any, pencil: Pencil) -> Inexact[Array, " n"] | None:
    if v0 is None:
        return None
    domain = pencil.domain
    check_vector(v0, domain, "`v0`")
    leaves, treedef = jtu.tree_flatten(v0)
    if pencil.is_real and any(jnp.iscomplexobj(leaf) for leaf in leaves):
        raise TypeError("`v0` is complex, but the operator is real.")
    leaves = [jnp.asarray(leaf).astype(domain.dtype) for leaf in leaves]
    start = domain.flatten(jtu.tree_unflatten(treedef, leaves))
    check_direction(start, "`v0`")
    # The square of a small or large entry would under- or overflow.
    size = jnp.max(jnp.abs(start))
    return start / jnp.where(size > 0, size, 1).astype(start.dtype)
