"""Plain calls go on if the first program did not reach its aim.

If pairs did not converge, they take wider Krylov spaces (`in_wider_spaces`). If a linear
solve for a derivative missed its tolerance, they take another solver, in a program of its
own (`with_second_try`).

A gradient compiles Krylov–Sylvester. Adding GMRES would nearly double the compile time
for everybody, although few need it. So in a plain call Python looks at the backward error
that comes out, and if that reports a failure, the same derivative is taken again by
[`implicit_eig.DeflatedGMRES`][], at the same pairs.

Two linear maps enclose the program, one at its inputs and one at its outputs. In reverse
mode, the cotangents of the outputs pass first, and are held until those of the inputs
come out; in forward mode it is the other way round.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Num, PyTree

from ._ad import linear_map
from ._eigensolver import InvariantBlock, ShiftInvert
from ._failure import reported, watched
from ._operator import Pencil
from ._problem import Problem, stop
from ._program import is_compiling, is_plain, Program, value_of, visible
from ._rule import ImplicitAdjoint, SylvesterSolve
from ._solution import RESULTS
from ._spectral import ShiftInverted
from ._sylvester import DeflatedGMRES, Probed


_log = logging.getLogger("implicit_eig")
# Cycles of 60 products each, granted again for each refinement.
_CYCLES = 10
# Counts that add up over several runs.
_ADDED = {"num_matvecs", "num_restarts", "num_solves", "num_factorizations"}


def in_wider_spaces(
    problem: Problem, adjoint: ImplicitAdjoint | None, once: Callable[..., Any]
) -> tuple[Any, ...]:
    """Returns what `once(problem)` finds, the problem that was solved, and the rest. In a
    plain call, wider Krylov spaces follow until pairs converge, each started from what
    the last one reached.

    `once` returns what it found, a vector of the subspace it reached, and the rest.
    """
    if is_compiling():
        found, _, *rest = once(problem)
        return found, problem, *rest
    counts, start, first = {}, problem.v0, problem.eigensolver
    for eigensolver in problem.eigensolvers():
        if eigensolver is not problem.eigensolver:
            problem = problem.by(eigensolver, adjoint, start)
        found, start, *rest = once(problem)
        counts = {
            name: x + counts[name] if name in counts and name in _ADDED else x
            for name, x in found.stats.items()
        }
        code = value_of(found.result._value)
        if code is None or not np.any(code == RESULTS.not_converged._value):
            break
    if problem.eigensolver is not first:
        found = dataclasses.replace(found, stats=counts)
    return found, problem, *rest


def reached_by(block: InvariantBlock, pencil: Pencil) -> Num[Array, " n"]:
    """A vector of the subspace that a run reached, from which the next one starts."""
    start = jnp.sum(block.basis, axis=1)
    return start.real + start.imag if pencil.is_real else start


def with_second_try(
    program: Program,
    again: "Again",
    problem: Problem,
    throw: bool | None,
    adjoint: ImplicitAdjoint | None,
    moving: tuple[str, ...],
    options: tuple[Any, ...],
) -> tuple[Any, ...]:
    """What `program` finds, and the rest of what it returns. Derivatives of the fields
    `moving` are inspected where Python can see them; if `adjoint` uses the default solver
    and that misses its tolerance, they are taken again.

    `program(problem, signal, keep, *options)` returns what it found, the signal of failed
    solves, with `keep` the pairs for `again`, and the rest.
    """
    rtol = problem.solve.rtol
    problem, signal = watched(problem, throw, rtol)
    tried = None
    if adjoint is None or adjoint.falls_back:
        tried = SecondTry.of(again, problem, moving, options)
    if tried is None:
        found, signal, _, *rest = program(problem, signal, False, *options)
    else:
        problem, signal = tried.inputs(problem, signal)
        found, signal, pairs, *rest = program(problem, signal, True, *options)
        fields, signal = tried.outputs(_fields(found, moving), signal, problem, pairs)
        found = dataclasses.replace(found, **fields)
    return reported(found, signal, throw, rtol), *rest


def _fields(found: Any, names: tuple[str, ...]) -> dict[str, PyTree[Array]]:
    return {name: getattr(found, name) for name in names}


class FoundPairs(eqx.Module):
    """What is kept of a run for derivatives taken later: the block without a factor, the
    shift at which there was a factor or may be one, and the default `tie_rtol`."""

    block: InvariantBlock
    sigma: Num[Array, ""] | None
    accuracy: Float[Array, ""]

    @classmethod
    def of(
        cls, problem: Problem, block: InvariantBlock, accuracy: Float[Array, ""]
    ) -> "FoundPairs":
        if isinstance(block.transformation, ShiftInverted):
            sigma = block.transformation.sigma
        else:
            sigma = problem.eigensolver.shift_beside(problem.pencil, problem.selection)
        bare = eqx.tree_at(
            lambda b: (b.transformation, b.spectrum),
            block,
            (None, None),
            is_leaf=lambda x: x is None,
        )
        return cls(bare, sigma, accuracy)

    def solved_by_gmres(self, problem: Problem) -> SylvesterSolve:
        """The GMRES solver for derivatives of these pairs; makes the factor again, if
        there was one."""
        block, pencil = self.block, stop(problem.pencil)
        if self.sigma is not None:
            solver = problem.eigensolver.factoriser or ShiftInvert(0.0)
            transformation = solver.transformation(pencil, self.sigma)
            block = eqx.tree_at(
                lambda b: b.transformation,
                block,
                transformation,
                is_leaf=lambda x: x is None,
            )
        solver = Probed(DeflatedGMRES(max_restarts=_CYCLES))
        solve = eqx.tree_at(lambda s: s.solver, problem.solve, solver)
        return stop(solve).for_block(block)


# Takes a problem, a signal, the pairs and options; returns what was found, and a signal.
Again = Callable[..., tuple[Any, Float[Array, ""]]]


def _moves(x: Any) -> bool:
    return isinstance(x, Tracer) and jnp.issubdtype(x.dtype, jnp.inexact)


class SecondTry:
    """The second try of one plain call with derivatives: `again` takes those of the
    fields `moving` once more."""

    def __init__(
        self,
        again: Again,
        problem: Problem,
        moving: tuple[str, ...],
        options: tuple[Any, ...],
    ):
        leaves, self.treedef = jtu.tree_flatten(problem)
        self.again, self.moving, self.options = again, moving, options
        self.at = tuple(i for i, x in enumerate(leaves) if _moves(x))
        self.held: Any = None

    @classmethod
    def of(
        cls,
        again: Again,
        problem: Problem,
        moving: tuple[str, ...],
        options: tuple[Any, ...],
    ) -> "SecondTry | None":
        """The second try, or `None` if there is no derivative that Python can see."""
        if any(is_plain(x) for x in jtu.tree_leaves(problem) if _moves(x)):
            return cls(again, problem, moving, options)
        return None

    def inputs(
        self, problem: Problem, signal: Float[Array, ""] | None
    ) -> tuple[Problem, Float[Array, ""]]:
        """The problem and the signal; from here on, their derivatives are watched."""
        leaves = jtu.tree_leaves(problem)
        if signal is None:
            signal = jnp.zeros((), leaves[self.at[0]].real.dtype)
        *moving, signal = _inputs([*(leaves[i] for i in self.at), signal], [], tried=self)
        for i, x in zip(self.at, moving, strict=True):
            leaves[i] = x
        return jtu.tree_unflatten(self.treedef, leaves), signal

    def outputs(
        self,
        outputs: PyTree[Array],
        signal: Float[Array, ""],
        problem: Problem,
        pairs: FoundPairs,
    ) -> tuple[PyTree[Array], Float[Array, ""]]:
        """The outputs that have derivatives, and the signal, watched likewise."""
        out, treedef = jtu.tree_flatten(outputs)
        arrays, self.rest = eqx.partition((problem, pairs), eqx.is_array)
        known, self.known = jtu.tree_flatten(arrays)
        *out, signal = _outputs([*out, signal], known, tried=self)
        return jtu.tree_unflatten(treedef, out), signal

    def run(
        self,
        program: Program,
        known: list[Array],
        moving: list[Array | None],
        error: Array,
    ) -> list[Array]:
        """The derivatives by `program`; arrays have the batch axes of `error` in front,
        which have length one for unbatched arrays in `known`."""

        def call(known: list[Array], moving: list[Array | None]) -> list[Array]:
            arrays = jtu.tree_unflatten(self.known, known)
            problem, pairs = eqx.combine(arrays, self.rest)
            what = self.again, self.moving, self.options, self.at
            return program(what, problem, pairs, moving)

        _log.info(
            "A linear solve for a derivative missed its tolerance (backward error "
            "%.1e): it is taken again by GMRES.",
            max(np.max(x, initial=0.0) for x in visible(error)),
        )
        return _over_batch(call, known, moving, error.shape)


def _over_batch(call, known, moving, shape: tuple[int, ...]) -> list[Array]:
    if not shape:
        return call(known, moving)
    axes = [None if x.shape[0] < shape[0] else 0 for x in known]
    known = [x[0] if axis is None else x for x, axis in zip(known, axes, strict=True)]

    def one(known, moving):
        return _over_batch(call, known, moving, shape[1:])

    return jax.vmap(one, in_axes=(axes, 0))(known, moving)


def _function(what: tuple[Any, ...], problem, pairs):
    """The function from the varying inputs and the signal to the outputs; and the point
    at which to differentiate it."""
    again, names, options, at = what
    leaves, treedef = jtu.tree_flatten(problem)
    zero = jnp.zeros((), pairs.block.residuals.dtype)

    def fn(*moving: Array) -> list[Array]:
        inputs = list(leaves)
        for i, x in zip(at, moving[:-1], strict=True):
            inputs[i] = x
        inputs = jtu.tree_unflatten(treedef, inputs)
        found, signal = again(inputs, moving[-1], pairs, *options)
        return jtu.tree_leaves((_fields(found, names), signal))

    return fn, [*(leaves[i] for i in at), zero]


@Program
def _pushed(what, problem, pairs, tangents):
    fn, primals = _function(what, problem, pairs)
    return jax.jvp(fn, primals, list(tangents))[1]


@Program
def _pulled(what, problem, pairs, cotangents):
    fn, primals = _function(what, problem, pairs)
    asked = [i for i, ct in enumerate(cotangents) if ct is not None]
    _, pull = jax.vjp(lambda *x: [fn(*x)[i] for i in asked], *primals)
    return list(pull([cotangents[i] for i in asked]))


def _failed(error: Array | None) -> bool:
    return error is not None and any(np.any(x > 0) for x in visible(error))


def _better(
    first: Sequence[Array | None], second: list[Array], error: Array
) -> list[Array | None]:
    """`second` for the members of a batch that failed, `first` for the others. Where
    `second` is NaN, `first` stays: one pair without a derivative makes GMRES lose the
    others too."""

    def one(x: Array | None, y: Array) -> Array | None:
        if x is None:
            return None
        failed = jnp.expand_dims(error > 0, tuple(range(error.ndim, x.ndim)))
        return jnp.where(failed & jnp.isfinite(y), y.astype(x.dtype), x)

    return [one(x, y) for x, y in zip(first, second, strict=True)]


def _hold(moving: list[Array], _, *, tried: SecondTry) -> list[Array]:
    tried.held = list(moving), []
    return list(moving)


def _hold_back(cotangents, known, *, tried: SecondTry):
    tried.held = cotangents, known
    return cotangents


def _push(tangents: list[Array], known, *, tried: SecondTry) -> list[Any]:
    (moving, _), tried.held, error = tried.held, None, tangents[-1]
    if not _failed(error):
        return list(tangents)
    return _better(tangents, tried.run(_pushed, known, moving, error), error)


def _pull(cotangents, _, *, tried: SecondTry):
    (outputs, known), tried.held, error = tried.held, None, cotangents[-1]
    if not _failed(error):
        return cotangents
    return _better(cotangents, tried.run(_pulled, known, outputs, error), error)


_inputs = linear_map("implicit_eig_inputs", _hold, _pull, first_only=True, thin=True)
_outputs = linear_map(
    "implicit_eig_outputs", _push, _hold_back, first_only=True, thin=True
)
