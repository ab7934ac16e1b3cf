"""SLEPc's eigensolver in the interpreter that has it: `python3 slepc_worker.py problem.npz`.

Needs no JAX. On Debian: `apt-get install python3-slepc4py libopenblas0`; the interpreter is
the system's, with SLEPC_DIR and PETSC_DIR set to the real build. Without the second package
its BLAS is the reference implementation, and no peer to compare with.
"""

import glob
import os
import pathlib
import subprocess
import sys


HOW = (
    "apt-get install python3-slepc4py libopenblas0 (or set SLEPC_PYTHON to an interpreter "
    "with it)"
)
SLOW = "apt-get install libopenblas0 (the BLAS it has now is the reference one)"
# The import, and the files it has brought into memory (Linux).
PROBE = """
import pathlib, slepc4py.SLEPc
maps = pathlib.Path("/proc/self/maps")
print(maps.read_text() if maps.exists() else "")
"""


def command():
    return os.environ.get("SLEPC_PYTHON", "/usr/bin/python3")


def environment():
    """With the directories of Debian's real build, unless they are set."""
    found = dict(os.environ)
    for name, pattern in [
        ("SLEPC_DIR", "/usr/lib/slepcdir/*/*-real"),
        ("PETSC_DIR", "/usr/lib/petscdir/*/*-real"),
    ]:
        for folder in glob.glob(pattern):
            found.setdefault(name, folder)
    return found


def lacks():
    probe = [command(), "-c", PROBE]
    try:
        done = subprocess.run(
            probe, env=environment(), capture_output=True, text=True, check=False
        )
    except OSError:
        return HOW
    if done.returncode:
        return HOW
    return SLOW if has_reference_blas(done.stdout) else None


def has_reference_blas(maps):
    """Whether a process with these files in memory has Debian's reference BLAS."""
    return "/blas/libblas.so" in maps


def main(path):
    import numpy as np
    from petsc4py import PETSc
    from slepc4py import SLEPc

    class Counting:
        """The context of a shell matrix that counts its products."""

        def __init__(self, matrix):
            self.matrix, self.products = matrix, 0

        def mult(self, shell, x, y):
            del shell
            self.products += 1
            self.matrix.mult(x, y)

    given = np.load(path)
    values, rows, columns, n = (given[x] for x in ("values", "rows", "columns", "n"))
    n, k, dim, rtol = int(n), int(given["k"]), int(given["dim"]), float(given["rtol"])
    order = np.lexsort((columns, rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
    index = starts.astype(PETSc.IntType), columns[order].astype(PETSc.IntType)
    matrix = PETSc.Mat().createAIJ(size=(n, n), csr=(*index, values[order]))
    matrix.assemble()

    def solve(operator=matrix):
        eps = SLEPc.EPS().create()
        eps.setOperators(operator)
        kinds = SLEPc.EPS.ProblemType
        eps.setProblemType(kinds.HEP if "hermitian" in given else kinds.NHEP)
        eps.setDimensions(k, dim)
        eps.setTolerances(rtol, 100_000)
        ends = SLEPc.EPS.Which
        if "sigma" in given:
            eps.setWhichEigenpairs(ends.TARGET_MAGNITUDE)
            eps.setTarget(float(given["sigma"]))
            eps.getST().setType(SLEPc.ST.Type.SINVERT)
        else:
            which = {
                "LM": ends.LARGEST_MAGNITUDE,
                "LR": ends.LARGEST_REAL,
                "LA": ends.LARGEST_REAL,
            }
            eps.setWhichEigenpairs(which[str(given["which"])])
        eps.solve()
        if eps.getConverged() < k:
            raise SystemExit(f"{eps.getConverged()} of {k} pairs have converged.")
        found = [eps.getEigenvalue(i) for i in range(k)]
        return [[z.real, z.imag] for z in found]

    ready = {"version": ".".join(map(str, SLEPc.Sys.getVersion()))}
    if "sigma" not in given:
        counting = Counting(matrix)
        shell = PETSc.Mat().createPython((n, n), counting)
        shell.setUp()
        solve(shell)
        ready["products"] = counting.products
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    from benchmarks.worker import serve

    serve(ready, solve)


if __name__ == "__main__":
    main(sys.argv[1])
