"""Who solves the adjoint systems: products with A and Aᵀ of value and gradient, less those
of the forward run, for the default and for other adjoint solvers.

Seconds are those of value and gradient. Preconditioners are SciPy's factors of A − σ, σ beyond
the best eigenvalue by 0.0005 of it, and made beforehand.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import implicit_eig as ieig

from .extremal import compiled, loss, RTOL
from .harness import Peer, Task
from .peers import counted, csr
from .problems import convection_diffusion, MILD, random_walk


# At most 40 cycles a pair, and three rounds of refinement. Right sides may be rounding
# errors alone (the stationary pair of a random walk): an absolute tolerance ends those.
GMRES = lx.GMRES(RTOL, 1e-11, restart=40, max_steps=40, stagnation_iters=40)
# Cycles always run to their end: with a preconditioner short ones cost less.
SHORT = lx.GMRES(RTOL, 1e-11, restart=10, max_steps=160, stagnation_iters=160)
SOLVERS = {
    "KrylovSylvester": (None, None),
    "lineax GMRES(40)": (GMRES, None),
    "DeflatedGMRES(60)": (ieig.DeflatedGMRES(), None),
    "DeflatedGMRES(200)": (ieig.DeflatedGMRES(restart=200), None),
    "lineax GMRES(10), ILU": (SHORT, "ILU"),
    "DeflatedGMRES(60), ILU": (ieig.DeflatedGMRES(), "ILU"),
    "lineax GMRES(10), LU": (SHORT, "LU"),
    "DeflatedGMRES(60), LU": (ieig.DeflatedGMRES(), "LU"),
}
QUICK = [("random walk", random_walk, 20, "LR", {})]
FULL = [
    ("random walk", random_walk, 100, "LR", {}),
    ("convection–diffusion, κ = 97", convection_diffusion, 60, "LM", {"p": MILD}),
]


def factors(triplets, which, kind):
    """SciPy's solves with A − σ and its transpose, as an operator that counts."""
    a = csr(triplets)
    n = a.shape[0]
    w = spla.eigs(a, 1, which=which, v0=np.ones(n), return_eigenvectors=False)[0].real
    shifted = sp.csc_matrix(a - 1.0005 * w * sp.eye(n))
    lu = spla.splu(shifted) if kind == "LU" else spla.spilu(shifted, 1e-3, 10)

    def callback(trans, v):
        return jax.pure_callback(
            lambda v: lu.solve(np.asarray(v), trans),
            jax.ShapeDtypeStruct((n,), v.dtype),
            v,
            vmap_method="sequential",
        )

    def solve(v):
        return jax.lax.custom_linear_solve(
            lambda x: x,
            v,
            lambda _, v: callback("N", v),
            lambda _, v: callback("T", v),
        )

    like = jax.ShapeDtypeStruct((n,), jnp.float64)
    return ieig.CountingOperator(lx.FunctionLinearOperator(solve, like))


def peer(name, triplets, which, solver, kind):
    operator = ieig.SparseOperator(*triplets)
    inverse = None if kind is None else factors(triplets, which, kind)
    adjoint = ieig.ImplicitAdjoint(solver, inverse, rtol=RTOL)
    f = eqx.filter_value_and_grad(functools.partial(loss, which=which, adjoint=adjoint))

    def count():
        before = 0 if inverse is None else sum(inverse.counts())
        forward = counted(functools.partial(loss, which=which), operator)["products"]
        found = {"products": counted(f, operator)["products"] - forward}
        if inverse is not None:
            found["solves"] = sum(inverse.counts()) - before
        return found

    return Peer(
        name, lambda: compiled(f, operator), None, lambda out: out[1].values, count
    )


def tasks(quick):
    for name, make, m, which, options in QUICK if quick else FULL:
        triplets = make(m, **options)
        yield Task(
            f"adjoint systems, {name}, {which}, n = {triplets[3]:_}",
            "",
            [peer(name, triplets, which, *how) for name, how in SOLVERS.items()],
            rtol=1e-5,
        )
