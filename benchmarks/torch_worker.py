"""torch's LOBPCG in the interpreter that has torch: `python torch_worker.py problem.npz`.

Needs no JAX. `pip install torch` in an environment of its own, and `TORCH_PYTHON` the
interpreter of that; by default this one.
"""

import functools
import os
import pathlib
import subprocess
import sys


HOW = "pip install torch (or set TORCH_PYTHON to an interpreter with it)"


def command():
    return os.environ.get("TORCH_PYTHON", sys.executable)


@functools.cache
def lacks():
    probe = [command(), "-c", "import torch"]
    try:
        done = subprocess.run(probe, capture_output=True, check=False)
    except OSError:
        return HOW
    return HOW if done.returncode else None


def main(path):
    import numpy as np
    import torch

    torch.set_num_threads(1)
    given = np.load(path)
    n, k = int(given["n"]), int(given["k"])
    index = torch.tensor(np.stack([given["rows"], given["columns"]]))
    values = torch.tensor(given["values"])
    a = torch.sparse_coo_tensor(index, values, (n, n)).coalesce().to_sparse_csr()
    start = torch.tensor(np.random.default_rng(0).normal(size=(n, k)))
    steps = []

    def solve():
        steps.clear()
        found, _ = torch.lobpcg(
            a,
            X=start.clone(),
            niter=10_000,
            tol=float(given["rtol"]),
            largest=True,
            tracker=lambda worker: steps.append(worker.ivars["istep"]),
        )
        return found.tolist()

    solve()
    ready = {"version": torch.__version__, "iterations": max(steps)}
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    from benchmarks.worker import serve

    serve(ready, solve)


if __name__ == "__main__":
    main(sys.argv[1])
