"""Copies of repeated eigenvalues that runs miss, unasked.

    python -m benchmarks.copies [--seeds 8]

`KrylovSchur` on diag(B, B), in which every eigenvalue is there twice, for five kinds of B that are
not normal, of orders 40, 100 and 240, k = 1, 2, 3, LM and LR. A run misses a copy if it returns
another eigenvalue instead, or does not say that k cuts off a copy (of a real one; of two complex
pairs k may cut one). Beside it the products of the same runs for diag(B, B/2).
"""

import argparse
import collections

import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ieig


def kinds(n, rng):
    noise = rng.normal(size=(n, n)) / n**0.5
    links = rng.random((n, n)) * (rng.random((n, n)) < 5 / n)
    step = np.arange(1, n + 1) / n
    yield noise
    yield 2 * np.eye(n) - 1.05 * np.eye(n, k=1) - 0.95 * np.eye(n, k=-1)
    yield np.diag(step) + 0.3 / n * np.eye(n, k=1)
    yield np.diag(step) + 0.3 * np.triu(noise, 1)
    yield links / np.maximum(links.sum(axis=0), 1e-3)


KEYS = {"LM": np.abs, "LR": np.real}


def blocks(b, c):
    zero = np.zeros_like(b)
    return np.block([[b, zero], [zero, c]])


def run(n, k, which):
    """A compiled run; one for all matrices of one order."""

    @jax.jit
    def compiled(a):
        solver = ieig.KrylovSchur(rtol=1e-9, krylov_dim=20, max_restarts=400)
        like = jax.ShapeDtypeStruct((2 * n,), a.dtype)
        with_ = {"which": which, "like": like, "eigensolver": solver, "throw": False}
        s = ieig.eigs(lambda v: a @ v, k, **with_)
        sure, cut = s.result == ieig.RESULTS.successful, s.result == ieig.RESULTS.cut_tie
        return s.eigenvalues, sure, cut, s.stats["num_matvecs"]

    return compiled


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    totals = collections.Counter()
    for n in (40, 100, 240):
        for k in (1, 2, 3):
            for which, key in KEYS.items():
                compiled = run(n, k, which)
                for seed in range(args.seeds):
                    for b in kinds(n, np.random.default_rng(1000 * n + seed)):
                        best = np.sort(key(np.linalg.eigvals(b)))[::-1]
                        values, sure, cut, products = compiled(jnp.asarray(blocks(b, b)))
                        got = np.sort(key(np.asarray(values)))[::-1]
                        right = np.allclose(got, np.repeat(best, 2)[:k], rtol=1e-5)
                        real = jnp.abs(values[k - 1].imag) < 1e-9
                        totals["runs"] += 1
                        totals["products"] += int(products)
                        totals["not converged"] += not (sure | cut)
                        totals["another one instead"] += bool(sure | cut) and not right
                        totals["cut, not seen"] += bool(sure & right & real) and k % 2
                        products = compiled(jnp.asarray(blocks(b, b / 2)))[-1]
                        totals["products, once"] += int(products)
    print(dict(totals))


if __name__ == "__main__":
    main()
