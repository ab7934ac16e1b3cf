"""A problem as the public functions take it: checked, with defaults, not yet solved."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, ArrayLike, Inexact, Num, PyTree

from ._check import check_integer
from ._eigensolver import (
    AbstractEigensolver,
    Dense,
    InvariantBlock,
    KrylovSchur,
    nonfinite,
    ShiftInvert,
    without,
)
from ._operator import (
    as_pencil,
    check_axes,
    Domain,
    entries,
    Pencil,
    pencil_of_moderate_size,
    Scaling,
)
from ._progress_meter import AbstractProgressMeter
from ._record import record
from ._rule import (
    ImplicitAdjoint,
    SylvesterSolve,
    symmetric_left,
    tagged_symmetric,
    untrue_tag,
)
from ._solution import RESULTS
from ._spectral import (
    AbstractSelection,
    as_selection,
    as_shift,
    check_direction,
    check_vector,
    Named,
    Nearest,
)


# Order up to which interior eigenvalues are found from a dense spectrum.
SMALL = 256
# Made once, as every plain call would pay for them again.
_DENSE, _KRYLOV, _ADJOINT = Dense(), KrylovSchur(), ImplicitAdjoint()


@record
class Problem:
    """The k pairs of a pencil that a selection wants, with the eigensolver that finds
    them and the solver of the linear systems of their derivatives."""

    pencil: Pencil
    selection: AbstractSelection
    k: int = eqx.field(static=True)
    v0: Inexact[Array, " n"] | None
    eigensolver: AbstractEigensolver
    solve: SylvesterSolve
    progress_meter: AbstractProgressMeter
    fell_back: bool = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        operator: Any,
        k: int | None,
        which: Any,
        *,
        sigma: ArrayLike | None,
        mass: Any,
        like: PyTree | None,
        v0: PyTree[ArrayLike] | None,
        eigensolver: AbstractEigensolver | None,
        adjoint: ImplicitAdjoint | None,
        progress_meter: AbstractProgressMeter,
    ) -> "Problem":
        """The problem from the arguments of [`implicit_eig.eigs`][], checked by name."""
        pencil = as_pencil(operator, mass, like)
        k = _check_k(k, pencil)
        if _is_inner(which, sigma, eigensolver, pencil):
            which, sigma = "LM", 0.0
        if not isinstance(eigensolver, AbstractEigensolver | None):
            raise TypeError(
                f"`eigensolver` must be an `AbstractEigensolver`; got {eigensolver!r}."
            )
        selection, target = _target(which, sigma, eigensolver, pencil.domain)
        chosen = eigensolver
        if chosen is None:
            chosen = _default(pencil, k, target, selection)
        elif not chosen.suits(pencil.n, k):
            chosen = _DENSE
        adjoint = check_adjoint(adjoint)
        check_meter(progress_meter)
        return cls(
            pencil=pencil,
            selection=selection,
            k=k,
            v0=check_start(v0, pencil),
            eigensolver=chosen,
            solve=adjoint.bind(pencil, chosen, selection, k),
            progress_meter=progress_meter,
            fell_back=eigensolver is not None and chosen is not eigensolver,
        )

    @property
    def rtol(self) -> float:
        """The tolerance of linear solves."""
        return self.solve.rtol

    @property
    def is_symmetric(self) -> bool:
        return tagged_symmetric(self.pencil)

    def eigensolvers(self) -> Iterator[AbstractEigensolver]:
        """The eigensolvers that a plain call tries in turn until pairs converge."""
        return self.eigensolver.attempts(self.pencil.n, self.k)

    def by(
        self,
        eigensolver: AbstractEigensolver,
        adjoint: ImplicitAdjoint | None,
        v0: Inexact[Array, " n"] | None,
    ) -> "Problem":
        """The same problem, solved by another eigensolver that starts from `v0`."""
        adjoint = check_adjoint(adjoint)
        return dataclasses.replace(
            self,
            v0=v0,
            eigensolver=eigensolver,
            solve=adjoint.bind(self.pencil, eigensolver, self.selection, self.k),
            fell_back=self.fell_back or eigensolver.knows_all,
        )

    def advice(self) -> str:
        """What to try if pairs did not converge."""
        return self.eigensolver.advice(self.pencil, self.selection, self.k)

    def of_moderate_size(self) -> "tuple[Problem, Scaling]":
        """The same problem, scaled so that nothing under- or overflows; the scaling."""
        pencil, scaling = pencil_of_moderate_size(
            self.pencil, by_rows=not self.is_symmetric
        )
        size = scaling.eigenvalues
        selection = self.selection.rescaled(size)
        return dataclasses.replace(
            self,
            pencil=pencil,
            selection=selection,
            eigensolver=self.eigensolver.rescaled(scaling),
            solve=dataclasses.replace(self.solve, selection=selection),
        ), scaling

    def block(self, left: bool) -> tuple[InvariantBlock, SylvesterSolve]:
        """The block, without derivatives, and the solver for its derivatives. `left` asks
        for the left basis, which a symmetric pencil has in any case."""
        selection, v0, eigensolver, solve = stop(
            (self.selection, self.v0, self.eigensolver, self.solve)
        )
        block = eigensolver.compute(
            stop(self.pencil),
            selection,
            self.k,
            v0=v0,
            left=left and not self.is_symmetric,
            progress_meter=self.progress_meter,
        )
        block = stop(block)
        if self.is_symmetric:
            block = self._symmetric(block)
        if left and block.left_basis is None:
            raise ValueError(
                f"`left=True`, but {type(eigensolver).__name__} has no left basis."
            )
        solve = solve.for_block(block)
        if v0 is not None:
            zero = ~jnp.any(v0 != 0)
            result = RESULTS.where(zero, RESULTS.zero_start_vector, block.result)
            block = eqx.tree_at(lambda b: b.result, block, result)
        meant = selection.is_meant(
            block.eigenvalues[: self.k], block.outside, self.pencil.is_real
        )
        if meant is not True:
            block = nonfinite(block, ~meant)
        block.stats["dense_fallback"] = jnp.asarray(self.fell_back)
        return block, solve

    def _symmetric(self, block: InvariantBlock) -> InvariantBlock:
        """The block with the left basis made from X, unless the tag is false."""
        pencil = stop(self.pencil)
        left_basis = symmetric_left(pencil, block.basis, block.active)
        block = dataclasses.replace(block, left_basis=stop(left_basis), symmetric=True)
        block.stats["num_matvecs"] = block.stats.get("num_matvecs", 0) + 2
        return without(block, untrue_tag(pencil), RESULTS.not_symmetric)


def stop(tree: PyTree) -> PyTree:
    """`stop_gradient` on the arrays of a pytree."""
    dynamic, static = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(dynamic), static)


def check_meter(progress_meter: Any) -> None:
    if not isinstance(progress_meter, AbstractProgressMeter):
        raise TypeError(
            "`progress_meter` must be an `AbstractProgressMeter`; got "
            f"{progress_meter!r}."
        )


def check_adjoint(adjoint: Any) -> ImplicitAdjoint:
    if adjoint is None:
        return _ADJOINT
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


def _is_inner(which: Any, sigma: Any, eigensolver: Any, pencil: Pencil) -> bool:
    """Whether the smallest eigenvalues are wanted and may be found by a target, because
    the operator can be factorised."""
    if which != "SM" or sigma is not None or eigensolver is not None:
        return False
    parts = [x for x in (pencil.operator, pencil.mass) if x is not None]
    return all(entries(x) is not None for x in parts)


def _target(
    which: Any,
    sigma: ArrayLike | None,
    eigensolver: AbstractEigensolver | None,
    domain: Domain,
) -> tuple[AbstractSelection, Num[Array, ""] | None]:
    """The selection, and the shift of a spectral transformation."""
    selection = as_selection(which, domain)
    target = None if eigensolver is None else eigensolver.target
    if sigma is not None:
        if eigensolver is not None:
            eigensolver.check_target(sigma)
        target = as_shift(sigma)
    if target is None:
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


def _default(
    pencil: Pencil,
    k: int,
    target: Num[Array, ""] | None,
    selection: AbstractSelection,
) -> AbstractEigensolver:
    """The rule of `docs/how-it-works/defaults.md`."""
    n, dense = pencil.n, isinstance(pencil.operator, lx.MatrixLinearOperator)
    if not _KRYLOV.suits(n, k):
        return _DENSE
    inside = isinstance(selection, Named) and selection.name == "SM"
    # The whole spectrum of a small matrix takes no longer than compiling anything else.
    if n <= SMALL and (target is not None or inside):
        return _DENSE
    if target is None:
        return _DENSE if dense else _KRYLOV
    return ShiftInvert(target)


def check_start(v0: Any, pencil: Pencil) -> Inexact[Array, " n"] | None:
    if v0 is None:
        return None
    domain = pencil.domain
    check_vector(v0, domain, "`v0`")
    check_axes("v0", v0)
    leaves, treedef = jtu.tree_flatten(v0)
    if pencil.is_real and any(jnp.iscomplexobj(leaf) for leaf in leaves):
        raise TypeError("`v0` is complex, but the operator is real.")
    leaves = [jnp.asarray(leaf).astype(domain.dtype) for leaf in leaves]
    start = domain.flatten(jtu.tree_unflatten(treedef, leaves))
    check_direction(start, "`v0`")
    # Squares of small or large entries would under- or overflow.
    size = jnp.max(jnp.abs(start))
    return start / jnp.where(size > 0, size, 1).astype(start.dtype)
