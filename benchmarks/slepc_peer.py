"""SLEPc's Krylov–Schur on the real problems of `benchmarks.forward`.

    taskset -c 0 python3 -m benchmarks.slepc_peer [--large]

Needs no JAX and runs in an interpreter of its own, the one that has slepc4py (on Debian the
system's, `apt-get install python3-slepc4py`, with SLEPC_DIR and PETSC_DIR set to the real
build). Products are counted in a run apart; seconds are the best of three.
"""

import argparse
import time

import numpy as np

from .problems import CASES, DIM, K, LARGE, RTOL


try:
    from petsc4py import PETSc
    from slepc4py import SLEPc
except ImportError:
    raise SystemExit(
        "SLEPc is not measured: this interpreter has no slepc4py. On Debian: "
        "`apt-get install python3-slepc4py`, then run this with the system's python3."
    ) from None


class Counting:
    """The context of a shell matrix that counts its products."""

    def __init__(self, matrix):
        self.matrix, self.products = matrix, 0

    def mult(self, shell, x, y):
        del shell
        self.products += 1
        self.matrix.mult(x, y)


def aij(values, rows, columns, n):
    sort = np.lexsort((columns, rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
    index = starts.astype(PETSc.IntType), columns[sort].astype(PETSc.IntType)
    return PETSc.Mat().createAIJ(size=(n, n), csr=(*index, values[sort]))


def solve(matrix, which):
    """Seconds of one run."""
    eps = SLEPc.EPS().create()
    eps.setOperators(matrix)
    eps.setProblemType(SLEPc.EPS.ProblemType.NHEP)
    eps.setDimensions(K, DIM)
    eps.setTolerances(RTOL, 100_000)
    ends = SLEPc.EPS.Which
    eps.setWhichEigenpairs({"LM": ends.LARGEST_MAGNITUDE, "LR": ends.LARGEST_REAL}[which])
    began = time.perf_counter()
    eps.solve()
    seconds = time.perf_counter() - began
    assert eps.getConverged() >= K
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    print(f"SLEPc {SLEPc.Sys.getVersion()}, k={K}, ncv={DIM}, tol={RTOL}\n")
    print("| case | n | products | s |\n|---|---|---|---|")
    for name, make, m, which in CASES + LARGE * options.large:
        values, rows, columns, n = make(m)
        if np.iscomplexobj(values):
            continue
        matrix = aij(values, rows, columns, n)
        counting = Counting(matrix)
        shell = PETSc.Mat().createPython((n, n), counting)
        shell.setUp()
        solve(shell, which)
        seconds = min(solve(matrix, which) for _ in range(3))
        print(f"| {name} | {n:_} | {counting.products} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
