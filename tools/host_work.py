"""What a program leaves to the host when it is lowered for an accelerator.

Lowering needs no accelerator. Counted are custom calls that are no kernels of the device
(LAPACK, and JAX's hybrid routines around it; Python callbacks), and the predicates of
loops and branches, one number each, which XLA may copy to the host for every decision. An
`eig` of JAX is a kernel where cuSOLVER has one (from 11.7.1), which is known on a machine
that has cuSOLVER; elsewhere it counts as work of the host.
"""

import collections
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax


# Anything else counts as the host's: a kernel that is not known here shows.
KERNELS = (
    "cusolver_",
    "cublas_",
    "cu_",
    "cub_",
    "__cu",
    "__gpu$xla.gpu.triton",
    "Sharding",
)


class Work(NamedTuple):
    """`what` runs where, inside how many nested loops; `branch`: if a branch is taken."""

    what: str
    loops: int
    branch: bool


def host_work(fn: Callable, *args, platform: str = "cuda") -> collections.Counter[Work]:
    """How often each kind of host work stands in the program of `fn(*args)`.

    Arguments may be `jax.ShapeDtypeStruct`s. What stands in a function is counted at each
    of its calls, and what stands in a loop once, with the number of loops around it.
    """
    lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,))
    module = lowered.compiler_ir("stablehlo")
    functions = {op.attributes["sym_name"].value: op for op in module.body.operations}

    @functools.cache
    def inside(name: str) -> collections.Counter[Work]:
        return block_work(functions[name].regions)

    def block_work(regions) -> collections.Counter[Work]:
        found = collections.Counter()
        for region in regions:
            for block in region.blocks:
                for op in block.operations:
                    found += op_work(op.operation)
        return found

    def op_work(op) -> collections.Counter[Work]:
        if op.name == "func.call":
            return inside(op.attributes["callee"].value)
        if op.name == "stablehlo.custom_call":
            target = op.attributes["call_target_name"].value
            known = target.startswith(KERNELS)
            return collections.Counter() if known else _one(target)
        within = block_work(op.regions)
        if op.name == "stablehlo.while":
            return _moved(within + _one("predicate"), loops=1)
        if op.name in ("stablehlo.case", "stablehlo.if"):
            return _moved(within, branch=True) + _one("predicate")
        return within

    return inside("main")


def _one(what: str) -> collections.Counter[Work]:
    return collections.Counter([Work(what, 0, False)])


def _moved(found, loops=0, branch=False) -> collections.Counter[Work]:
    moved = collections.Counter()
    for work, times in found.items():
        moved[Work(work.what, work.loops + loops, work.branch or branch)] += times
    return moved


def table(found: collections.Counter[Work]) -> str:
    lines = ["| on the host | loops around it | in a branch | times |", "|---" * 4 + "|"]
    for (what, loops, branch), times in sorted(found.items()):
        lines.append(f"| {what} | {loops} | {'yes' if branch else 'no'} | {times} |")
    return "\n".join(lines)
