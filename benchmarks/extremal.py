"""Extremal pairs of sparse matrices: finding them, and value and gradient of a loss on all
of them, in terms of ARPACK, SLEPc and of our own forward run.

k = 6, Krylov dimension 20, tolerance 1e-9. Products with A and Aᵀ are exact.

Where κ is beyond 1/eps no solver finds eigenvalues, but each other numbers with a small
residual: these rows compare nothing else than time. SLEPc has no rows of complex matrices,
because Debian's build for them does not go beside that for real ones.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as spla

import implicit_eig as ieig

from .harness import Peer, Task
from .peers import arpack, counted, csr, in_order, slepc
from .problems import (
    complex_shift,
    convection_diffusion,
    HARSH,
    MILD,
    random_walk,
)


K, DIM, RTOL = 6, 20, 1e-9
OPTIONS = {"k": K, "dim": DIM, "rtol": RTOL}
QUICK = [
    ("random walk", random_walk, 60, "LR", {}),
]
FULL = [
    ("random walk", random_walk, 100, "LR", {}),
    ("random walk", random_walk, 199, "LR", {}),
    ("random walk", random_walk, 499, "LR", {}),
    ("convection–diffusion, κ = 97", convection_diffusion, 60, "LM", {"p": MILD}),
    ("convection–diffusion, κ = 97", convection_diffusion, 100, "LM", {"p": MILD}),
    ("complex convection–diffusion", complex_shift, 60, "LM", {"p": MILD}),
    # κ beyond 1/eps: eigenvalues are known to no digit, and no gradient is asked for.
    ("convection–diffusion, κ > 1/eps", convection_diffusion, 100, "LM", {"p": HARSH}),
    ("convection–diffusion, κ > 1/eps", convection_diffusion, 100, "LR", {"p": HARSH}),
    ("convection–diffusion, κ > 1/eps", convection_diffusion, 316, "LM", {"p": HARSH}),
    ("complex convection–diffusion, κ > 1/eps", complex_shift, 100, "LM", {"p": HARSH}),
]
SOLVER = ieig.KrylovSchur(rtol=RTOL, krylov_dim=DIM, max_restarts=100_000)


def find(operator, which):
    return ieig.eigs(operator, K, which, eigensolver=SOLVER).eigenvalues


def loss(operator, which, adjoint=None):
    """Of all selected values and vectors."""
    adjoint = ieig.ImplicitAdjoint(rtol=RTOL) if adjoint is None else adjoint
    s = ieig.eigs(operator, K, which, eigensolver=SOLVER, adjoint=adjoint)
    weight = jnp.linspace(0.0, 1.0, s.eigenvectors.shape[0])[:, None]
    on_vectors = jnp.sum(jnp.abs(s.eigenvectors) ** 2 * weight)
    return on_vectors + jnp.sum(s.eigenvalues.real)


def compiled(f, operator):
    run = eqx.filter_jit(f)
    return lambda: run(operator)


def ours(f, operator, compared=lambda result: result, name="ours"):
    def make():
        return compiled(f, operator)

    return Peer(name, make, None, compared, lambda: counted(f, operator))


def a_batch(members, m):
    """Operators of one pattern under `vmap`, beside a loop over SciPy."""
    values, rows, columns, n = convection_diffusion(m, p=(5.0, 10.0, 20.0))
    rng = np.random.default_rng(0)
    batch = values * (1 + 0.1 * rng.random((members, values.size)))

    def together(batch):
        one = lambda v: find(ieig.SparseOperator(v, rows, columns, n), "LM")
        return jax.vmap(one)(batch)

    def loop():
        matrices = [csr((v, rows, columns, n)) for v in batch]
        return [
            spla.eigs(a, K, which="LM", ncv=DIM, tol=RTOL, return_eigenvectors=False)
            for a in matrices
        ]

    def each(found):
        return [in_order(w) for w in found]

    return Task(
        f"{members} operators of n = {n} at once",
        "extremal pairs of many sparse matrices",
        [
            Peer("ours", lambda: compiled(together, jnp.asarray(batch)), None, each),
            Peer("ARPACK", lambda: loop, None, each),
        ],
    )


def tasks(quick):
    for name, make, m, which, options in QUICK if quick else FULL:
        triplets = make(m, **options)
        operator = ieig.SparseOperator(*triplets)
        title = f"{name}, {which}, n = {triplets[3]:_}"
        forward = functools.partial(find, which=which)
        unknown = options.get("p") is HARSH  # every solver has other answers
        yield Task(
            title,
            "extremal pairs, κ beyond 1/eps (all answers differ)"
            if unknown
            else "extremal pairs of a sparse matrix",
            [
                ours(forward, operator, in_order),
                arpack(triplets, which, **OPTIONS),
                *slepc(triplets, which=which, **OPTIONS),
            ],
            rtol=np.inf if unknown else 1e-6,
        )
        if unknown or triplets[3] > 30_000:
            continue
        one = functools.partial(loss, which=which)
        both = eqx.filter_value_and_grad(one)
        yield Task(
            f"{title}, value and gradient",
            "value and gradient of a sparse matrix's pairs",
            [
                ours(both, operator, lambda result: result[0]),
                ours(one, operator, name="our forward run"),
            ],
        )
    if not quick:
        yield a_batch(members=64, m=45)
