"""Invariant subspaces: the root (X, L) behind every pair, made public."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact, PyTree

from ._ad import nan_tangent, nothing_where
from ._check import check_flag
from ._eigensolver import AbstractEigensolver, Dense, InvariantBlock, ShiftInvert, without
from ._failure import check_throw, raise_unless_successful
from ._operator import Domain, Pencil, Scaling
from ._problem import Problem, stop
from ._program import Program, value_of
from ._progress_meter import AbstractProgressMeter, NoProgressMeter
from ._rule import (
    accuracy_of,
    block_root,
    eigen_of_block,
    ImplicitAdjoint,
    separation as separation_of,
    SylvesterSolve,
)
from ._second_try import FoundPairs, in_wider_spaces, reached_by, with_second_try
from ._solution import has_values, is_good, number, RESULTS, shapes, summary, table
from ._spectral import check_vector, factorises


class _Spectrum(eqx.Module):
    """The pairs of a matrix similar to L, the derivatives of which take no solve where
    there is a left basis."""

    matrix: Inexact[Array, "k k"]
    eigenvalues: Complex[Array, " k"]
    coordinates: Complex[Array, "k k"]
    tie_rtol: Float[Array, ""]


class Subspace(eqx.Module):
    """The invariant subspace of k selected eigenvalues: `A X = B X L`.

    **Attributes:**

    - `basis`: X, shape `(n, k)`, `XᴴX = I`; for an operator on a pytree, that structure
        with a trailing axis k. Real for a real operator.
    - `block`: L, shape `(k, k)`: A seen from inside. Block triangular, best first.
    - `left_basis`: Y, of the shape of X, or `None`: `Yᴴ A = L Yᴴ B` and `Yᴴ B X = I`.
    - `residual`: `‖AX − BXL‖ / max(‖BXL‖, eps ‖A‖)`, in Frobenius norms.
    - `separation`: where asked for, an estimate of `sep(L, rest)`, the least
        `‖P(AZ − BZL)‖` over all Z outside the subspace with `‖Z‖ = 1`; it is a few times
        too large at worst. To first order a change E of A turns the subspace by
        `‖E‖ / separation` (Stewart 1973). Infinite for k = n; at most the distance of the
        nearest unselected eigenvalue, and far less for non-normal operators.
    - `stats`: counts, as in [`implicit_eig.Solution`][].
    - `result`: a member of [`implicit_eig.RESULTS`][].

    `basis`, `block`, `left_basis` and all below are differentiable with respect to the
    operator and the mass matrix, in either mode and to any order. X is one of many bases;
    it stays orthonormal, and is otherwise free to turn within the subspace: differentiate
    what does not depend on that, such as `X Xᴴ`, functions of the spectrum of L, or the
    projector. Of a batch take properties by `jax.vmap(lambda s: s.eigenvalues)(batch)`.
    """

    basis: PyTree[Inexact[Array, "..."]]
    block: Inexact[Array, "k k"]
    left_basis: PyTree[Inexact[Array, "..."]] | None
    residual: Float[Array, ""]
    separation: Float[Array, ""] | None
    stats: dict[str, Any]
    result: RESULTS
    _dual: PyTree[Inexact[Array, "..."]] | None  # BᴴY
    _spectrum: _Spectrum

    def __str__(self) -> str:
        """A line for each eigenvalue; shapes where values are traced, or a batch."""
        values = self._spectrum.eigenvalues
        if not has_values(self) or jnp.ndim(values) != 1:
            return shapes(self, ("basis", "block", "left_basis"))
        sep = "" if self.separation is None else f", separation {self.separation:.1e}"
        lines = table({"eigenvalue": [number(x) for x in values]})
        return f"{lines}residual {self.residual:.1e}{sep}\n{summary(self)}"

    @property
    def eigenvalues(self) -> Complex[Array, " k"]:
        """The eigenvalues of L, best first, with the derivatives of
        [`implicit_eig.eigvals`][]: at a semisimple tie first ones, right for functions
        that are symmetric in the tied values (others: NaN). At a defective eigenvalue
        they have none: take `trace`, or traces of powers of `block`."""
        found = self._spectrum
        pairs = eigen_of_block(
            found.matrix,
            found.eigenvalues,
            found.coordinates,
            active=jnp.ones(found.eigenvalues.shape, bool),
            tie_rtol=found.tie_rtol,
        )
        return nan_tangent(pairs.eigenvalues, pairs.lost)

    @property
    def trace(self) -> Inexact[Array, ""]:
        """The sum of the eigenvalues, smooth whatever they do inside. With a left basis
        its first derivative takes no linear solve."""
        return jnp.trace(self._spectrum.matrix)

    def projector_mv(self, x: PyTree[ArrayLike]) -> PyTree[Inexact[Array, "..."]]:
        """`P x = X Yᴴ B x` for a vector of the domain: the spectral projector onto the
        subspace, along that of all other eigenvalues. Needs the left basis."""
        dual = self._left()
        check_vector(x, self._domain, "`x`")
        leaves = [jnp.asarray(leaf) for leaf in jtu.tree_leaves(x)]
        dtype = np.result_type(self.block.dtype, *(leaf.dtype for leaf in leaves))

        def inner(z: Array, v: Array) -> Array:
            z = z.reshape(-1, z.shape[-1]).conj().astype(dtype)
            return v.reshape(-1).astype(dtype) @ z

        parts = [inner(z, v) for z, v in zip(jtu.tree_leaves(dual), leaves, strict=True)]
        inside = sum(parts[1:], parts[0])
        return jtu.tree_map(lambda b: b.astype(dtype) @ inside, self.basis)

    def projector(self) -> Inexact[Array, "n n"]:
        """P as a matrix, on flat vectors. Needs the left basis."""
        dual = _flat(self._left())
        return _flat(self.basis) @ dual.conj().T

    @property
    def _domain(self) -> Domain:
        def vector(block: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(block.shape[:-1], block.dtype)

        return Domain.of(jtu.tree_map(vector, self.basis))

    def _left(self) -> PyTree[Inexact[Array, "..."]]:
        if self._dual is None:
            raise ValueError(
                "The projector needs the left basis, which was not computed: pass "
                "`left=True` to `invariant_subspace`."
            )
        return self._dual


def _flat(block: PyTree[Inexact[Array, "..."]]) -> Inexact[Array, "n k"]:
    return jnp.concatenate([b.reshape(-1, b.shape[-1]) for b in jtu.tree_leaves(block)])


def invariant_subspace(
    operator: Any,
    k: int,
    which: Any = "LM",
    *,
    sigma: ArrayLike | None = None,
    mass: Any = None,
    like: PyTree | None = None,
    v0: PyTree[ArrayLike] | None = None,
    left: bool | None = None,
    separation: bool = False,
    eigensolver: AbstractEigensolver | None = None,
    adjoint: ImplicitAdjoint | None = None,
    throw: bool | None = None,
    progress_meter: AbstractProgressMeter = NoProgressMeter(),
) -> Subspace:
    """The invariant subspace of k selected eigenvalues of `A v = λ v` or `A v = λ B v`.

    For what a cluster does as a whole: its trace, its projector, functions of A inside
    it. Derivatives are right where eigenvalues inside coincide or are defective: no
    eigenvector enters them, and nothing but the separation of the k eigenvalues from all
    others limits their accuracy. They are those of the root of `(AX − BXL, CᴴX − I)`, one
    bordered Sylvester system (Stewart 1973).

    **Arguments:** as in [`implicit_eig.eigs`][], and

    - `k`: the dimension, `1 ≤ k ≤ n`. Exactly k: where k would cut a conjugate pair of a
        real operator, or a repeated eigenvalue, that is an error.
    - `left`: whether to compute the left basis, which the projector needs. `None`: where
        it costs little: with `Dense`, and with `ShiftInvert` and a factorisation, for one
        more run with the transposed factor. `False`: never.
    - `separation`: whether to estimate the separation of the k eigenvalues from the
        others, by six linear solves like those of derivatives. Not done unasked: with
        `Dense` too they cost more than the run.
    - `throw`: as in [`implicit_eig.eigs`][], when a run fails, when k cuts something, or
        when the separation is asked for and is of the size of rounding. Basis and block
        of a run that failed are NaN, with `throw=False` the best at hand; derivatives are
        NaN in either case, as where a linear solve misses its tolerance.

    **Returns:** a [`implicit_eig.Subspace`][].

    **Raises:** `ValueError` or `TypeError` for what can be seen from shapes, dtypes and
    Python values; a run-time error under `throw`. When k cuts a pair, or eigenvalues that
    agree to the default `tie_rtol` of [`implicit_eig.eigs`][], a plain call names the
    two. Iterative eigensolvers know the unselected eigenvalues by Ritz values: a
    tie with one that has not converged goes unseen, until the linear solve of a
    derivative fails.

    **Cost:** that of [`implicit_eig.eigs`][], and k products with A for the residual. A
    derivative takes one linear solve, and another one through the left basis; that of
    `trace` none where there is a left basis.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        # A defective double eigenvalue 2, which splits like the root of a perturbation.
        a = jnp.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])

        def power(a):
            block = ieig.invariant_subspace(a, k=2, which="LR").block
            return jnp.trace(block @ block)

        gradient = jax.grad(power)(a)
        ```
    """
    if left is not None:
        check_flag("left", left)
    check_flag("separation", separation)
    check_throw(throw)
    problem = Problem.of(
        operator,
        k,
        which,
        sigma=sigma,
        mass=mass,
        like=like,
        v0=v0,
        eigensolver=eigensolver,
        adjoint=adjoint,
        progress_meter=progress_meter,
    )
    options = left, separation, throw is not False

    def once(problem: Problem) -> tuple[Any, ...]:
        if isinstance(problem.eigensolver, Dense):
            problem = dataclasses.replace(problem, eigensolver=Dense(sharpen=True))
        return with_second_try(
            _invariant_subspace, _again, problem, throw, adjoint, _MOVING, options
        )

    subspace, problem, edge = in_wider_spaces(problem, adjoint, once)
    code = value_of(subspace.result._value)
    cut = code is not None and code.ndim == 0 and code == RESULTS.cut._value
    if throw is not False and cut:
        inside, outside = (f"{complex(value_of(x)):.6g}" for x in edge)
        raise eqx.EquinoxRuntimeError(
            f"{RESULTS[RESULTS.cut]} Of {inside} and {outside} only one is selected."
        )
    return raise_unless_successful(subspace, throw, k=problem.k, advice=problem.advice())


# What of a subspace has derivatives.
_MOVING = "basis", "block", "left_basis", "_dual", "_spectrum"


@Program
def _invariant_subspace(
    problem: Problem,
    signal: Float[Array, ""] | None,
    keep: bool,
    left: bool | None,
    separation: bool,
    hide: bool,
) -> tuple[
    Subspace,
    Float[Array, ""],
    FoundPairs | None,
    Inexact[Array, " n"],
    tuple[Complex[Array, ""], Complex[Array, ""]],
]:
    """The subspace, the signal of failed solves, what a second try needs where it is to
    be kept, a vector of the subspace; and the selected and the unselected eigenvalue
    between which k cuts."""
    problem, scaling = problem.of_moderate_size()
    pencil = problem.pencil
    dual = _costs_little(problem.eigensolver) if left is None else left
    block, solve = problem.block(dual)
    tie_rtol = accuracy_of(block, pencil)
    start = reached_by(block, pencil)
    block, edge = _of_order(block, problem.k, tie_rtol)
    constant = stop(pencil)
    sep = None
    if separation:
        sep = separation_of(constant, block.basis, block.matrix, block.active, solve)
        rounding = 10 * pencil.n * float(jnp.finfo(pencil.dtype).eps)
        block = _unless(block, sep <= rounding * block.norm, RESULTS.ill_conditioned)
        sep = scaling.norms(sep)
    products = problem.k * (1 + (pencil.is_real and jnp.iscomplexobj(block.basis)))
    block.stats["num_matvecs"] = block.stats.get("num_matvecs", 0) + products
    subspace, signal = _of_block(
        pencil, block, solve, signal, scaling, tie_rtol, sep, left, hide
    )
    pairs = FoundPairs.of(block, tie_rtol) if keep else None
    return subspace, signal, pairs, start, tuple(scaling.values(x) for x in edge)


def _again(
    problem: Problem,
    signal: Float[Array, ""],
    pairs: FoundPairs,
    left: bool | None,
    separation: bool,
    hide: bool,
) -> tuple[Subspace, Float[Array, ""]]:
    """What `_invariant_subspace` made of this block, for derivatives by GMRES."""
    del separation
    problem, scaling = problem.of_moderate_size()
    pencil, block = problem.pencil, pairs.block
    solve, tie_rtol = pairs.solved_by_gmres(problem), pairs.accuracy
    return _of_block(pencil, block, solve, signal, scaling, tie_rtol, None, left, hide)


def _of_block(
    pencil: Pencil,
    block: InvariantBlock,
    solve: SylvesterSolve,
    signal: Float[Array, ""] | None,
    scaling: Scaling,
    tie_rtol: Float[Array, ""],
    separation: Float[Array, ""] | None,
    left: bool | None,
    hide: bool,
) -> tuple[Subspace, Float[Array, ""]]:
    """The subspace, and the signal of failed solves."""
    residual = _residual(stop(pencil), block)
    if signal is None:
        signal = jnp.zeros((), block.residuals.dtype)
    basis, matrix, left_basis, _, signal = block_root(
        pencil,
        block.basis,
        block.matrix,
        block.left_basis,
        signal,
        coordinates=None,
        active=block.active,
        solve=solve,
    )
    missing = ~block.active
    basis, matrix = nan_tangent(basis, missing), nan_tangent(matrix, missing)
    values = block.eigenvalues
    if hide:
        failed = ~is_good(block.result)
        basis, matrix, values = (
            x + nothing_where(failed, x.dtype) for x in (basis, matrix, values)
        )
    spectrum = _Spectrum(
        scaling.values(matrix), scaling.values(values), block.coordinates, tie_rtol
    )
    # The rule's X has CᴴX = I with a constant C: orthonormal here, but not beside.
    triangle = jnp.linalg.cholesky(basis.conj().T @ basis).conj().T
    inverse = jnp.linalg.inv(triangle)
    dual_basis = None
    if left is False or left_basis is None:
        left_basis = None
    else:
        left_basis = jnp.where(missing, jnp.nan, left_basis @ triangle.conj().T)
        left_basis = nan_tangent(left_basis, missing)
        dual_basis = pencil.domain.unflatten(pencil.adjoint_mass_mm(left_basis))
        left_basis = pencil.domain.unflatten(scaling.left(left_basis))
    subspace = Subspace(
        basis=pencil.domain.unflatten(basis @ inverse),
        block=scaling.values(triangle @ matrix @ inverse),
        left_basis=left_basis,
        residual=residual,
        separation=separation,
        stats=block.stats,
        result=block.result,
        _dual=dual_basis,
        _spectrum=spectrum,
    )
    return subspace, signal


def _costs_little(eigensolver: AbstractEigensolver) -> bool:
    """Whether the left basis is worth a run nobody asked for."""
    if not isinstance(eigensolver, ShiftInvert):
        return False
    solver = eigensolver.linear_solver
    return solver is None or factorises(solver)


def _of_order(
    block: InvariantBlock, k: int, tie_rtol: Float[Array, ""]
) -> tuple[InvariantBlock, tuple[Complex[Array, ""], Complex[Array, ""]]]:
    """The first k columns, which have derivatives all together or not at all, and the
    selected and the unselected eigenvalue between which k cuts."""
    values, outside = block.eigenvalues[:k], block.outside
    outside = jnp.full_like(values, jnp.nan) if outside is None else outside[:k]
    gap = jnp.abs(values - outside)
    closest = jnp.argmin(jnp.where(jnp.isnan(gap), jnp.inf, gap))
    inside, outside = values[closest], outside[closest]
    largest = jnp.max(jnp.abs(values))
    cut = jnp.abs(inside - outside) <= tie_rtol * largest
    if block.active.size > k:
        # The partner of the last one, if it has one there.
        pair = block.active[k]
        inside = jnp.where(pair, values[k - 1], inside)
        outside = jnp.where(pair, block.eigenvalues[k], outside)
        cut = cut | pair
    left_basis = block.left_basis
    block = dataclasses.replace(
        block,
        basis=block.basis[:, :k],
        matrix=block.matrix[:k, :k],
        eigenvalues=values,
        coordinates=block.coordinates[:k, :k],
        left_basis=None if left_basis is None else left_basis[:, :k],
        active=jnp.broadcast_to(jnp.all(block.active[:k]) & is_good(block.result), (k,)),
        residuals=block.residuals[:k],
    )
    return _unless(block, cut, RESULTS.cut), (inside, outside)


def _unless(
    block: InvariantBlock, bad: Bool[Array, ""], result: RESULTS
) -> InvariantBlock:
    """The block, unless it is `bad`: then without derivatives, reported by `result` where
    nothing worse is."""
    return without(block, bad & is_good(block.result), result)


def _residual(pencil: Pencil, block: InvariantBlock) -> Float[Array, ""]:
    image = pencil.mass_mm(block.basis) @ block.matrix
    defect = jnp.linalg.norm(pencil.mm(block.basis) - image)
    eps = jnp.finfo(defect.dtype).eps
    scale = jnp.maximum(jnp.linalg.norm(image), eps * block.norm)
    return defect / jnp.where(scale > 0, scale, 1)
