"""Pairs found elsewhere, made differentiable."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact, Int, Num, PyTree

from ._attach_hermitian import attach_hermitian
from ._check import check_flag, check_integer, check_real
from ._eigensolver import InvariantBlock, nonfinite, ShiftInvert, without
from ._eigs import MOVING, solution_of_block, watched_solution
from ._failure import check_throw, raise_unless_successful
from ._gauge import as_gauge, Gauge
from ._nonlinear import as_nonlinear
from ._nonlinear_eigs import attach_nonlinear
from ._operator import (
    as_pencil,
    complex_dtype,
    Domain,
    entries,
    of_norm_one,
    Pencil,
    pencil_of_moderate_size,
    Scaling,
    times_real,
)
from ._problem import check_adjoint, stop
from ._program import Program
from ._record import record
from ._rule import (
    accuracy_of,
    check_ties,
    ImplicitAdjoint,
    PairOptions,
    solve_bordered,
    SylvesterSolve,
    Ties,
)
from ._second_try import FoundPairs, with_second_try
from ._solution import RESULTS, Solution
from ._spectral import Known


def attach(
    operator: Any,
    eigenvalues: ArrayLike,
    eigenvectors: PyTree[ArrayLike],
    left_eigenvectors: PyTree[ArrayLike] | None = None,
    *,
    mass: Any = None,
    like: PyTree | None = None,
    adjoint: ImplicitAdjoint | None = None,
    gauge: Gauge | None = None,
    polish: int = 0,
    ties: Ties = "nan",
    tie_rtol: float | None = None,
    rtol: float | None = None,
    hermitian: bool = False,
    throw: bool | None = None,
) -> Solution:
    """Makes eigenpairs from any solver differentiable with respect to the operator.

    The pairs may come from SciPy, SLEPc or a file. They are checked, brought into the
    gauge, and given the derivatives that [`implicit_eig.eigs`][] gives its own.

    **Arguments:**

    - `operator`, `mass`, `like`: as in [`implicit_eig.eigs`][]. `like=None` for a
        callable takes the shape and dtype of one eigenvector. A function that does not
        take such a vector is `T(λ)` of [`implicit_eig.nonlinear_eigs`][], and a tuple of
        operators the coefficients of [`implicit_eig.polyeig`][].
    - `eigenvalues`: shape `(k,)`, in any order, which is kept.
    - `eigenvectors`: shape `(n, k)` (or the domain's structure with a trailing axis),
        linearly independent, of any scale. Neither carries a derivative. For a real
        operator and real pairs the block is real; of a conjugate pair one member or both
        may be given. Products with a real operator are real ones in either case.
    - `left_eigenvectors`: the same shape, `uᴴA = λuᴴB`, any scale; then gradients of
        eigenvalues need no linear solve. (Of `T(λ)` they are computed, where these are
        given.)
    - `adjoint`, `gauge`, `ties`, `tie_rtol`: as in [`implicit_eig.eigs`][].
    - `polish`: number of Newton steps on the bordered system before anything else, for
        all pairs together; converges quadratically, to different pairs if the given
        ones are too far off.
    - `rtol`: a pair with `‖Av − λBv‖ > rtol · max|λ| · ‖B‖ · ‖v‖`, or a left one, is
        refused. Default `sqrt(eps)`: the error of a derivative is about the residual
        over the gap.
    - `hermitian`: whether A and B are (B positive definite): then pairs, gauge and
        derivatives are those of [`implicit_eig.eigsh`][], eigenvalues real, without
        `left_eigenvectors` and `polish`. Vectors of one eigenvalue need not be
        orthogonal, and are made so.
    - `throw`: as in [`implicit_eig.eigs`][]; refused pairs have NaN derivatives.

    **Returns:** a [`implicit_eig.Solution`][].

    **Cost:** one block product with A, and one bordered solve a polishing step.

    !!! Example

        ```python
        import jax, numpy as np, scipy.sparse.linalg, implicit_eig as ieig

        n, i = 50, np.arange(50)
        rows, columns = np.append(i, i[1:]), np.append(i, i[:-1])
        values = np.append(i, i[1:] / n) + 1.0
        matrix = scipy.sparse.csr_array((values, (rows, columns)), shape=(n, n))
        w, v = scipy.sparse.linalg.eigs(matrix, k=2)

        def loss(values):
            op = ieig.SparseOperator(values, rows, columns, n)
            return ieig.attach(op, w, v).eigenvalues[0].real

        jax.grad(loss)(values)
        ```
    """
    check_ties(ties, tie_rtol)
    check_throw(throw)
    check_flag("hermitian", hermitian)
    polish = check_integer("polish", polish, 0)
    if rtol is not None:
        check_real("rtol", rtol)
    eigenvalues = jnp.asarray(eigenvalues)
    if eigenvalues.ndim != 1 or eigenvalues.size == 0:
        raise ValueError(
            f"`eigenvalues` must have shape (k,), k ≥ 1; got {eigenvalues.shape}."
        )
    k = eigenvalues.size
    nonlinear = None
    if mass is None and not hermitian:
        nonlinear = as_nonlinear(operator, like, eigenvectors)
    if nonlinear is not None:
        if ties != "nan" or tie_rtol is not None:
            raise ValueError("Pairs of `T(λ)` take neither `ties` nor `tie_rtol`.")
        vectors = _columns(eigenvectors, nonlinear.domain, k, "eigenvectors")
        options = {"adjoint": adjoint, "gauge": gauge, "throw": throw}
        options |= {"left": left_eigenvectors is not None, "polish": polish, "rtol": rtol}
        return attach_nonlinear(nonlinear, (eigenvalues, vectors), **options)
    if like is None and callable(operator):
        like = jtu.tree_map(
            lambda v: jax.ShapeDtypeStruct(jnp.shape(v)[:-1], jnp.asarray(v).dtype),
            eigenvectors,
        )
    pencil = as_pencil(operator, mass, like)
    vectors = _columns(eigenvectors, pencil.domain, k, "eigenvectors")
    left = None
    if left_eigenvectors is not None:
        left = _columns(left_eigenvectors, pencil.domain, k, "left_eigenvectors")
    adjoint = check_adjoint(adjoint)
    has_left, hide = left is not None, throw is not False
    options = PairOptions(k, has_left, gauge, ties, tie_rtol, hide)  # pyright: ignore[reportArgumentType]
    if hermitian:
        return attach_hermitian(
            pencil, (eigenvalues, vectors), adjoint, options, polish, rtol, throw
        )
    known = Known(stop(eigenvalues.astype(complex_dtype(pencil.dtype))))
    gauge = as_gauge(gauge, pencil.domain)
    options = dataclasses.replace(options, gauge=gauge)
    vectors, left = _one_dtype(pencil, eigenvalues, vectors, left)
    given = _Given(
        pencil=pencil,
        eigenvalues=known.eigenvalues,
        vectors=stop(vectors),
        left=stop(left),
        solve=adjoint.bind(pencil, None, known, k),
        polish=polish,
        rtol=rtol,
    )
    (solution,) = with_second_try(
        _attach, _again, given, throw, adjoint, MOVING, (options,)
    )
    solution = raise_unless_successful(solution, throw, k=k)
    return watched_solution(gauge, solution)


@record
class _Given:
    """Pairs of a pencil, and who solves the linear systems of their derivatives."""

    pencil: Pencil
    eigenvalues: Complex[Array, " k"]
    vectors: Inexact[Array, "n k"]
    left: Inexact[Array, "n k"] | None
    solve: SylvesterSolve
    polish: int = eqx.field(static=True)
    rtol: float | None = eqx.field(static=True)

    def of_moderate_size(self) -> "tuple[_Given, Scaling]":
        """The same where nothing under- or overflows, and what it stands for."""
        pencil, scaling = pencil_of_moderate_size(self.pencil)
        size, left = scaling.eigenvalues, self.left
        selection = self.solve.selection.rescaled(size)
        return dataclasses.replace(
            self,
            pencil=pencil,
            eigenvalues=times_real(self.eigenvalues, 1 / size),
            left=None if left is None else scaling.given_left(left),
            solve=dataclasses.replace(self.solve, selection=selection),
        ), scaling

    @property
    def eigensolver(self) -> ShiftInvert:
        """Who makes a factor, where the default solver of derivatives did not do."""
        return ShiftInvert(0.0)

    def beside(self) -> Num[Array, ""] | None:
        """A shift beside the eigenvalues, where the pencil can be factorised: elsewhere
        than any of them."""
        parts = [x for x in (self.pencil.operator, self.pencil.mass) if x is not None]
        if any(entries(x) is None for x in parts):
            return None
        values = self.eigenvalues
        largest = jnp.max(jnp.abs(values))
        step = float(jnp.finfo(largest.dtype).eps) ** 0.25
        step = step * jnp.where(largest > 0, largest, 1)
        shift = jnp.mean(values) + step.astype(values.dtype)
        return shift if jnp.iscomplexobj(self.vectors) else shift.real


def _columns(
    vectors: PyTree[ArrayLike], domain: Domain, k: int, name: str
) -> Inexact[Array, "n k"]:
    leaves, treedef = jtu.tree_flatten(vectors)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    shapes = [(*s.shape, k) for s in domain.leaves]
    if treedef != domain.treedef or [x.shape for x in leaves] != shapes:
        raise ValueError(
            f"`{name}` must have shape {shapes} for {k} eigenvalues; got "
            f"{[x.shape for x in leaves]}."
        )
    return jnp.concatenate([x.reshape(-1, k) for x in leaves])


def _one_dtype(pencil: Pencil, eigenvalues, vectors, left):
    """Real where operator and pairs are real, else complex."""
    given = [x for x in (eigenvalues, vectors, left) if x is not None]
    real = pencil.is_real and not any(jnp.iscomplexobj(x) for x in given)
    dtype = pencil.dtype if real else complex_dtype(pencil.dtype)
    return vectors.astype(dtype), None if left is None else left.astype(dtype)


@Program
def _attach(
    given: _Given,
    signal: Float[Array, ""] | None,
    keep: bool,
    options: PairOptions,
) -> tuple[Solution, Float[Array, ""], FoundPairs | None]:
    """The solution, the signal of failed solves, and what a second try needs where it is
    to be kept."""
    given, scaling = given.of_moderate_size()
    block = stop(_block(stop(given)))
    solve = stop(given.solve.for_block(block))
    solution, signal = _solution(given, block, solve, signal, scaling, options)
    pairs = None
    if keep:
        pairs = FoundPairs.of(block, accuracy_of(block, given.pencil), given.beside())
    return solution, signal, pairs


def _again(
    given: _Given,
    signal: Float[Array, ""],
    pairs: FoundPairs,
    options: PairOptions,
) -> tuple[Solution, Float[Array, ""]]:
    """What `_attach` made of these pairs, for derivatives by GMRES."""
    given, scaling = given.of_moderate_size()
    solve, options = pairs.solved_by_gmres(given), options.known_to(pairs.accuracy)
    return _solution(given, pairs.block, solve, signal, scaling, options)


def _solution(
    given: _Given,
    block: InvariantBlock,
    solve: SylvesterSolve,
    signal: Float[Array, ""] | None,
    scaling: Scaling,
    options: PairOptions,
) -> tuple[Solution, Float[Array, ""]]:
    solution, signal = solution_of_block(
        given.pencil, block, solve, signal, scaling, options
    )
    return _in_given_order(solution, block.position), signal


def _in_given_order(solution: Solution, position: Int[Array, " k"] | None) -> Solution:
    """A block has those that are no eigenpairs last."""
    assert position is not None  # a block that was judged has it
    back = jnp.argsort(position)
    per_pair = (
        "eigenvalues",
        "eigenvectors",
        "left_eigenvectors",
        "residuals",
        "condition_numbers",
    )
    arrays = {name: getattr(solution, name) for name in per_pair}
    arrays = jtu.tree_map(lambda x: jnp.take(x, back, axis=-1), arrays)
    return dataclasses.replace(solution, **arrays)


def _block(given: _Given) -> InvariantBlock:
    pencil, eigenvalues, solve = given.pencil, given.eigenvalues, given.solve
    vectors, left, polish, rtol = given.vectors, given.left, given.polish, given.rtol
    k = eigenvalues.size
    every = jnp.ones(k, bool)
    basis, r = jnp.linalg.qr(of_norm_one(vectors))
    diagonal = eigenvalues if jnp.iscomplexobj(vectors) else eigenvalues.real
    matrix = jnp.linalg.solve(r.T, (r * diagonal).T).T
    coordinates = r.astype(complex_dtype(r.dtype))
    for _ in range(polish):
        basis, matrix, eigenvalues, coordinates = _newton(
            pencil, basis, matrix, coordinates, every, solve
        )
    num_matvecs = k * (1 + polish) + 1
    if left is not None:
        left_basis, r = jnp.linalg.qr(of_norm_one(left))
        left = left_basis, r.astype(coordinates.dtype)
        num_matvecs = num_matvecs + k
    if pencil.is_real and jnp.iscomplexobj(basis):
        num_matvecs = 2 * num_matvecs - 1
    eps = float(jnp.finfo(pencil.dtype).eps)
    rtol = eps**0.5 if rtol is None else rtol
    scale = jnp.max(jnp.abs(eigenvalues))
    block = InvariantBlock.of(
        pencil,
        basis,
        eigenvalues,
        coordinates,
        k=k,
        second=~every,
        wanted=every,
        usable=every,
        rtol=rtol,
        slack=100,
        scale=scale,
        left=left,
    )
    good = block.result == RESULTS.successful
    result = RESULTS.where(good, block.result, RESULTS.residual_too_large)
    count = jnp.sum(block.active)
    counts = {"num_matvecs": num_matvecs, "num_restarts": 0, "num_converged": count}
    stats = {name: jnp.asarray(x) for name, x in counts.items()}
    block = dataclasses.replace(block, result=result, stats=stats)
    enough = jnp.maximum(rtol * scale * block.mass_norm, 100 * eps * block.norm)
    block = without(block, good & ~_determined(block, 10 * enough), RESULTS.dependent)
    return nonfinite(block, ~jnp.all(jnp.isfinite(block.residuals)))


def _determined(block: InvariantBlock, enough: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether the pairs determine the subspace they span: they may be right one by one,
    and nearly dependent. `A X − B X L = (A V − B V Λ) W⁻¹` with V = X W, so residuals
    enter it by W⁻¹, and rounding does."""
    both = block.active[:, None] & block.active[None, :]
    w = block.coordinates
    w = jnp.where(both, w, jnp.eye(both.shape[0], dtype=w.dtype))
    eps = float(jnp.finfo(enough.dtype).eps)
    known = jnp.maximum(block.residuals, eps * block.norm)
    defect = jnp.where(block.active, known, 0) @ jnp.abs(jnp.linalg.inv(w))
    return jnp.all(~block.active | (defect <= enough))


def _newton(
    pencil: Pencil,
    basis: Inexact[Array, "n k"],
    matrix: Inexact[Array, "k k"],
    coordinates: Complex[Array, "k k"],
    every: Bool[Array, " k"],
    solve: SylvesterSolve,
):
    """One Newton step on F(X, L) = (AX − BXL, CᴴX − I), pairs kept in their order."""
    defect = pencil.sylvester(basis, matrix)
    step = solve_bordered(pencil, basis, matrix, -defect, every, solve)
    basis, t = jnp.linalg.qr(basis + step.outside)
    matrix = jnp.linalg.solve(t.T, (t @ (matrix + step.inside)).T).T
    w, v = jnp.linalg.eig(matrix)
    moved = jnp.linalg.solve(t.astype(v.dtype) @ coordinates, v)
    nearest = jnp.argmax(jnp.abs(moved), axis=1)
    return basis, matrix, w[nearest], v[:, nearest]
