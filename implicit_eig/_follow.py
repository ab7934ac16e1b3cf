"""Follows modes along a path of parameters, matching them at every step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, PyTree

from ._ad import nan_tangent
from ._assignment import assignment
from ._check import check_integer
from ._eigs import eigs
from ._failure import check_throw, raise_unless_successful
from ._gauge import UnitNorm
from ._operator import as_pencil, complex_dtype, Domain, safe_norm
from ._program import Program, TracedFunction
from ._rule import default_tie_rtol, tied
from ._solution import is_good, RESULTS, Solution


# Modes of the previous step: eigenvalues `(k,)`, unit vectors `(n, k)`.
_Modes = tuple[Complex[Array, " k"], Complex[Array, "n k"]]


def follow(
    problem: Callable[[Any], Any],
    parameters: PyTree[Array],
    start: Solution,
    *,
    candidates: int | None = None,
    throw: bool | None = None,
    **options: Any,
) -> Solution:
    """Follows k modes along a path of parameters: through crossings, where "the first
    eigenvalue" becomes another mode.

    Each step finds candidates by [`implicit_eig.eigs`][] and assigns them one to one to
    the modes of the previous step, so that the sum of the squared overlaps `|vᴴx|²` of
    unit vectors is the largest (the modal assurance criterion; the Hungarian method).
    Vectors tied to rounding, such as those on a crossing, have no direction of their own:
    a mode goes on as the projection of its last vector onto all of them.

    **Arguments:**

    - `problem`: a function of one member of `parameters` that returns what `eigs` takes
        as an operator, or a pair `(operator, mass)`. Differentiable in what it closes
        over.
    - `parameters`: an array, or a pytree of them, whose first axis is the path.
        Differentiable.
    - `start`: the modes to follow, a `Solution` at or near the first parameter, which is
        the first step. Its vectors may have any norm; phases continue from theirs.
    - `candidates`: how many pairs each step finds, at least k. Default: all n of a
        dense matrix if none of `which`, `sigma` and `eigensolver` is given, else `2k`. A
        mode that is not among them is missed.
    - `throw`: whether a step that failed raises, as in `eigs`: by default in plain calls,
        at the end of the path, which is one compiled program. Pairs that failed are NaN,
        with `throw=False` too, and so are derivatives whose linear solve failed. Modes
        continue from the last step that found them.
    - `options`: those of `eigs`, except `k`, `left` and `gauge`. `sigma` may also be a
        function of the last step's eigenvalues, such as `lambda w: w[0]`.

    **Returns:** a [`implicit_eig.Solution`][] whose arrays have the path as their first
    axis, modes in the order of `start`, without left vectors. Vectors have unit 2-norm,
    and a phase for which `vᴴx` with the vector of the previous step is positive.
    `stats["overlap"]` is the smallest overlap of each step. Above 0.71, no other
    candidate of a normal operator can fit better; below, take smaller steps.

    `RESULTS.ambiguous`, a notice, marks steps where some mode and its candidate do not
    overlap most with each other. If overlaps do not decide, as when a conjugate pair
    turns into two real eigenvalues or two real ones into a pair, the order of
    `Re λ + Im λ` is kept.

    Derivatives are those of `eigs`; NaN for vectors on a crossing. The vectors of the
    previous step are held fixed, and with them the assignment and the phase: a loss
    should not depend on the phase.

    **Cost:** that of `eigs` in every step, for all candidates; k² products of candidates.
    A reverse pass keeps what each step has found.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        def matrix(t):  # the eigenvalues t and 1 − t cross at 1/2
            s = jnp.array([[1.0, 0.3 * t], [0.5 + t, 1.0]])
            return s @ jnp.diag(jnp.array([t, 1 - t])) @ jnp.linalg.inv(s)

        t = jnp.linspace(0.0, 1.0, 11)
        modes = ieig.follow(matrix, t, ieig.eigs(matrix(t[0]), 2, "SR"))
        assert jnp.allclose(modes.eigenvalues[:, 0], t, atol=1e-5)
        ```
    """
    check_throw(throw)
    if not isinstance(start, Solution):
        raise TypeError(f"`start` must be a `Solution`; got {type(start).__name__}.")
    if jnp.ndim(start.eigenvalues) != 1:
        raise ValueError(
            "`start` must be one solution, not a stack: eigenvalues of shape (k,); got "
            f"{jnp.shape(start.eigenvalues)}."
        )
    for name in ("k", "left", "gauge"):
        if name in options:
            raise TypeError(
                f"`follow` has no argument `{name}`: it follows the pairs of `start`, in "
                "unit norm and without left vectors."
            )
    k = start.eigenvalues.size
    if candidates is not None:
        check_integer("candidates", candidates, k)
    parameters = jtu.tree_map(jnp.asarray, parameters)
    lengths = {jnp.shape(x)[:1] for x in jtu.tree_leaves(parameters)}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(
            "The arrays of `parameters` must have one first axis in common, that of the "
            f"path; got {[jnp.shape(x) for x in jtu.tree_leaves(parameters)]}."
        )

    def step(modes: _Modes, parameter: PyTree[Array]) -> tuple[_Modes, Solution]:
        found = _candidates(problem(parameter), modes, candidates, options)
        return _step(modes, found)

    first = jax.lax.stop_gradient(_normalized(start))
    one = jtu.tree_map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), parameters)
    structure = jtu.tree_map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), first)
    solution = _follow(TracedFunction.of(step, structure, one), first, parameters)
    return raise_unless_successful(solution, throw, k=k)


@Program
def _follow(step: TracedFunction, modes: _Modes, parameters: PyTree[Array]) -> Solution:
    return jax.lax.scan(lambda *args: step(*args), modes, parameters)[1]


def _normalized(start: Solution) -> _Modes:
    dtype = complex_dtype(start.eigenvalues.dtype)
    v = _columns(start.eigenvectors).astype(dtype)
    return start.eigenvalues.astype(dtype), v / safe_norm(v).astype(dtype)


def _columns(vectors: PyTree[Array]) -> Array:
    leaves = jtu.tree_leaves(vectors)
    return jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in leaves])


def _domain(vectors: PyTree[Array]) -> Domain:
    return Domain.of(
        jtu.tree_map(lambda x: jax.ShapeDtypeStruct(x.shape[:-1], x.dtype), vectors)
    )


def _candidates(
    found: Any,
    modes: _Modes,
    candidates: int | None,
    options: dict[str, Any],
) -> Solution:
    """The pairs among which those of `modes` are sought."""
    operator, mass = found if isinstance(found, tuple) else (found, options.get("mass"))
    options = options | {"mass": mass}
    pencil = as_pencil(operator, mass, options.get("like"))
    n, k = modes[1].shape
    if pencil.n != n:
        raise ValueError(
            f"`problem` returned an operator of order {pencil.n}; the vectors of `start` "
            f"have {n} entries."
        )
    every = options.keys().isdisjoint({"which", "sigma", "eigensolver"})
    every = every and isinstance(pencil.operator, lx.MatrixLinearOperator)
    if candidates is None and not every:
        candidates = min(n, 2 * k)
    if callable(options.get("sigma")):
        options["sigma"] = options["sigma"](modes[0])
    return eigs(operator, candidates, gauge=UnitNorm(), **options)


def _step(modes: _Modes, found: Solution) -> tuple[_Modes, Solution]:
    """The next modes, without derivatives, and the solution shown to the user."""
    x = _columns(found.eigenvectors)
    values, last = (old.astype(x.dtype) for old in jax.lax.stop_gradient(modes))
    w = jax.lax.stop_gradient(found.eigenvalues)
    ties, coefficients, overlaps = _projections(found, x, last)
    mine = assignment(-(overlaps**2 + _in_order(values, w)))
    own = jnp.diagonal(overlaps[:, mine])

    new, vectors = found.eigenvalues[mine], x[:, mine]
    vectors = vectors * _phase(jnp.sum(vectors.conj() * last, axis=0))
    mixes = jnp.sum(ties, axis=1)[mine] > 1
    mixed = _mixture(x, jnp.where(ties[:, mine], coefficients, 0))
    # The value of the mixture, with the missing derivative of the vector.
    mixed = jax.lax.stop_gradient(jnp.where(mixes, mixed - vectors, 0))
    vectors = nan_tangent(vectors, mixes) + mixed

    here = jnp.isfinite(new) & jnp.all(jnp.isfinite(vectors), axis=0)
    now = jnp.where(here, new, values), jnp.where(here, vectors, last)
    now = now[0].astype(modes[0].dtype), now[1].astype(modes[1].dtype)
    now = jax.lax.stop_gradient(now)
    # Candidates other than the modes need not have converged.
    partly = (found.result == RESULTS.not_converged) | (found.result == RESULTS.infinite)
    result = RESULTS.where(partly & jnp.all(here), RESULTS.successful, found.result)
    sure = _certain(overlaps, own, mine, ties)
    unsure = is_good(result) & jnp.all(here) & ~sure
    solution = Solution(
        eigenvalues=new,
        eigenvectors=_domain(found.eigenvectors).unflatten(vectors),
        left_eigenvectors=None,
        residuals=found.residuals[mine],
        condition_numbers=None,
        stats=found.stats
        | {"num_converged": jnp.sum(here), "overlap": jnp.min(jnp.where(here, own, 0))},
        result=RESULTS.where(unsure, RESULTS.ambiguous, result),
    )
    return now, solution


def _projections(
    found: Solution, x: Complex[Array, "n m"], last: Complex[Array, "n k"]
) -> tuple[Bool[Array, "m m"], Complex[Array, "m k"], Float[Array, "k m"]]:
    """Which candidates are tied; the coefficients of the modes' projections onto the
    spaces of tied ones; and the norms of these."""
    w, x = jax.lax.stop_gradient((found.eigenvalues, x))
    x = jnp.where(jnp.isfinite(x), x, 0)
    there = jnp.isfinite(w)
    eps = float(jnp.finfo(x.dtype).eps)
    accuracy = 10 * jnp.max(jnp.where(there, found.residuals, 0))
    accuracy = jnp.maximum(accuracy, default_tie_rtol(x.shape[0], x.dtype))
    gram, inner = x.conj().T @ x, x.conj().T @ last
    itself = jnp.eye(w.size, dtype=bool)
    # Parallel vectors, of a defective eigenvalue, do not span two dimensions.
    ties = tied(w, there, accuracy) & (jnp.abs(gram) < 1 - eps**0.5)
    gram = jnp.where(itself, 1, jnp.where(ties, gram, 0))
    coefficients = jnp.linalg.solve(gram, inner)
    right = jnp.all(jnp.isfinite(coefficients))
    ties = (ties & right) | itself
    coefficients = jnp.where(right, coefficients, inner)
    squares = ties.astype(w.real.dtype) @ (inner.conj() * coefficients).real
    # Rounding must not tell equal norms apart, nor turn zero into NaN.
    return ties, coefficients, jnp.sqrt(jnp.clip(squares, 0, 1)).T


def _mixture(
    x: Complex[Array, "n m"], coefficients: Complex[Array, "m k"]
) -> Complex[Array, "n k"]:
    """Unit vectors along combinations of those found, without derivatives."""
    x = jax.lax.stop_gradient(x)
    mixed = jnp.where(jnp.isfinite(x), x, 0) @ coefficients
    size = safe_norm(mixed)
    return mixed / jnp.where(size > 0, size, 1).astype(x.dtype)


def _in_order(
    last: Complex[Array, " k"], found: Complex[Array, " m"]
) -> Float[Array, "k m"]:
    """A small term that decides between equal overlaps: its sum over the assigned pairs
    is the largest if both have the same order."""

    def places(w: Array) -> Array:
        w = jnp.where(jnp.isfinite(w), w, 0)
        key, size = w.real + w.imag, jnp.max(jnp.abs(w))
        return key / jnp.where(size > 0, size, 1)

    small = float(jnp.finfo(found.dtype).eps) ** 0.5
    return small * places(last)[:, None] * places(found)[None, :]


def _certain(
    overlaps: Float[Array, "k m"],
    own: Float[Array, " k"],
    mine: Array,
    ties: Bool[Array, "m m"],
) -> Bool[Array, ""]:
    """Whether modes and candidates fit each other best, both ways. Then every assignment
    that prefers larger overlaps agrees with this one."""
    of_others = jnp.where(ties[mine], 0, overlaps)
    for_others = jnp.where(ties[mine][:, mine], 0, overlaps[:, mine])
    rival = jnp.maximum(jnp.max(of_others, axis=1), jnp.max(for_others, axis=0))
    return jnp.all(own > rival + float(jnp.finfo(own.dtype).eps) ** 0.5)


def _phase(z: Array) -> Array:
    """z / |z|, and 1 where z is zero."""
    zero = z == 0
    z = jnp.where(zero, 1, z)
    return z / jnp.abs(z).astype(z.dtype)
