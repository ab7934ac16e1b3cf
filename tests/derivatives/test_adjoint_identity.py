"""⟨u, J v⟩ = ⟨Jᵀ u, v⟩ for every solver × kind of operator × dtype, at the solver's
tolerance; and derivatives of gradients through the iterative ones."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import central_difference, random_matrix, real_dot, relative, slow_but


N, K = 28, 2
SOLVERS = {
    "LU": lx.LU(),
    "GMRES": lx.GMRES(1e-12, 1e-12, restart=60, stagnation_iters=60),
    "KrylovSylvester": ieig.KrylovSylvester(krylov_dim=16),
    "DeflatedGMRES": ieig.DeflatedGMRES(restart=24),
}
ROWS, COLUMNS = np.indices((N, N)).reshape(2, -1)
KINDS = {
    "array": lambda a: a,
    "function": lambda a: lx.FunctionLinearOperator(
        lambda v: a @ v, jax.ShapeDtypeStruct((N,), a.dtype)
    ),
    "sparse": lambda a: ieig.SparseOperator(a[ROWS, COLUMNS], ROWS, COLUMNS, N),
}
# Every solver on every kind of operator, and on every dtype; some of it in the campaign.
SINGLE = [np.float32, np.complex64]
COMBINATIONS = [
    ("LU", "function", np.float64),
    ("GMRES", "function", np.float64),
    ("KrylovSylvester", "function", np.complex128),
    ("DeflatedGMRES", "sparse", np.float64),
]
CAMPAIGN = [(solver, kind, np.float64) for solver in SOLVERS for kind in KINDS] + [
    (solver, "function", dtype)
    for solver in SOLVERS
    for dtype in (np.complex128, *SINGLE)
    if not (solver == "GMRES" and dtype in SINGLE)  # 1e-12 is out of reach
]
COMBINATIONS += [
    pytest.param(*c, marks=pytest.mark.slow) for c in CAMPAIGN if c not in COMBINATIONS
]


def matrix(dtype):
    """A complex pair stands apart (of a complex operator two values)."""
    a = np.array(random_matrix(0, N, dtype)) / dtype(2 * np.sqrt(N))
    a[:2, :2] += np.array([[3.0, 1.0], [-1.0, 2.8]], dtype)
    return jnp.asarray(a)


def attached(a, solver, kind):
    """LAPACK's pairs: only the adjoint solver is to be compiled."""
    w, v = np.linalg.eig(np.asarray(jax.lax.stop_gradient(a)))
    best = np.argsort(-w.real)[:K]

    def pairs(a):
        adjoint = ieig.ImplicitAdjoint(SOLVERS[solver])
        s = ieig.attach(KINDS[kind](a), w[best], v[:, best], adjoint=adjoint)
        return s.eigenvalues, s.eigenvectors

    return pairs


@pytest.mark.parametrize("solver, kind, dtype", COMBINATIONS)
def test_the_cotangent_map_is_the_transpose_of_the_tangent_map(solver, kind, dtype):
    a, e = matrix(dtype), random_matrix(1, N, dtype)
    fn = attached(a, solver, kind)
    rng = np.random.default_rng(2)

    @jax.jit
    def both(a, e, cotangent):
        _, tangent = jax.jvp(fn, (a,), (e,))
        return tangent, jax.vjp(fn, a)[1](cotangent)[0]

    shapes = jax.eval_shape(fn, a)
    cotangent = jax.tree.map(
        lambda t: jnp.asarray(
            (rng.normal(size=t.shape) + 1j * rng.normal(size=t.shape)).astype(t.dtype)
        ),
        shapes,
    )
    tangent, back = both(a, e, cotangent)
    assert back.dtype == dtype
    scale = np.linalg.norm(back) * np.linalg.norm(e)
    # The default tolerance, over the distance of the pairs from the others.
    tolerance = 100 * np.finfo(dtype).eps ** (2 / 3)
    assert abs(real_dot(tangent, cotangent) - real_dot(back, e)) < tolerance * scale


@pytest.mark.parametrize(
    "solver", slow_but(["KrylovSylvester"], ["KrylovSylvester", "DeflatedGMRES"])
)
def test_forward_over_reverse_agrees_with_differences_of_gradients(solver):
    a, e = matrix(np.float64), random_matrix(1, N)

    def loss(a):
        adjoint = ieig.ImplicitAdjoint(SOLVERS[solver])
        krylov = ieig.KrylovSchur(krylov_dim=16)
        op = KINDS["function"](a)
        s = ieig.eigs(op, K, "LR", adjoint=adjoint, eigensolver=krylov)
        w, v = s.eigenvalues, s.eigenvectors
        return jnp.sum((v**3).real) + jnp.sum((w * w).real)

    both = jax.jit(lambda a: jax.jvp(jax.grad(loss), (a,), (e,)))
    difference = central_difference(lambda a: both(a)[0], a, e, 1e-5)
    assert relative(both(a)[1], difference) < 1e-6


@pytest.mark.parametrize("n, k", [(2, 1), (3, 2), (4, 3), (5, 4)])
def test_orders_without_room_for_a_krylov_space(n, k):
    a = np.tril(np.asarray(random_matrix(0, n)), -1) + np.diag(np.arange(n, 0.0, -1))
    a, e = jnp.asarray(a), random_matrix(1, n)

    def loss(a):
        adjoint = ieig.ImplicitAdjoint(ieig.KrylovSylvester())
        s = ieig.eigs(a, k, "LR", adjoint=adjoint, eigensolver=ieig.KrylovSchur())
        return jnp.sum(jnp.abs(s.eigenvectors) ** 4) + jnp.sum(s.eigenvalues**2).real

    found = jnp.vdot(jax.grad(loss)(a), e)
    assert relative(found, central_difference(loss, a, e, 1e-5)) < 1e-8
