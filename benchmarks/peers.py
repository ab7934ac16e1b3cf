"""What is measured beside us, and how seconds are taken."""

import time

import jax
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla


def csr(triplets):
    values, rows, columns, n = triplets
    return sp.csr_array((values, (rows, columns)), shape=(n, n))


def arpack(triplets, which, *, k, dim, rtol):
    """Products of one SciPy `eigs` call, and its best seconds."""
    a = csr(triplets)
    n, count = a.shape[0], [0]

    def product(v):
        count[0] += 1
        return a @ v

    v0 = np.random.default_rng(0).normal(size=n)
    counting = spla.LinearOperator((n, n), product, dtype=a.dtype)

    def run(op):
        return spla.eigs(op, k, which=which, ncv=dim, tol=rtol, v0=v0, maxiter=100_000)

    run(counting)
    return count[0], best(lambda: run(a))


def best(run, times=3):
    """The shortest of a few runs, in seconds."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return min(seconds)
