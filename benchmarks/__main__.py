"""Measures every task beside its peers and writes the results.

python -m benchmarks [--quick] [--rounds 5]
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess

import jax

from . import dense, report
from .harness import measure


SUITES = {"dense": dense.tasks}
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "torch")


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine():
    """The processor and how many of its cores this run may use."""
    name = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*: (.*)", info.read_text())
        name = found[1] if found else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"
    return f"{name}, {cores} core(s), {jax.default_backend()}"


def provenance():
    git = ["git", "-C", str(report.HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in PACKAGES},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 5)
    for suite, tasks in SUITES.items():
        rows = []
        for task in tasks(options.quick):
            rows.append(measure(task, rounds))
            print(report.row(rows[-1]), flush=True)
        name = f"{suite}-quick" if options.quick else suite
        path = report.HERE / "results" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(provenance() | {"tasks": rows}, indent=1) + "\n")
    report.write()


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
