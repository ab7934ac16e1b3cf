"""One task, several peers that do the same work, taking turns in one process."""

import importlib.util
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np


HOW = {  # how to get the module that a peer needs, where its name does not say it
    "torch": "pip install torch --index-url https://download.pytorch.org/whl/cpu",
}


def lacks(module: str) -> str | None:
    """How to get the module; None where it is here."""
    if importlib.util.find_spec(module) is not None:
        return None
    return HOW.get(module, f"pip install {module}")


@dataclass(frozen=True)
class Peer:
    """`make()` returns what is timed. `compared` takes of its result what all peers of the
    task must agree on; `count` is called once, untimed, and names what it counted."""

    name: str
    make: Callable[[], Callable[[], object]]
    lacks: str | None = None
    compared: Callable[[object], object] = lambda result: result
    count: Callable[[], dict[str, int]] = dict


@dataclass(frozen=True)
class Point:
    """Where a task stands in a figure."""

    figure: str
    axis: str
    x: float
    line: str = ""


@dataclass(frozen=True)
class Task:
    """The first peer is ours: the ratios are ours over theirs. Tasks of one kind share a
    row of the headline table."""

    name: str
    kind: str
    peers: list[Peer] = field(repr=False)
    rtol: float = 1e-6
    point: Point | None = None


def statistics(seconds):
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return {"q1": float(low), "median": float(median), "q3": float(high)}


def distance(got, wanted):
    """The largest relative distance of any array of the two results; NaN counts as inf."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        apart = np.linalg.norm(x - y) / max(np.linalg.norm(y), 1e-300)
        worst = max(worst, float(apart) if np.isfinite(apart) else np.inf)
    return worst


def timed(run):
    began = time.perf_counter()
    out = jax.block_until_ready(run())
    return time.perf_counter() - began, out


def reason(error):
    """In one line. Of a run-time error of a program, its sentence, not the stacks around."""
    said = re.search(r"EquinoxRuntimeError: (.*)", str(error))
    line = said[1] if said else (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {line}"


def first_calls(task, counts):
    """Each peer's run and what is known of it after one call. Nothing wrong is timed: a
    peer that fails, or differs from ours, has no run."""
    jax.clear_caches()  # or a first call would profit from an earlier task
    runs, rows, wanted = {}, {}, None
    for peer in task.peers:
        row = rows[peer.name] = {}
        if peer.lacks:
            row["skipped"] = peer.lacks
            continue
        try:
            run = peer.make()
            row["first_call"], out = timed(run)
            out = jax.tree.map(np.asarray, peer.compared(out))
        except Exception as error:  # a peer's own error, whatever it is
            if wanted is None:
                raise
            row["failed"] = reason(error)
            continue
        wanted = out if wanted is None else wanted
        apart = distance(out, wanted)
        if not apart <= task.rtol:
            row["failed"] = f"differs from ours by {apart:.0e}"
            continue
        row["counts"] = peer.count() if counts else {}
        runs[peer.name] = run
    return runs, rows


def measure(task, rounds, counts=True):
    """The first call, counts, quartiles and ratios of one task."""
    runs, rows = first_calls(task, counts)
    seconds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(timed(run)[0])
    ours = task.peers[0].name
    for name, s in seconds.items():
        rows[name]["seconds"] = statistics(s)
        rows[name]["ours_over_it"] = statistics(np.divide(seconds[ours], s))
    point = None if task.point is None else vars(task.point)
    return {
        "task": task.name,
        "kind": task.kind,
        "rounds": rounds,
        "point": point,
        "peers": rows,
    }
