"""The eigensolver a user holds, on the Krylov runs of `_krylov`."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int

from .._check import check_flag, check_integer, check_real
from .._krylov import (
    default_start,
    krylov_schur,
    KrylovResult,
    leading,
    norm_estimate,
    Search,
    start_vector,
)
from .._operator import complex_dtype, Pencil
from .._progress_meter import AbstractProgressMeter, NoProgressMeter
from .._record import quick
from .._solution import RESULTS
from .._spectral import (
    AbstractSelection,
    AbstractTransformation,
    default_linear_solver,
    Direct,
    Inverse,
    MassInverted,
    ShiftedPencil,
)
from .base import AbstractEigensolver
from .block import InvariantBlock, nonfinite, without
from .rayleigh_ritz import galerkin


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

    A Krylov space of one start vector holds one copy of a repeated eigenvalue; others
    appear with a fresh vector. Of extreme eigenvalues the run goes on until it seems that
    there are none, which is wrong at times: one run of 200 missed a copy where every
    eigenvalue had one. `repeated=True` makes sure, and looks for those of other
    eigenvalues too.

    **Arguments:**

    - `rtol`: a pair has converged when `‖Av − λv‖ ≤ rtol |λ| ‖v‖` (or reached rounding
        of the largest eigenvalue). Default: `eps^(2/3)` in double precision, `10 eps` in
        single.
    - `krylov_dim`: largest dimension of the Krylov space; default `max(2k + 1, 20)`.
        Where that is not below n, `eigs` takes `Dense` (`stats["dense_fallback"]`).
    - `max_restarts`: default `10 n`, as in SciPy; a restart takes a quarter to two thirds
        of `krylov_dim` products. Where neither this nor `krylov_dim` is given, a plain
        call of `eigs` goes on in wider spaces where restarts stagnate, each started from
        what the last one reached: 300 restarts of the default dimension, 300 of twice
        it, and `10 n / 4` of four times it; up to order 1000, `Dense()` after the first
        300. A compiled program keeps its dimension: give it the one that was enough.
    - `repeated`: search on, with fresh start vectors orthogonal to what was found, until
        nothing better turns up: finds every copy of repeated eigenvalues, and what `v0`
        was blind to. Costs about one more run, and another one for each round of copies.

    - `mass_solver`: with `mass=`, any lineax solver for B; the Krylov spaces are those of
        B⁻¹A. Default: a factorisation, where the entries of B are known. B must be
        regular.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        rates = jnp.linspace(0.0, 1.0, 100)
        mv = lambda v: rates * v + 0.1 * jnp.roll(v, 1)
        solver = ieig.KrylovSchur(rtol=1e-4, krylov_dim=30)
        s = ieig.eigs(mv, 2, "LR", like=rates, eigensolver=solver)
        s.stats["num_matvecs"]
        ```
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
        # In single precision eps^(2/3) leaves derivatives without a digit where a gap is
        # a thousandth of |λ|.
        default = max(10 * eps, min(eps ** (2 / 3), 1e-6))
        return default if self.rtol is None else self.rtol

    @quick
    def dimension(self, n: int, k: int) -> int:
        """The Krylov dimension used for k pairs of an operator of order n."""
        m = self._default(k) if self.krylov_dim is None else self.krylov_dim
        if m < k + 3 and m < n:
            raise ValueError(
                f"`krylov_dim` must be at least k + 3 = {k + 3}; got {self.krylov_dim}."
            )
        return min(m, n - 1)

    @quick
    def suits(self, n: int, k: int) -> bool:
        """Whether a Krylov space is less than the whole space: otherwise take `Dense`,
        which needs no more products, and then knows all eigenvalues."""
        self.dimension(n, k)
        return n > (self._default(k) if self.krylov_dim is None else self.krylov_dim)

    def confirms(self, selection: AbstractSelection, k: int, is_real: bool) -> bool:
        """Whether no other pair is wanted more than those on which a run ends."""
        small = self.krylov_dim is not None and self.krylov_dim < self._default(k)
        return selection.is_extreme(is_real) and not small

    @property
    def is_limited(self) -> bool:
        """Whether the user said how far it may go."""
        return self.krylov_dim is not None or self.max_restarts is not None

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
            self.search(n, k, start.dtype, progress_meter),
            max_restarts=limit,
        )

    def search(
        self,
        n: int,
        k: int,
        dtype,
        progress_meter: AbstractProgressMeter = NoProgressMeter(),
    ) -> Search:
        """For k pairs of an operator of order n."""
        return Search(
            k,
            self.dimension(n, k),
            self.tolerance(dtype),
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
        solves, products, norm = found.num_matvecs, found.active.size, found.norm
        num_restarts = found.num_restarts
        if transformation.inverse is None:
            pairs = _pairs_if_finite(transformation, found, rtol, norm)
        else:
            # θ says nothing about the size of A. A random vector does, on average.
            norm = norm_estimate(pencil.mv, pencil.n, pencil.dtype)
            products = products + 1
            found = _purified(found)
            pairs, more = _pairs_of_inverse(transformation, found, rtol, norm)
            solves = solves + more
        # Squares of anything smaller would underflow, and verify nothing.
        eps = jnp.finfo(pencil.dtype).eps
        tiny = jnp.finfo(pencil.dtype).tiny ** 0.5 / eps
        is_real = not jnp.iscomplexobj(pairs.basis)
        # Partners stand side by side, whichever of the two is the better one.
        paired = (pairs.eigenvalues.imag != 0) & is_real
        second, dual = paired & (jnp.cumsum(paired) & 1 == 0), None
        if left:
            # The transposed pencil has the same eigenvalues, and conj(left vectors).
            limit = self.limit(pencil.n)
            dual = self.find(transformation.transpose(), selection, k, start, limit)
            solves = solves + dual.num_matvecs
            products = products + found.active.size
            num_restarts = num_restarts + dual.num_restarts
            if transformation.inverse is not None:
                dual = _purified(dual)
            dual = dual.basis.conj(), dual.coordinates.conj()
        block = InvariantBlock.of(
            pencil,
            pairs.basis,
            pairs.eigenvalues,
            pairs.coordinates,
            k=k,
            second=second,
            wanted=(jnp.arange(second.size) < k) | second,
            usable=found.active & ((norm == 0) | (norm > tiny)),
            rtol=10 * rtol,
            norms=(norm, pairs.mass_norm),
            measured=(pairs.matrix, pairs.residuals),
            left=dual,
            outside=transformation.eigenvalues(found.outside),
        )
        # The run may have ended before it was seen that there are no better ones.
        wanted, done = transformation.selection(selection), RESULTS.successful
        if not self.confirms(wanted, k, pencil.is_real):
            done = RESULTS.unconfirmed
        done = RESULTS.where(found.done, done, RESULTS.not_converged)
        good = block.result == RESULTS.successful
        result = RESULTS.where(good, done, block.result)
        counts = transformation.stats(solves, products) | {"num_restarts": num_restarts}
        block = dataclasses.replace(
            block,
            stats=block.stats | counts,
            result=result,
            transformation=transformation,
        )
        return nonfinite(block, ~found.finite)


class _Pairs(NamedTuple):
    """Eigenpairs of a pencil from a run's Schur vectors, and what their residuals say."""

    basis: Inexact[Array, "n m"]
    matrix: Inexact[Array, "m m"]
    eigenvalues: Complex[Array, " m"]
    coordinates: Complex[Array, "m m"]
    residuals: Float[Array, " m"]
    mass_norm: Float[Array, ""]
    verified: Bool[Array, ""]


