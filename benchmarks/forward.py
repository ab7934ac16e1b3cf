"""Finding the pairs: `eigs` beside SciPy's ARPACK, in one process on one thread.

    taskset -c 0 python -m benchmarks.forward [--large]

k = 6, Krylov dimension 20, tolerance 1e-9. Products are exact; seconds are the best of three
after compilation. `--large` adds n of 1e5 and more.
"""

import argparse
import functools
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as spla

import implicit_eig as ieig

from .peers import arpack, best, csr
from .problems import CASES, convection_diffusion, DIM, K, LARGE, RTOL


SOLVER = ieig.KrylovSchur(rtol=RTOL, krylov_dim=DIM, max_restarts=100_000)


@eqx.filter_jit
def find(operator, which):
    return ieig.eigs(operator, K, which, eigensolver=SOLVER, throw=False)


def one_at_a_time(cases):
    print("| case | n | ARPACK products (s) | ours (s) | seconds, ratio | first call s |")
    print("|---|---|---|---|---|---|")
    for name, make, m, which in cases:
        triplets = make(m)
        theirs, their_seconds = arpack(triplets, which, k=K, dim=DIM, rtol=RTOL)
        operator = ieig.SparseOperator(*triplets)
        began = time.perf_counter()
        solution = jax.block_until_ready(find(operator, which))
        first = time.perf_counter() - began
        assert solution.result == ieig.RESULTS.successful, solution.result
        ours = solution.stats["num_matvecs"]
        seconds = best(functools.partial(find, operator, which))
        print(
            f"| {name} | {triplets[3]:_} | {theirs} ({their_seconds:.2f}) "
            f"| {ours} ({seconds:.2f}) | {seconds / their_seconds:.2f} "
            f"| {first - seconds:.1f} |",
            flush=True,
        )


def a_batch(members=64, m=45):
    """Operators of one pattern under `vmap`, against a loop over SciPy."""
    values, rows, columns, n = convection_diffusion(m, p=(5.0, 10.0, 20.0))
    rng = np.random.default_rng(0)
    batch = values * (1 + 0.1 * rng.random((members, values.size)))

    def loop():
        for v in batch:
            spla.eigs(csr((v, rows, columns, n)), K, which="LM", ncv=DIM, tol=RTOL)

    @jax.jit
    @jax.vmap
    def together(v):
        s = find(ieig.SparseOperator(v, rows, columns, n), "LM")
        return s.eigenvalues, s.result._value

    batch = jnp.asarray(batch)
    together(batch)
    ours, theirs = best(lambda: together(batch)), best(loop)
    print(f"\n{members} operators of n = {n}: SciPy {theirs:.2f} s, ", end="")
    print(f"ours {ours:.2f} s, ratio {ours / theirs:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    print(f"jax {jax.__version__}, k={K}, krylov_dim={DIM}, rtol={RTOL}\n")
    one_at_a_time(CASES + LARGE * options.large)
    a_batch()


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
