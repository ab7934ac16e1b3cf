"""JAX's own switches: whatever a user set, the answers are the same."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import random_matrix, relative, slow_but


A = random_matrix(0, 6)
R = jnp.cos(jnp.arange(30.0))
ROWS, COLUMNS = np.arange(30), (np.arange(30) + 1) % 30


def free(r):
    s = ieig.eigs(lambda v: r * v + 0.3 * jnp.roll(v, 1), k=2, which="LR", like=r)
    return jnp.abs(s.eigenvectors[0, 0]) + s.eigenvalues[0].real


def sparse(r):
    op = ieig.SparseOperator(
        jnp.concatenate([r, 0.3 + 0 * r]),
        np.concatenate([ROWS, ROWS]),
        np.concatenate([ROWS, COLUMNS]),
        30,
    )
    s = ieig.eigs(op, 2, sigma=0.5, eigensolver=None, left=True)
    return jnp.sum(jnp.abs(s.eigenvectors) ** 4) + jnp.sum(s.condition_numbers)


def dense(a):
    s = ieig.eigs(a, 2, "LR", mass=jnp.eye(6) + 0.01 * A, left=True)
    return jnp.sum(jnp.abs(s.left_eigenvectors) ** 2)


def gmres(r):
    solver = lx.GMRES(1e-10, 1e-10, restart=30)
    adjoint = ieig.ImplicitAdjoint(solver)
    s = ieig.eigs(
        lambda v: r * v + 0.3 * jnp.roll(v, 1), 1, "LR", like=r, adjoint=adjoint
    )
    return jnp.abs(s.eigenvectors[0, 0])


def given(a):
    w, v = np.linalg.eig(np.asarray(A))
    return jnp.sum(jnp.abs(ieig.attach(a, w[:2], v[:, :2], polish=1).eigenvectors) ** 4)


CASES = {
    "eig": (lambda a: jnp.sum(jnp.abs(ieig.eig(a).eigenvectors) ** 4), A),
    "eigvals": (lambda a: jnp.max(ieig.eigvals(a).real), A),
    "batch": (lambda a: jnp.max(ieig.eigvals(a[None]).real), A),
    "eigs, dense pencil": (dense, A),
    "eigs, matrix-free": (free, R),
    "eigs, sparse target": (sparse, R),
    "lineax GMRES": (gmres, R),
    "attach": (given, A),
    "invariant_subspace": (lambda a: ieig.invariant_subspace(a, 6).trace, A),
    "funm": (lambda a: ieig.funm(a, jnp.exp)[0, 0].real, A),
    "spectral_projector": (
        lambda a: ieig.spectral_projector(a, lambda z: z.real > 0)[0, 0].real,
        A,
    ),
}


FEW = [
    "eig",
    "eigs, sparse target",
    "attach",
    "invariant_subspace",
    "funm",
    "spectral_projector",
]


@pytest.mark.parametrize("name", slow_but(FEW, CASES))
def test_rank_promotion_may_be_an_error(name):
    loss, x = CASES[name]
    want = jax.grad(loss)(x)
    jax.clear_caches()
    with jax.numpy_rank_promotion("raise"):
        got = jax.grad(loss)(x)
        value, _ = jax.jvp(loss, (x,), (x,))
    assert relative(got, want) < 1e-12 and np.isfinite(value)


def test_a_matrix_of_order_zero_has_no_pairs():
    with jax.numpy_rank_promotion("raise"):
        s = ieig.eigs(jnp.zeros((0, 0)), None, left=True)
    assert s.eigenvalues.shape == (0,) and s.eigenvectors.shape == (0, 0)
    assert s.left_eigenvectors.shape == (0, 0) and s.condition_numbers.shape == (0,)
    assert s.result == ieig.RESULTS.successful
    with pytest.raises(ValueError, match="n = 0; got 1"):
        ieig.eigs(jnp.zeros((0, 0)), 1)


@pytest.mark.parametrize("switch", ["jax_enable_checks", "jax_debug_nans"])
def test_checks_pass(switch):
    loss, x = CASES["eigs, matrix-free"]
    want = jax.grad(loss)(x)
    jax.config.update(switch, True)
    try:
        got = jax.grad(loss)(x)
    finally:
        jax.config.update(switch, False)
    assert relative(got, want) < 1e-12


@pytest.mark.parametrize("solver", [ieig.Dense(), ieig.KrylovSchur()], ids=str)
def test_without_jit_too(solver):
    a = random_matrix(0, 40) + jnp.diag(jnp.arange(40.0))
    find = lambda: ieig.eigs(a, 2, "LR", eigensolver=solver).eigenvalues
    with jax.disable_jit():
        w = find()
    assert relative(w, find()) < 1e-12