def _pairs_of_inverse(
    transformation: AbstractTransformation,
    found: KrylovResult,
    rtol: float,
    norm: Float[Array, ""],
) -> tuple[_Pairs, Int[Array, ""]]:
    """The pairs; and the number of solves it took where rounding errors were in the way:
    close to one eigenvalue those of its θ drown the others'."""
    first = _pairs(transformation, found, rtol, norm)
    pairs = jax.lax.cond(
        first.verified,
        lambda _: first,
        lambda found: _pairs(
            transformation, _multiplied(transformation, found), rtol, norm
        ),
        found,
    )
    return pairs, jnp.where(first.verified, 0, found.active.size)


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
        found.basis, matrix, values, coordinates, residuals, mass_norm, verified
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
    # Of an eigenvalue zero the coupling is rounding, and over it anything.
    step = jnp.where(jnp.linalg.norm(step) <= 1, step, 0)
    # Of [X x] with orthonormal columns the Gram matrix is known.
    triangle = jnp.linalg.cholesky(eye + jnp.outer(step.conj(), step)).conj().T
    inverse = jnp.linalg.inv(triangle)
    return found._replace(
        basis=(found.basis + jnp.outer(found.rest, step)) @ inverse,
        matrix=triangle @ found.matrix @ inverse,
        coordinates=triangle.astype(found.coordinates.dtype) @ found.coordinates,
    )
