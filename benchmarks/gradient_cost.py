"""Products with A of a forward run and of value and gradient; ARPACK's beside them.

    python -m benchmarks.gradient_cost

k = 6, Krylov dimension 20, tolerance 1e-9, one thread. Seconds are the best of three after
compilation, uncounted. The second table is of the gradient alone, by other adjoint solvers;
preconditioners are SciPy's factors of A − σ, σ beyond the best eigenvalue by 0.0005 of it.
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

from .peers import arpack, best, csr
from .problems import complex_shift, convection_diffusion, random_walk


K, DIM, RTOL = 6, 20, 1e-9
MILD = functools.partial(convection_diffusion, p=(3.0, 7.0, 0.0))
CASES = {
    "random walk, LR": (random_walk, 100, "LR"),
    "random walk, LR (large)": (random_walk, 199, "LR"),
    "convection–diffusion, LM": (MILD, 60, "LM"),
    "convection–diffusion, LM (large)": (MILD, 100, "LM"),
    "convection–diffusion, κ to 3e3, LM": (
        functools.partial(convection_diffusion, p=(5.0, 9.0, 0.0)),
        60,
        "LM",
    ),
    "complex convection–diffusion, LM": (
        functools.partial(complex_shift, p=(3.0, 7.0, 0.0)),
        60,
        "LM",
    ),
    "convection–diffusion, κ beyond 1/eps, LM (large)": (convection_diffusion, 100, "LM"),
}
COMPARED = "random walk, LR", "convection–diffusion, LM"


def loss_of(n, which, adjoint, throw=True):
    eigensolver = ieig.KrylovSchur(rtol=RTOL, krylov_dim=DIM, max_restarts=2000)
    weight = jnp.linspace(0.0, 1.0, n)[:, None]

    def loss(arrays, static):
        s = ieig.eigs(
            eqx.combine(arrays, static.tree),
            K,
            which,
            eigensolver=eigensolver,
            adjoint=adjoint,
            throw=throw,
        )
        return jnp.sum(jnp.abs(s.eigenvectors) ** 2 * weight) + jnp.sum(
            s.eigenvalues.real
        )

    return loss


def ours(triplets, which):
    values, rows, columns, n = triplets
    plain = ieig.SparseOperator(values, rows, columns, n)
    loss = loss_of(n, which, ieig.ImplicitAdjoint(rtol=RTOL))
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


# At most 40 cycles a pair, and three rounds of refinement. Right sides may be rounding
# errors alone (the stationary pair of a random walk): an absolute tolerance ends those.
GMRES = lx.GMRES(RTOL, 1e-11, restart=40, max_steps=40, stagnation_iters=40)
SOLVERS = {
    "KrylovSylvester": (None, None),
    "lineax GMRES(40)": (GMRES, None),
    "DeflatedGMRES(60)": (ieig.DeflatedGMRES(), None),
    "DeflatedGMRES(200)": (ieig.DeflatedGMRES(restart=200), None),
    "lineax GMRES(40), ILU": (GMRES, "ILU"),
    "DeflatedGMRES(60), ILU": (ieig.DeflatedGMRES(), "ILU"),
    "lineax GMRES(40), LU": (GMRES, "LU"),
    "DeflatedGMRES(60), LU": (ieig.DeflatedGMRES(), "LU"),
}


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


def gradient_alone(triplets, which, solver, kind, forward):
    """Products and solves with the preconditioner of the backward pass, and whether it
    reached the tolerance."""
    values, rows, columns, n = triplets
    inverse = None if kind is None else factors(triplets, which, kind)
    counting = ieig.CountingOperator(ieig.SparseOperator(values, rows, columns, n))
    arrays, static = eqx.partition(counting, eqx.is_inexact_array)
    adjoint = ieig.ImplicitAdjoint(solver, inverse, rtol=RTOL)
    f = jax.jit(jax.grad(loss_of(n, which, adjoint, throw=False)), static_argnums=1)
    gradient = f(arrays, Static(static))
    finite = all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(gradient))
    products = sum(counting.counts()) - forward
    return products, 0 if inverse is None else sum(inverse.counts()), finite


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
    print()
    compare_solvers()


def compare_solvers():
    names = COMPARED
    print(
        "| adjoint solver | " + " | ".join(f"{name}: products, solves" for name in names)
    )
    print("|---" * (1 + len(names)) + "|")
    forward = {name: ours_forward(name) for name in names}
    for label, (solver, kind) in SOLVERS.items():
        cells = []
        for name in names:
            make, m, which = CASES[name]
            products, solves, finite = gradient_alone(
                make(m), which, solver, kind, forward[name]
            )
            cells.append(f"{products}, {solves}" + " (tolerance missed)" * (not finite))
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


def ours_forward(name):
    make, m, which = CASES[name]
    values, rows, columns, n = make(m)
    counting = ieig.CountingOperator(ieig.SparseOperator(values, rows, columns, n))
    arrays, static = eqx.partition(counting, eqx.is_inexact_array)
    loss = loss_of(n, which, ieig.ImplicitAdjoint(rtol=RTOL))
    jax.block_until_ready(jax.jit(loss, static_argnums=1)(arrays, Static(static)))
    return sum(counting.counts())


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
