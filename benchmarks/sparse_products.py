"""Products of `SparseOperator` beside SciPy's CSR, which applies Aᵀ as CSC.

    python -m benchmarks.sparse_products

n = 10⁵, about five entries a row, one thread, inside `jit`. Milliseconds are the best of
many, the two taken in turn; blocks have four columns in row-major order.
"""

import os


os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
)

import ctypes
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy
import scipy.sparse as sp

import implicit_eig as ieig

from .problems import convection_diffusion, random_walk


N, R, ROUNDS = 100_000, 5, 40


def constant_rows(rng):
    """R entries in every row, anywhere."""
    rows = np.repeat(np.arange(N), R)
    return rng.normal(size=N * R), rows, rng.integers(0, N, N * R), N


def poisson_rows(rng):
    """Entries anywhere, R a row on average."""
    rows, columns = rng.integers(0, N, (2, N * R))
    return rng.normal(size=N * R), rows, columns, N


def power_law_rows(rng):
    """Row lengths of a Pareto law of exponent 1.25, and as skew a choice of columns."""
    lengths = np.minimum(rng.pareto(1.25, N) * (R - 1) / 4 + 1, N // 10).astype(int)
    rows = np.repeat(np.arange(N), lengths)
    columns = (N * rng.random(rows.size) ** 2).astype(int)
    return rng.normal(size=rows.size), rows, columns, N


def cases():
    rng = np.random.default_rng(0)
    yield "5-point stencil", convection_diffusion(316)
    yield "random walk", random_walk(446)
    yield "5 a row, random", constant_rows(rng)
    yield "Poisson rows", poisson_rows(rng)
    yield "power-law rows", power_law_rows(rng)


def in_turn(*runs):
    """The best time of each, taken in turn so that all meet the same machine."""
    best = [float("inf")] * len(runs)
    for _ in range(ROUNDS):
        for i, run in enumerate(runs):
            run()
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def products(triplets, dtype, k):
    """Milliseconds of SciPy's and of our product, and of both transposed products."""
    values, rows, columns, n = triplets
    a = sp.csr_array((values.astype(dtype), (rows, columns)), shape=(n, n))
    op = ieig.SparseOperator(values.astype(dtype), rows, columns, n)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, k) if k > 1 else n).astype(dtype)
    device = jnp.asarray(x)
    runs = []
    for theirs, ours in ((a, op), (a.T, op.transpose())):
        product = jax.jit(lambda op, x: op.mm(x))
        assert np.allclose(product(ours, device), theirs @ x)
        runs += [
            lambda theirs=theirs: theirs @ x,
            lambda ours=ours, product=product: product(ours, device).block_until_ready(),
        ]
    return [1e3 * seconds for seconds in in_turn(*runs)]


def main():
    print(f"jax {jax.__version__}, scipy {scipy.__version__}")
    print(
        "| matrix | dtype | k | A: SciPy ms | ours | ratio | Aᵀ: SciPy ms | ours | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, triplets in cases():
        for dtype in ("float64", "complex128"):
            for k in (1, 4):
                a, b, c, d = products(triplets, dtype, k)
                print(
                    f"| {name} | {dtype} | {k} | {a:.2f} | {b:.2f} | {b / a:.2f} "
                    f"| {c:.2f} | {d:.2f} | {d / c:.2f} |",
                    flush=True,
                )


def keep_memory():
    """Let malloc reuse large blocks: both sides else time the page faults of fresh ones."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc: no mapping below 1 GiB, no trimming
        libc.mallopt(-3, 2**30)
        libc.mallopt(-1, 2**30)


if __name__ == "__main__":
    keep_memory()
    jax.config.update("jax_enable_x64", True)
    main()
