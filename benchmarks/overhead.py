"""What a call costs beside the arithmetic: tiny problems, outside and inside `jit`, and the
first call, which traces and compiles.
"""

import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ieig

from .harness import Peer, Task


N, TIMES = 4, 100


def by_jax(a):
    return jax.lax.linalg.eig(
        a, compute_left_eigenvectors=False, enable_eigvec_derivs=True
    )[0]


def by_us(a):
    return ieig.eig(a).eigenvalues


def selected(a):
    return ieig.eigs(a, N, "LM").eigenvalues


def calls(f, a):
    """Many in a row: one is too short to time."""

    def run():
        for _ in range(TIMES):
            out = f(a)
        return out

    return run


def sorted_by_modulus(values):
    values = np.asarray(values)
    return values[np.lexsort((values.imag.round(6), -abs(values).round(9)))]


def tasks(quick):
    del quick
    a = jnp.asarray(np.random.default_rng(0).normal(size=(N, N)))
    all_of_them = {"eig": by_us, "eigs": selected, "JAX": by_jax}
    for what, wrap in {
        "called plainly": lambda f: f,
        "under jit": jax.jit,
        "value and gradient under jit": lambda f: jax.jit(
            jax.value_and_grad(lambda a: jnp.sum(jnp.abs(f(a)) ** 2))
        ),
    }.items():
        for ours in ("eig", "eigs"):
            compared = sorted_by_modulus
            if "gradient" in what:
                compared = lambda out: out
            yield Task(
                f"{TIMES} × {ours}, n = {N}, {what}",
                f"overhead of a call of {ours}",
                [
                    Peer(
                        name,
                        lambda f=all_of_them[key], wrap=wrap: calls(wrap(f), a),
                        None,
                        compared,
                    )
                    for name, key in (("ours", ours), ("JAX, flagged", "JAX"))
                ],
            )
