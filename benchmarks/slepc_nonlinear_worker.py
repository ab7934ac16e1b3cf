"""SLEPc's PEP and NEP in the interpreter that has them (see `slepc_worker`):
`python3 slepc_nonlinear_worker.py problem.npz`, real arithmetic.

The matrices `a0, a1, …` are tridiagonal, rows of (below, diagonal, above). `kind` is "pep",
for Σ λⁱ aᵢ, or "delay", for −λI + a0 + exp(−λτ) a1.
"""

import pathlib
import sys


def main(path):
    import numpy as np
    from petsc4py import PETSc
    from slepc4py import SLEPc

    given = np.load(path)
    kind, sigma, k = str(given["kind"]), float(given["sigma"]), int(given["k"])
    rtol = float(given["rtol"])

    def matrix(bands):
        n = bands.shape[1]
        out = PETSc.Mat().createAIJ((n, n), nnz=3)
        for i in range(n):
            for band, j in zip(bands, (i - 1, i, i + 1), strict=True):
                if 0 <= j < n and (band[i] != 0 or i == j):
                    out.setValue(i, j, band[i])
        out.assemble()
        return out

    names = sorted(x for x in given.files if x[0] == "a" and x[1:].isdigit())
    matrices = [matrix(given[x]) for x in names]

    def solve_pep():
        pep = SLEPc.PEP().create()
        pep.setOperators(matrices)
        pep.setDimensions(k)
        pep.setTolerances(rtol, 1000)
        pep.setWhichEigenpairs(SLEPc.PEP.Which.TARGET_MAGNITUDE)
        pep.setTarget(sigma)
        pep.getST().setType(SLEPc.ST.Type.SINVERT)
        pep.solve()
        return pep, pep.getEigenpair

    def solve_delay():
        n = given["a0"].shape[1]
        eye = matrix(np.stack([np.zeros(n), np.ones(n), np.zeros(n)]))
        linear, one, delayed = (SLEPc.FN().create() for _ in range(3))
        linear.setType(SLEPc.FN.Type.RATIONAL)
        linear.setRationalNumerator([-1, 0])
        one.setType(SLEPc.FN.Type.RATIONAL)
        one.setRationalNumerator([1])
        delayed.setType(SLEPc.FN.Type.EXP)
        delayed.setScale(-float(given["delay"]))
        nep = SLEPc.NEP().create()
        structure = PETSc.Mat.Structure.SUBSET
        nep.setSplitOperator(
            [matrices[0], eye, matrices[1]], [one, linear, delayed], structure
        )
        nep.setType(SLEPc.NEP.Type.SLP)
        nep.setDimensions(k)
        nep.setTolerances(rtol, 1000)
        nep.setWhichEigenpairs(SLEPc.NEP.Which.TARGET_MAGNITUDE)
        nep.setTarget(sigma)
        nep.solve()
        return nep, nep.getEigenpair

    solver = solve_pep if kind == "pep" else solve_delay

    def solve():
        run, pair = solver()
        if run.getConverged() < k:
            raise SystemExit(f"{run.getConverged()} of {k} pairs have converged.")
        found = [complex(pair(i)) for i in range(k)]
        return [[z.real, z.imag] for z in found]

    run, _ = solver()
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    from benchmarks.worker import serve

    version = ".".join(map(str, SLEPc.Sys.getVersion()))
    serve({"version": version, "iterations": run.getIterationNumber()}, solve)


if __name__ == "__main__":
    main(sys.argv[1])
