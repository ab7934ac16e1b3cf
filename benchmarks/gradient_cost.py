"""Products with A of a forward run and of value and gradient; ARPACK's beside them.

    python -m benchmarks.gradient_cost

k = 6, Krylov dimension 20, tolerance 1e-9, one thread. Seconds are the best of three after
compilation, uncounted.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp

import implicit_eig as ieig

from .peers import arpack, best
from .problems import convection_diffusion, random_walk


K, DIM, RTOL = 6, 20, 1e-9
CASES = {
    "random walk, LR": (random_walk, 100, "LR"),
    "random walk, LR (large)": (random_walk, 199, "LR"),
    "convection-diffusion, LM": (lambda m: convection_diffusion(m, (3, 7, 0)), 60, "LM"),
    "convection-diffusion, LM (large)": (convection_diffusion, 100, "LM"),
}


def ours(triplets, which):
    values, rows, columns, n = triplets
    plain = ieig.SparseOperator(values, rows, columns, n)
    eigensolver = ieig.KrylovSchur(rtol=RTOL, krylov_dim=DIM, max_restarts=2000)
    adjoint = ieig.ImplicitAdjoint(rtol=RTOL)
    weight = jnp.linspace(0.0, 1.0, n)[:, None]

    def loss(arrays, static):
        s = ieig.eigs(
            eqx.combine(arrays, static.tree),
            K,
            which,
            eigensolver=eigensolver,
            adjoint=adjoint,
        )
        return jnp.sum(jnp.abs(s.eigenvectors) ** 2 * weight) + jnp.sum(
            s.eigenvalues.real
        )

    row = []
    for f in (loss, jax.value_and_grad(loss)):
        counting = ieig.CountingOperator(plain)
        arrays, static = eqx.partition(counting, eqx.is_inexact_array)
        jax.block_until_ready(jax.jit(f, static_argnums=1)(arrays, Static(static)))
        products = sum(counting.counts())
        arrays, static = eqx.partition(plain, eqx.is_inexact_array)
        run, static = jax.jit(f, static_argnums=1), Static(static)
        run(arrays, static)
        row += [products, best(functools.partial(run, arrays, static))]
    return row


class Static:
    """The constant part of an operator; one object a run, so identity will do."""

    def __init__(self, tree):
        self.tree = tree


def main():
    print(f"jax {jax.__version__}, k={K}, krylov_dim={DIM}, rtol={RTOL}")
    print(
        "| case | n | ARPACK products (s) | forward products (s) | value and gradient | ratio |"
    )
    print("|---|---|---|---|---|---|")
    for name, (make, m, which) in CASES.items():
        triplets = make(m)
        theirs, their_seconds = arpack(triplets, which, k=K, dim=DIM, rtol=RTOL)
        forward, seconds, both, both_seconds = ours(triplets, which)
        print(
            f"| {name} | {triplets[3]} | {theirs} ({their_seconds:.2f}) "
            f"| {forward} ({seconds:.2f}) | {both} ({both_seconds:.2f}) "
            f"| {both / forward:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
