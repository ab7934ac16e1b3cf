"""Value and gradient of a few pairs of a dense matrix, beside LAPACK's full `geev`.

    python -m benchmarks.dense_cost

k = 4, one thread. Seconds are the best of several rounds, in which the three runs take
turns, after compilation.
"""

import time

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import implicit_eig as ieig


K, ROUNDS = 4, 5


def weighed(s):
    v = s.eigenvectors
    weight = jnp.linspace(0.0, 1.0, v.shape[0])[:, None]
    return jnp.sum(jnp.abs(v) ** 2 * weight) + jnp.sum(s.eigenvalues.real)


def loss(a):
    return weighed(ieig.eigs(a, K, "LM"))


def by_lu(a):
    adjoint = ieig.ImplicitAdjoint(lx.LU())
    return weighed(ieig.eigs(a, K, "LM", adjoint=adjoint))


RUNS = {
    "geev, both vectors": jax.lax.linalg.eig,
    "forward": loss,
    "value and gradient": jax.value_and_grad(loss),
    "… by LU, pair by pair": jax.value_and_grad(by_lu),
}


def seconds(n, dtype):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(n, n))
    if np.issubdtype(dtype, np.complexfloating):
        a = a + 1j * rng.normal(size=(n, n))
    a = jnp.asarray(a.astype(dtype))
    runs = [jax.jit(run) for run in RUNS.values()]
    best = [float("inf")] * len(runs)
    for turn in range(ROUNDS + 1):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            jax.block_until_ready(run(a))
            if turn:  # the first one compiles
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def main():
    print(f"jax {jax.__version__}, k={K}; seconds, and in terms of geev")
    print(f"| n | dtype | {' | '.join(RUNS)} |")
    print("|---" * (len(RUNS) + 2) + "|")
    for n in (256, 1024):
        for dtype in (np.float64, np.complex128):
            best = seconds(n, dtype)
            cells = [f"{t:.3f} ({t / best[0]:.2f})" for t in best]
            print(f"| {n} | {np.dtype(dtype)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
