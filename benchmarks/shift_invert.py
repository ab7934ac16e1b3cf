"""Interior eigenvalues by shift-invert, and their gradient: beside SciPy's `eigs(sigma=)`.

    taskset -c 0 python -m benchmarks.shift_invert [--large]

k = 6, Krylov dimension 20, tolerance 1e-9, one process, one thread; runs of the three are
interleaved, and ratios are medians over the rounds. The loss depends on all selected values
and vectors. `--large` adds n of 1e5 and more.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as spla

import implicit_eig as ieig

from .peers import csr
from .problems import brusselator, convection_diffusion, random_walk, waveguide


K, DIM, RTOL = 6, 20, 1e-9
# With p = (25, 50, 250), as elsewhere, κ of the eigenvalues is beyond 1/eps: σ = 0 then finds
# pseudo-eigenvalues with small residuals, and so does ARPACK, others.
MILD = functools.partial(convection_diffusion, p=(5.0, 10.0, 20.0))
# The second TE mode of the strip lies near 2.6, in the midst of the spectrum.
INDEX = (2 * np.pi / 1.55 * 2.6) ** 2
CASES = [
    ("convection–diffusion, σ = 0", MILD, 100, 0.0),
    ("Brusselator, σ = 2.14i", brusselator, 5000, 2.14j),
    ("waveguide, target inside", waveguide, 70, INDEX),
]
LARGE = [
    ("convection–diffusion, σ = 0", MILD, 316, 0.0),
    ("random walk, σ = 1.0001", random_walk, 499, 1.0001),
    ("waveguide, target inside", waveguide, 220, INDEX),
]


def seconds(run):
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def measure(name, make, m, sigma, rounds):
    values, rows, columns, n = triplets = make(m)
    a, v0 = csr(triplets), np.random.default_rng(0).normal(size=n)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(n, 2)) / n**0.5)
    solver = ieig.ShiftInvert(sigma, inner=ieig.KrylovSchur(rtol=RTOL, krylov_dim=DIM))
    values = jnp.asarray(values)

    @jax.jit
    def find(values):
        op = ieig.SparseOperator(values, rows, columns, n)
        s = ieig.eigs(op, K, eigensolver=solver, throw=False)
        return s.eigenvalues, s.residuals, s.stats, s.result._value

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def gradient(values):
        op = ieig.SparseOperator(values, rows, columns, n)
        s = ieig.eigs(op, K, eigensolver=solver)
        overlaps = jnp.sum(jnp.abs(weights.T @ s.eigenvectors) ** 2)
        return overlaps + jnp.sum(s.eigenvalues.real), s.stats

    def scipy():
        w, _ = spla.eigs(a, K, sigma=sigma, ncv=DIM, tol=RTOL, v0=v0, maxiter=1000)
        return w[np.argsort(abs(w - sigma))]

    w, residuals, stats, result = find(values)
    jax.block_until_ready(gradient(values))
    try:
        theirs = scipy()
    except spla.ArpackNoConvergence:
        theirs = None
    found = [
        (
            seconds(functools.partial(find, values)),
            seconds(functools.partial(gradient, values)),
            0 if theirs is None else seconds(scipy),
        )
        for _ in range(rounds)
    ]
    forward, backward, scipy_s = (np.median(x) for x in np.array(found).T)
    ratio = np.median([f / s if s else np.nan for f, _, s in found])
    cost = np.median([b / f for f, b, _ in found])
    distance = (
        np.nan
        if theirs is None
        else np.max(np.abs(np.abs(w - sigma) - abs(theirs - sigma)) / abs(theirs))
    )
    print(
        f"| {name} | {n:_} | {scipy_s:.2f} | {forward:.2f} | {ratio:.2f} | {backward:.2f} "
        f"| {cost:.2f} | {stats['num_solves']} | {stats['num_factorizations']} "
        f"| {np.max(residuals):.0e} | {distance:.0e} | {'ok' if result == 0 else result} |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"jax {jax.__version__}, k={K}, krylov_dim={DIM}, rtol={RTOL}\n")
    print(
        "| case | n | SciPy s | forward s | ratio | value_and_grad s | over forward "
        "| solves | factors | worst residual | distance to SciPy | result |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for case in CASES + LARGE * options.large:
        measure(*case, options.rounds)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
