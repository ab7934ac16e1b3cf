"""One task, several peers that do the same work, taking turns in one process."""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np


HOW = {  # how to get the module that a peer needs
    "torch": "pip install torch --index-url https://download.pytorch.org/whl/cpu",
}


@dataclass(frozen=True)
class Peer:
    """`make()` returns what is timed; its results are compared between the peers."""

    name: str
    make: Callable[[], Callable[[], object]]
    needs: str | None = None


@dataclass(frozen=True)
class Task:
    """The first peer is ours: the ratios are ours over theirs."""

    name: str
    peers: list[Peer]
    rtol: float = 1e-6


def missing(peer):
    if peer.needs is None or importlib.util.find_spec(peer.needs) is not None:
        return None
    return f"{peer.name} is skipped: {HOW.get(peer.needs, f'pip install {peer.needs}')}"


def statistics(seconds):
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return {"q1": float(low), "median": float(median), "q3": float(high)}


def agree(name, results, rtol):
    """Nothing wrong is timed: every result is finite and close to the first one."""
    (first, wanted), *others = results.items()
    for peer, got in [(first, wanted), *others]:
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            x, y = np.asarray(x), np.asarray(y)
            if not np.linalg.norm(x - y) <= rtol * np.linalg.norm(y):
                raise ValueError(f"{name}: {peer} and {first} disagree.")


def measure(task, rounds):
    """The first call, quartiles and ratios of one task."""
    skipped = [line for p in task.peers if (line := missing(p))]
    for line in skipped:
        print(line)
    runs = {p.name: p.make() for p in task.peers if not missing(p)}
    seconds = {name: [] for name in runs}
    results = {}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            out = jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - began)
            if not turn:
                results[name] = out
        if not turn:
            agree(task.name, results, task.rtol)
    first, *_ = runs
    peers = {}
    for name, s in seconds.items():
        ratios = np.divide(seconds[first][1:], s[1:])
        peers[name] = {
            "first_call": s[0],
            "seconds": statistics(s[1:]),
            "ours_over_it": statistics(ratios),
        }
    return {"task": task.name, "rounds": rounds, "peers": peers, "skipped": skipped}
