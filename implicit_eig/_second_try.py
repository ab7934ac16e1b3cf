"""Where a linear solve for a derivative missed its tolerance, another solver, in a
program of its own.

Krylov–Sylvester is what a gradient compiles. GMRES beside it would nearly double
the time to compile, for everybody, and few ask for it. So in a plain call Python looks
at the backward error that comes out, and where it tells of a failure the same
derivative is taken again by [`implicit_eig.DeflatedGMRES`][], at the pairs it has.

Two linear maps stand around the program, one at its inputs and one at its outputs. In
reverse mode the cotangents of the outputs pass first, and are held until those of the
inputs come out; in forward mode it is the other way round.
"""

import logging
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Num, PyTree

from ._ad import linear_map
from ._eigensolver import InvariantBlock
from ._krylov import default_start
from ._problem import Problem, stop
from ._program import is_plain, Program, visible
from ._rule import SylvesterSolve
from ._spectral import ShiftInverted
from ._sylvester import AbstractSylvesterSolver, DeflatedGMRES


_log = logging.getLogger("implicit_eig")
# Of 60 products each, and one more time for each refinement.
_CYCLES = 10


class FoundPairs(eqx.Module):
    """What is kept of a run, for derivatives taken later: the block without a factor, and
    the shift that was factorised."""

    block: InvariantBlock
    sigma: Num[Array, ""] | None

    @classmethod
    def of(cls, block: InvariantBlock) -> "FoundPairs":
        transformation = block.transformation
        sigma = None
        if isinstance(transformation, ShiftInverted):
            sigma = transformation.sigma
        bare = eqx.tree_at(
            lambda b: (b.transformation, b.spectrum),
            block,
            (None, None),
            is_leaf=lambda x: x is None,
        )
        return cls(bare, sigma)

    def solved_by_gmres(self, problem: Problem) -> SylvesterSolve:
        """The solver for derivatives of these pairs, with the factor made again."""
        block, pencil = self.block, stop(problem.pencil)
        if self.sigma is not None:
            transformation = problem.eigensolver.transformation(pencil, self.sigma)
            block = eqx.tree_at(
                lambda b: b.transformation,
                block,
                transformation,
                is_leaf=lambda x: x is None,
            )
        solver = _Regular(DeflatedGMRES(max_restarts=_CYCLES))
        solve = eqx.tree_at(lambda s: s.solver, problem.solve, solver)
        return stop(solve).for_block(block)


class _Regular(AbstractSylvesterSolver):
    """`inner`, where it solves the system for a random right side as well.

    A system may be singular to rounding because a copy of a selected eigenvalue was left
    out. Then there is no derivative; but GMRES finds the least solution for a right side
    that happens to have one, and nothing is seen.
    """

    inner: AbstractSylvesterSolver

    def solve(self, system, rhs, *, rtol, **options):
        def solved(rhs: Array) -> Array:
            return self.inner.solve(system, rhs, rtol=rtol, **options)

        random = default_start(rhs.size, rhs.dtype).reshape(rhs.shape)
        random = system.project(jnp.where(system.active, random, 0))
        z = solved(random)
        size, right = jnp.linalg.norm(z), jnp.linalg.norm(random)
        error = jnp.linalg.norm(random - system.mm(z))
        reached = error <= 10 * rtol * (system.scale * size + right)
        apart = rtol * system.scale * size <= 0.01 * right
        return jnp.where(reached & apart, solved(rhs), jnp.inf)


# Takes a problem, a signal, the pairs and options; returns what has derivatives, and a
# signal.
Again = Callable[..., tuple[PyTree[Array], Float[Array, ""]]]


def _moves(x: Any) -> bool:
    return isinstance(x, Tracer) and jnp.issubdtype(x.dtype, jnp.inexact)


class SecondTry:
    """Of one plain call with derivatives: `again` is what takes them a second time."""

    def __init__(self, again: Again, problem: Problem, options: tuple[Any, ...]):
        leaves, self.treedef = jtu.tree_flatten(problem)
        self.again, self.options = again, options
        self.at = tuple(i for i, x in enumerate(leaves) if _moves(x))
        self.held: Any = None

    @classmethod
    def of(
        cls, again: Again, problem: Problem, options: tuple[Any, ...]
    ) -> "SecondTry | None":
        """`None` where there is no derivative, or none that Python sees."""
        if any(is_plain(x) for x in jtu.tree_leaves(problem) if _moves(x)):
            return cls(again, problem, options)
        return None

    def inputs(
        self, problem: Problem, signal: Float[Array, ""] | None
    ) -> tuple[Problem, Float[Array, ""]]:
        """The problem and the signal, whose derivatives are seen from now on."""
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
        """What has derivatives, and the signal, likewise."""
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
        those of `known` of length one where they are in no batch."""

        def call(known: list[Array], moving: list[Array | None]) -> list[Array]:
            arrays = jtu.tree_unflatten(self.known, known)
            problem, pairs = eqx.combine(arrays, self.rest)
            return program(self.again, problem, pairs, self.options, self.at, moving)

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


def _function(again: Again, problem, pairs, options, at):
    """From the inputs that move, and the signal, to the outputs; and its point."""
    leaves, treedef = jtu.tree_flatten(problem)
    zero = jnp.zeros((), pairs.block.residuals.dtype)

    def fn(*moving: Array) -> list[Array]:
        given = list(leaves)
        for i, x in zip(at, moving[:-1], strict=True):
            given[i] = x
        given = jtu.tree_unflatten(treedef, given)
        return jtu.tree_leaves(again(given, moving[-1], pairs, *options))

    return fn, [*(leaves[i] for i in at), zero]


@Program
def _pushed(again, problem, pairs, options, at, tangents):
    fn, primals = _function(again, problem, pairs, options, at)
    return jax.jvp(fn, primals, list(tangents))[1]


@Program
def _pulled(again, problem, pairs, options, at, cotangents):
    fn, primals = _function(again, problem, pairs, options, at)
    asked = [i for i, ct in enumerate(cotangents) if ct is not None]
    _, pull = jax.vjp(lambda *x: [fn(*x)[i] for i in asked], *primals)
    return list(pull([cotangents[i] for i in asked]))


def _failed(error: Array | None) -> bool:
    return error is not None and any(np.any(x > 0) for x in visible(error))


def _better(
    first: list[Array | None], second: list[Array], error: Array
) -> list[Array | None]:
    """`second`, in members of a batch that failed. Where it is NaN, `first` keeps what it
    has: of one pair that has no derivative GMRES loses the others too."""

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


def _push(tangents: list[Array], known, *, tried: SecondTry) -> list[Array]:
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
