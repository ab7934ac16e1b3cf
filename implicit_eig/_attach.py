"""Pairs found elsewhere, made differentiable."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact, PyTree

from ._attach_hermitian import attach_hermitian
from ._check import check_flag, check_integer, check_real
from ._eigensolver import (
    AbstractEigensolver,
    InvariantBlock,
    nonfinite,
    without,
)
from ._eigs import solved
from ._failure import check_throw
from ._gauge import as_gauge, Gauge
from ._nonlinear import as_nonlinear
from ._nonlinear_eigs import attach_nonlinear
from ._numerics import device_eig
from ._operator import (
    as_pencil,
    check_axes,
    complex_dtype,
    Domain,
    entries,
    of_norm_one,
    Pencil,
)
from ._problem import check_adjoint, Problem, stop
from ._progress_meter import NoProgressMeter
from ._rule import (
    check_ties,
    ImplicitAdjoint,
    PairOptions,
    solve_bordered,
    SylvesterSolve,
    Ties,
)
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
    gauge, and get the same derivatives as pairs from [`implicit_eig.eigs`][].

    **Arguments:**

    - `operator`, `mass`, `like`: as in [`implicit_eig.eigs`][]. `like=None` for a
        callable takes the shape and dtype of one eigenvector. A function that does not
        take such a vector is `T(λ)` of [`implicit_eig.nonlinear_eigs`][], and a tuple of
        operators the coefficients of [`implicit_eig.polyeig`][].
    - `eigenvalues`: shape `(k,)`, in any order, which is kept.
    - `eigenvectors`: shape `(n, k)` (or the domain's structure with a trailing axis),
        linearly independent, of any scale. Neither carries a derivative. For a real
        operator and real pairs the block is real; one or both members of a conjugate pair
        may be given. Products with a real operator are real in either case.
    - `left_eigenvectors`: the same shape, `uᴴA = λuᴴB`, any scale; then gradients of
        eigenvalues need no linear solve. (For `T(λ)`, passing them only asks for left
        vectors, which are then computed.)
    - `adjoint`, `gauge`, `ties`, `tie_rtol`: as in [`implicit_eig.eigs`][].
    - `polish`: number of Newton steps on the bordered system before anything else, for
        all pairs together; converges quadratically, but to different pairs if the given
        ones are too far off.
    - `rtol`: a pair with `‖Av − λBv‖ > rtol · max|λ| · ‖B‖ · ‖v‖` is refused, and
        likewise a left one. Default `sqrt(eps)`: the error of a derivative is about the
        residual divided by the gap.
    - `hermitian`: whether A and B are Hermitian (B positive definite): then pairs, gauge
        and derivatives are those of [`implicit_eig.eigsh`][], with real eigenvalues, and
        without `left_eigenvectors` and `polish`. Vectors of one eigenvalue need not be
        orthogonal; they are orthogonalised.
    - `throw`: as in [`implicit_eig.eigs`][]; refused pairs have NaN derivatives.

    **Returns:** a [`implicit_eig.Solution`][].

    **Cost:** one block product with A, and one bordered solve per polishing step.

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
    check_axes("eigenvectors", eigenvectors)
    check_axes("left_eigenvectors", left_eigenvectors)
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
    vectors, left = stop(_one_dtype(pencil, eigenvalues, vectors, left))
    known = Known(stop(eigenvalues.astype(complex_dtype(pencil.dtype))))
    solve = adjoint.bind(pencil, None, known, k)
    eigensolver = GivenPairs(vectors, left, solve if polish else None, polish, rtol)
    problem = Problem(
        pencil=pencil,
        selection=known,
        k=k,
        v0=None,
        eigensolver=eigensolver,
        solve=solve,
        progress_meter=NoProgressMeter(),
        fell_back=False,
    )
    gauge = as_gauge(gauge, pencil.domain)
    options = dataclasses.replace(options, gauge=gauge, in_given_order=True)
    return solved(problem, options, adjoint, throw)


class GivenPairs(AbstractEigensolver):
    """Returns the pairs it holds, which come from another solver; their eigenvalues are
    the selection."""

    vectors: Inexact[Array, "n k"]
    left: Inexact[Array, "n k"] | None
    solve: SylvesterSolve | None  # for the systems that polish them
    polish: int = eqx.field(static=True)
    rtol: float | None = eqx.field(static=True)

    def compute(self, pencil, selection, k, *, v0, left, progress_meter):
        del v0, left, progress_meter
        assert isinstance(selection, Known)
        return _block(self, pencil, selection)

    def rescaled(self, scaling):
        left = None if self.left is None else scaling.given_left(self.left)
        return dataclasses.replace(self, left=left)

    def shift_beside(self, pencil, selection):
        """A shift away from all eigenvalues, if the pencil can be factorised."""
        assert isinstance(selection, Known)
        parts = [x for x in (pencil.operator, pencil.mass) if x is not None]
        if any(entries(x) is None for x in parts):
            return None
        values = selection.eigenvalues
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
    """The vectors in one dtype: real if operator and pairs are real, else complex."""
    given = [x for x in (eigenvalues, vectors, left) if x is not None]
    real = pencil.is_real and not any(jnp.iscomplexobj(x) for x in given)
    dtype = pencil.dtype if real else complex_dtype(pencil.dtype)
    return vectors.astype(dtype), None if left is None else left.astype(dtype)


def _block(given: GivenPairs, pencil: Pencil, selection: Known) -> InvariantBlock:
    vectors, left, polish, rtol = given.vectors, given.left, given.polish, given.rtol
    eigenvalues = selection.eigenvalues
    k = eigenvalues.size
    every = jnp.ones(k, bool)
    basis, r = jnp.linalg.qr(of_norm_one(vectors))
    diagonal = eigenvalues if jnp.iscomplexobj(vectors) else eigenvalues.real
    matrix = jnp.linalg.solve(r.T, (r * diagonal).T).T
    coordinates = r.astype(complex_dtype(r.dtype))
    for _ in range(polish):
        assert given.solve is not None
        solve = dataclasses.replace(given.solve, selection=selection)
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
    """Whether the pairs determine the subspace they span: each may be right, and yet they
    may be nearly dependent. `A X − B X L = (A V − B V Λ) W⁻¹` with V = X W, so that W⁻¹
    amplifies residuals and rounding."""
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
    """One Newton step on F(X, L) = (AX − BXL, CᴴX − I); pairs keep their order."""
    defect = pencil.sylvester(basis, matrix)
    step = solve_bordered(pencil, basis, matrix, -defect, every, solve)
    basis, t = jnp.linalg.qr(basis + step.outside)
    matrix = jnp.linalg.solve(t.T, (t @ (matrix + step.inside)).T).T
    w, v = device_eig(matrix)
    moved = jnp.linalg.solve(t.astype(v.dtype) @ coordinates, v)
    nearest = jnp.argmax(jnp.abs(moved), axis=1)
    return basis, matrix, w[nearest], v[:, nearest]
