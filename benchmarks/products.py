"""Products of `SparseOperator` beside SciPy's CSR, which applies Aᵀ as CSC.

n ≈ 10⁵, about five entries a row; blocks have four columns in row-major order.
"""

import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ieig

from .harness import Peer, Task
from .peers import csr
from .problems import convection_diffusion, random_walk


N, R, TIMES = 100_000, 5, 20


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


def matrices(quick):
    rng = np.random.default_rng(0)
    yield "5-point stencil", convection_diffusion(316)
    if quick:
        return
    yield "random walk", random_walk(446)
    yield "5 a row, random", constant_rows(rng)
    yield "Poisson rows", poisson_rows(rng)
    yield "power-law rows", power_law_rows(rng)


def repeated(product):
    """One product is too short to time."""

    def run():
        for _ in range(TIMES):
            out = product()
        return out

    return lambda: run


def tasks(quick):
    for name, triplets in matrices(quick):
        values, rows, columns, n = triplets
        for dtype in ("float64", "complex128"):
            op = ieig.SparseOperator(values.astype(dtype), rows, columns, n)
            a = csr((values.astype(dtype), rows, columns, n))
            for k in (1, 4):
                shape = (n, k) if k > 1 else n
                x = np.random.default_rng(1).normal(size=shape).astype(dtype)
                sides = {"A": (op, a), "Aᵀ": (op.transpose(), a.T)}
                for side, (left, right) in sides.items():
                    product = jax.jit(lambda op, x: op.mm(x))
                    yield Task(
                        f"{TIMES} products with {side}, {name}, {dtype}, k = {k}",
                        f"products with a sparse {side}",
                        [
                            Peer(
                                "ours",
                                repeated(
                                    lambda p=product, op=left, x=jnp.asarray(x): p(
                                        op, x
                                    ).block_until_ready()
                                ),
                            ),
                            Peer("SciPy, CSR", repeated(lambda a=right, x=x: a @ x)),
                        ],
                    )
