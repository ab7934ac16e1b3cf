"""One eigenvalue and its gradient, beside packages that differentiate one.

solvax takes an eigenvalue near a target from SciPy's ARPACK and SuperLU: one candidate, our
tolerance, and no factor kept from an earlier call. matfree differentiates Arnoldi's method
itself, so it has no tolerance, but a number of products: 15 give the gradient to 3e-10, and 20
all digits.
solvax's `eigenpair_reverse` is left out: its user brings both eigensolvers.
"""

import importlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ieig

from .harness import lacks, Peer, Task
from .peers import csr
from .problems import convection_diffusion


P = (5.0, 10.0, 20.0)


def by_us_near(triplets, sigma):
    values, rows, columns, n = triplets
    solver = ieig.ShiftInvert(sigma)

    def value(values):
        operator = ieig.SparseOperator(values, rows, columns, n)
        return ieig.eigs(operator, 1, eigensolver=solver).eigenvalues[0].real

    return value_and_gradient(value, values)


def value_and_gradient(f, x):
    run, x = eqx.filter_jit(jax.value_and_grad(f)), jnp.asarray(x)
    return lambda: run(x)


def by_solvax(triplets, sigma):
    solvax = importlib.import_module("solvax")
    solvax.set_factor_cache_size(0)
    a = csr(triplets)
    pattern = solvax.CsrPattern(a.indptr, a.indices, a.shape)
    rows, columns = jnp.asarray(pattern.rows), jnp.asarray(a.indices)

    def product(values, x):
        return jax.ops.segment_sum(values * x[columns], rows, a.shape[0])

    def value(values):
        found = solvax.sparse_eigenvalue(
            product,
            values,
            pattern,
            values,
            sigma,
            candidates=1,
            select="nearest",
            tolerance=float(jnp.finfo(values.dtype).eps) ** (2 / 3),
        )
        return found.value.real

    order = np.lexsort((triplets[2], triplets[1]))  # ours come as the problem has them
    run = value_and_gradient(value, a.data)

    def compared(out):
        back = np.empty_like(order)
        back[order] = np.arange(order.size)
        return out[0], np.asarray(out[1])[back]

    return run, compared


def decaying(n):
    """A non-symmetric operator whose first eigenvalue few products find."""
    rates = 0.8 ** np.arange(n)

    def product(v, rates):
        return rates * v + 0.05 * rates * jnp.roll(v, 1)

    return product, rates, np.ones(n)


def by_us(n):
    product, rates, v0 = decaying(n)

    def value(rates):
        s = ieig.eigs(
            lambda v: product(v, rates), 1, "LM", like=rates, v0=jnp.asarray(v0)
        )
        return s.eigenvalues[0].real

    return value_and_gradient(value, rates)


def by_matfree(n, steps=15):
    decomp = importlib.import_module("matfree.decomp")
    product, rates, v0 = decaying(n)
    arnoldi = decomp.hessenberg(steps, reortho="full")

    def value(rates):
        # Its `eig_partial` takes vectors as well, whose derivatives JAX refuses.
        values = jnp.linalg.eigvals(arnoldi(product, jnp.asarray(v0), rates).J_small)
        return values[jnp.argmax(jnp.abs(values))].real

    return value_and_gradient(value, rates)


def tasks(quick):
    m, sigma = (30 if quick else 100), 0.0
    triplets = convection_diffusion(m, p=P)
    peers = [Peer("ours", lambda: by_us_near(triplets, sigma))]
    missing = lacks("solvax")
    if missing:
        peers.append(Peer("solvax", lambda: None, missing))
    else:
        run, compared = by_solvax(triplets, sigma)
        peers.append(Peer("solvax", lambda: run, None, compared))
    kind = "value and gradient of one eigenvalue"
    yield Task(f"eigenvalue near a target, n = {m * m:_}", kind, peers)
    n = 1_000 if quick else 100_000
    yield Task(
        f"dominant eigenvalue, matrix-free, n = {n:_}",
        kind,
        [
            Peer("ours", lambda: by_us(n)),
            Peer("matfree", lambda: by_matfree(n), lacks("matfree")),
        ],
    )
