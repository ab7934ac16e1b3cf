"""Pairs nearest to a target by shift-invert, and their gradient.

k = 6, Krylov dimension 20, tolerance 1e-9. The loss depends on all selected values and
vectors.
"""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import implicit_eig as ieig

from .extremal import compiled, DIM, K, OPTIONS, RTOL
from .harness import Peer, Task
from .peers import arpack_near, in_order, slepc
from .problems import brusselator, convection_diffusion, random_walk, waveguide


# With p = (25, 50, 250), as elsewhere, κ of the eigenvalues is beyond 1/eps: σ = 0 then finds
# pseudo-eigenvalues with small residuals, and so does ARPACK, others.
SOFT = {"p": (5.0, 10.0, 20.0)}
# The second TE mode of the strip lies near 2.6, in the midst of the spectrum.
INDEX = (2 * np.pi / 1.55 * 2.6) ** 2
QUICK = [("convection–diffusion, σ = 0", convection_diffusion, 40, 0.0, SOFT)]
FULL = [
    ("convection–diffusion, σ = 0", convection_diffusion, 100, 0.0, SOFT),
    ("Brusselator, σ = 2.14i", brusselator, 5000, 2.14j, {}),
    ("waveguide, target inside", waveguide, 70, INDEX, {}),
    ("convection–diffusion, σ = 0", convection_diffusion, 316, 0.0, SOFT),
    ("random walk, σ = 1.0001", random_walk, 499, 1.0001, {}),
    ("waveguide, target inside", waveguide, 220, INDEX, {}),
]


def solution(operator, solver):
    return ieig.eigs(operator, K, eigensolver=solver)


def loss(operator, solver, weights):
    s = solution(operator, solver)
    overlaps = jnp.sum(jnp.abs(weights.T @ s.eigenvectors) ** 2)
    return overlaps + jnp.sum(s.eigenvalues.real)


def tasks(quick):
    for name, make, m, sigma, options in QUICK if quick else FULL:
        triplets = make(m, **options)
        n = triplets[3]
        operator = ieig.SparseOperator(*triplets)
        weights = np.random.default_rng(1).normal(size=(n, 2)) / n**0.5
        inner = ieig.KrylovSchur(rtol=RTOL, krylov_dim=DIM)
        solver = ieig.ShiftInvert(sigma, inner=inner)
        forward = functools.partial(solution, solver=solver)
        one = functools.partial(loss, solver=solver, weights=jnp.asarray(weights))
        both = eqx.filter_value_and_grad(one)

        def solves(forward=forward, operator=operator):
            stats = compiled(forward, operator)().stats
            names = {"num_solves": "solves", "num_factorizations": "factorisations"}
            return {short: int(stats[name]) for name, short in names.items()}

        yield Task(
            f"{name}, n = {n:_}",
            "pairs of a sparse matrix near a target",
            [
                Peer(
                    "ours",
                    lambda f=forward, o=operator: compiled(f, o),
                    None,
                    lambda s: in_order(s.eigenvalues),
                    solves,
                ),
                *arpack_near(triplets, sigma, **OPTIONS),
                *slepc(triplets, sigma=sigma, **OPTIONS),
            ],
        )
        yield Task(
            f"{name}, n = {n:_}, value and gradient",
            "value and gradient of pairs near a target",
            [
                Peer(
                    "ours",
                    lambda f=both, o=operator: compiled(f, o),
                    None,
                    lambda r: r[0],
                ),
                Peer("our forward run", lambda f=one, o=operator: compiled(f, o)),
            ],
        )
