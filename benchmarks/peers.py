"""Peers that find eigenvalues of a sparse matrix, given as coordinate triplets."""

import functools
import pathlib
import tempfile

import equinox as eqx
import jax
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import implicit_eig as ieig

from . import slepc_worker
from .harness import Peer
from .worker import Worker


def csr(triplets):
    values, rows, columns, n = triplets
    return sp.csr_array((values, (rows, columns)), shape=(n, n))


def in_order(values):
    """Eigenvalues, comparable: conjugates side by side, whichever came first."""
    values = np.asarray(values)
    return values[np.lexsort((values.imag.round(6), values.real.round(9)))]


def counted(f, operator):
    """Products with A and Aᵀ of one run of `f(operator)`, compiled."""
    arrays, static = eqx.partition(ieig.CountingOperator(operator), eqx.is_inexact_array)
    jax.block_until_ready(jax.jit(lambda arrays: f(eqx.combine(arrays, static)))(arrays))
    return {"products": sum(eqx.combine(arrays, static).counts())}


def arpack(triplets, which, *, k, dim, rtol):
    a = csr(triplets)
    n = a.shape[0]
    v0 = np.random.default_rng(0).normal(size=n)

    def solve(op):
        found = spla.eigs(op, k, which=which, ncv=dim, tol=rtol, v0=v0, maxiter=100_000)
        return found[0]

    def count():
        products = 0

        def product(v):
            nonlocal products
            products += 1
            return a @ v

        solve(spla.LinearOperator((n, n), product, dtype=a.dtype))
        return {"products": products}

    return Peer("ARPACK", lambda: functools.partial(solve, a), None, in_order, count)


def arpack_near(triplets, sigma, *, k, dim, rtol):
    """As SciPy does it, and with another ordering than SciPy's default, COLAMD, for its
    factorisation."""
    # Of a real matrix and a complex σ SciPy returns pairs near σ or near its conjugate.
    a = csr(triplets).astype(np.result_type(triplets[0], sigma))
    v0 = np.random.default_rng(0).normal(size=a.shape[0])
    options = dict(sigma=sigma, ncv=dim, tol=rtol, v0=v0, maxiter=1000)

    def plain():
        return spla.eigs(a, k, **options)[0]

    def reordered():
        shifted = sp.csc_array(a - sigma * sp.eye_array(a.shape[0]))
        factor = spla.splu(shifted, permc_spec="MMD_AT_PLUS_A")
        inverse = spla.LinearOperator(a.shape, factor.solve, dtype=a.dtype)
        return spla.eigs(a, k, OPinv=inverse, **options)[0]

    return [
        Peer("ARPACK", lambda: plain, None, in_order),
        Peer("ARPACK, MMD_AT_PLUS_A", lambda: reordered, None, in_order),
    ]


@functools.cache
def _slepc_lacks():
    return slepc_worker.lacks()


def slepc(triplets, *, k, dim, rtol, **selection):
    """`which=` or `sigma=`. Debian has builds for real numbers and for complex ones, not
    both in one interpreter: complex problems are left out."""
    values, rows, columns, n = triplets
    if np.iscomplexobj(values) or np.iscomplexobj(selection.get("sigma")):
        return []
    workers = []

    def make():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "problem.npz"
            arrays = dict(values=values, rows=rows, columns=columns, n=n)
            np.savez(path, **arrays, k=k, dim=dim, rtol=rtol, **selection)
            script = str(pathlib.Path(slepc_worker.__file__))
            run = [slepc_worker.command(), script, str(path)]
            workers.append(Worker(run, slepc_worker.environment()))
        return workers[0]

    def compared(found):
        return in_order([complex(*z) for z in found])

    def count():
        return {k: v for k, v in workers[0].ready.items() if k == "products"}

    return [Peer("SLEPc", make, _slepc_lacks(), compared, count)]
