"""Measures every task beside its peers and writes the results.

python -m benchmarks [suite ...] [--quick] [--rounds 5] [--cores 1]
"""

import argparse
import ctypes
import datetime
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess


SUITES = (
    "dense",
    "extremal",
    "hermitian",
    "adjoint",
    "interior",
    "nonlinear",
    "one_pair",
    "products",
    "overhead",
    "scaling",
)
QUICK = (
    "dense",
    "extremal",
    "hermitian",
    "interior",
    "one_pair",
    "products",
)  # within 3 minutes
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "torch", "fmmax", "matfree", "solvax")
HERE = pathlib.Path(__file__).parent


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine():
    """The processor and how many of its cores this run may use."""
    import jax

    name = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*: (.*)", info.read_text())
        name = found[1] if found else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"
    return f"{name}, {cores} core(s), {jax.default_backend()}"


def provenance():
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in PACKAGES},
    }


def quiet_machine(cores):
    """As many cores as asked for, before JAX counts them, and no page faults of memory
    that is returned and fetched again."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc: no mapping below 1 GiB, no trimming
        libc.mallopt(-3, 2**30)
        libc.mallopt(-1, 2**30)


def run(suite, quick, rounds):
    """Measures the suite; results are on disk after each task."""
    from . import report
    from .harness import measure

    found = []
    name = f"{suite}-quick" if quick else suite
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    print(f"\n{name}\n{report.HEAD}")
    for task in importlib.import_module(f".{suite}", __package__).tasks(quick):
        found.append(measure(task, rounds, counts=not quick))
        print(*report.rows(found[-1]), sep="\n", flush=True)
        path.write_text(json.dumps(provenance() | {"tasks": found}, indent=1) + "\n")
    report.write()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(SUITES)}; or all")
    parser.add_argument("--quick", action="store_true", help="small sizes, no counts")
    parser.add_argument("--rounds", type=int, help="5, or 3 of quick ones")
    parser.add_argument("--cores", type=int, default=1)
    options = parser.parse_args()
    for suite in options.suites:
        if suite not in SUITES:
            parser.error(f"no suite is called {suite!r}; there are {', '.join(SUITES)}")
    quiet_machine(options.cores)
    import jax

    jax.config.update("jax_enable_x64", True)
    for suite in options.suites or (QUICK if options.quick else SUITES):
        run(suite, options.quick, options.rounds or (3 if options.quick else 5))


if __name__ == "__main__":
    main()
