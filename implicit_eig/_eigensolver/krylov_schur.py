"""The Krylov–Schur eigensolver that users hold, built on the runs of `_krylov`."""

import dataclasses
from collections.abc import Callable, Iterator

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Inexact, Int

from .._check import check_flag, check_integer, check_real
from .._krylov import (
    default_start,
    krylov_schur,
    KrylovResult,
    norm_estimate,
    Search,
    start_vector,
)
from .._operator import complex_dtype, entries, Pencil
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
    Named,
    ShiftedPencil,
)
from .base import AbstractEigensolver
from .block import InvariantBlock, nonfinite, without
from .dense import Dense
from .pairs_of_run import pairs_if_finite, pairs_of_inverse, purified


# Restarts after which a Krylov dimension is given up.
_STAGNANT = 300
# Order up to which a dense spectrum takes no longer than restarts that stagnate.
_DENSE_LIMIT = 1000
_DENSE = Dense()  # made once, as every plain call would pay for it again


class KrylovSchur(AbstractEigensolver):
    """Matrix-free restarted Krylov method (Stewart, SIAM J. Matrix Anal. Appl. 23, 2001).

    Finds extreme eigenvalues from products with A alone. **It may miss others** ("SM",
    "SI" of real operators, callables, `Nearest`, `Overlap`): pairs at the rim of the
    spectrum converge first, and no product tells that better ones exist inside. The same
    holds for a `krylov_dim` below the default. The pairs it then returns are eigenpairs,
    but the result is `RESULTS.unconfirmed` instead of `successful`; `Dense` knows. Pairs
    to which `v0` alone is blind are found: it gets a random part of relative size
    `eps^(1/6)`, and once all pairs have converged, the run goes on for a cycle with a
    fresh random vector.

    Memory: `krylov_dim + 1` vectors. Convergence is judged by the recurrence and verified
    by true residuals.

    A Krylov space of one start vector holds one copy of a repeated eigenvalue; others
    appear with a fresh vector. For extreme eigenvalues, the run goes on until no further
    copy seems to exist, which is sometimes wrong: where every eigenvalue had a copy and k
    left one out, one run in eight did not notice. `repeated=True` makes surer, and looks
    for copies of other eigenvalues too.

    **Arguments:**

    - `rtol`: a pair has converged when `‖Av − λv‖ ≤ rtol |λ| ‖v‖` (or reached rounding
        of the largest eigenvalue). Default: `eps^(2/3)` in double precision, `10 eps` in
        single.
    - `krylov_dim`: largest dimension of the Krylov space; default `max(2k + 1, 20)`.
        If that is not below n, `eigs` takes `Dense` (`stats["dense_fallback"]`).
    - `max_restarts`: default `10 n`, as in SciPy; a restart takes a sixth to two thirds
        of `krylov_dim` products. If neither this nor `krylov_dim` is given and restarts
        stagnate, a plain call of `eigs` goes on in wider spaces, each started from what
        the last one reached: 300 restarts at the default dimension, 300 at twice it, and
        `10 n / 4` at four times it; up to order 1000, `Dense()` follows the first 300. A
        compiled program keeps its dimension: give it one that was large enough.
    - `repeated`: search on, with fresh start vectors orthogonal to what was found, until
        nothing better turns up: finds every copy of repeated eigenvalues, and pairs to
        which `v0` was blind. Costs about one more run, plus one for each round of copies.

    - `mass_solver`: with `mass=`, any lineax solver for B; the Krylov spaces are those of
        B⁻¹A. Default: a factorisation, if the entries of B are known. B must be
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
        # In single precision, eps^(2/3) leaves derivatives without a correct digit if a
        # gap is a thousandth of |λ|.
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
        """Whether the Krylov space is smaller than the whole space: otherwise take
        `Dense`, which needs no more products and finds all eigenvalues."""
        self.dimension(n, k)
        return n > (self._default(k) if self.krylov_dim is None else self.krylov_dim)

    def confirms(self, selection: AbstractSelection, k: int, is_real: bool) -> bool:
        """Whether a run can be trusted to end on the best pairs."""
        small = self.krylov_dim is not None and self.krylov_dim < self._default(k)
        return selection.is_extreme(is_real) and not small

    @property
    def is_limited(self) -> bool:
        """Whether the user set a dimension or a limit."""
        return self.krylov_dim is not None or self.max_restarts is not None

    def limit(self, n: int) -> int:
        """The largest number of restarts."""
        return 10 * n if self.max_restarts is None else self.max_restarts

    @staticmethod
    def _default(k: int) -> int:
        return max(2 * k + 1, 20)

    def check_target(self, sigma):
        raise ValueError(
            f"`sigma={sigma}` asks for interior eigenvalues, which `KrylovSchur` cannot "
            "find from products with A alone; take `ShiftInvert(sigma, ...)` or "
            "`Dense()`."
        )

    @property
    def krylov(self):
        return self

    @quick
    def attempts(self, n: int, k: int) -> Iterator[AbstractEigensolver]:
        """Wider spaces in case restarts stagnate, or `Dense` if the order is small
        enough. A solver with a given dimension or limit is the only attempt."""
        if self.is_limited:
            yield self
            return
        m = self.dimension(n, k)
        yield dataclasses.replace(self, max_restarts=min(_STAGNANT, 10 * n))
        if n <= _DENSE_LIMIT:
            yield _DENSE
            return
        yield dataclasses.replace(self, krylov_dim=2 * m, max_restarts=_STAGNANT)
        yield dataclasses.replace(self, krylov_dim=4 * m, max_restarts=10 * n // 4)

    def advice(self, pencil, selection, k):
        known = entries(pencil.operator) is not None
        if known and isinstance(selection, Named) and selection.name == "SM":
            return "Take the target `sigma=0`: they lie inside the spectrum."
        m, dense = self.dimension(pencil.n, k), "."
        if pencil.n <= 5 * _DENSE_LIMIT:
            dense = f"; `Dense()` takes O(n³), n = {pencil.n}."
        return (
            f"The Krylov space had {m} dimensions: try "
            f"`eigensolver=KrylovSchur(krylov_dim={2 * m})`, a looser `rtol`, or a "
            f"target `sigma`{dense}"
        )

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
        stop: Callable[[Array, Array], Bool[Array, ""]] | None = None,
    ) -> KrylovResult:
        """Runs at most `limit` restarts with products by the transformation."""
        search = self.search(transformation.pencil.n, k, start.dtype, progress_meter)
        purify = transformation.inverse is not None
        return krylov_schur(
            transformation.mv,
            start,
            transformation.selection(selection),
            dataclasses.replace(search, purify=purify),
            max_restarts=limit,
            stop=stop,
        )

    def search(
        self,
        n: int,
        k: int,
        dtype,
        progress_meter: AbstractProgressMeter = NoProgressMeter(),
    ) -> Search:
        """The search for k pairs of an operator of order n."""
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
        """The wanted pairs of the pencil, from what a run from `start` has `found` for
        the transformation."""
        pencil = transformation.pencil
        rtol = self.tolerance(start.dtype)
        solves, products, norm = found.num_matvecs, found.active.size, found.norm
        num_restarts = found.num_restarts
        if transformation.inverse is None:
            pairs = pairs_if_finite(transformation, found, rtol, norm)
        else:
            # θ says nothing about the size of A; on average, a random vector does.
            norm = norm_estimate(pencil.mv, pencil.n, pencil.dtype)
            products = products + 1
            found = purified(found)
            pairs, more = pairs_of_inverse(transformation, found, rtol, norm)
            solves = solves + more
        # Squares of smaller numbers underflow and verify nothing.
        eps = jnp.finfo(pencil.dtype).eps
        tiny = jnp.finfo(pencil.dtype).tiny ** 0.5 / eps
        is_real = not jnp.iscomplexobj(pairs.basis)
        # Partners stand side by side, whichever of the two ranks higher.
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
                dual = purified(dual)
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
        # The run may have ended before it could rule out better ones.
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
