"""The eigenvectors of the rest solve the systems of pairs that `Dense` found."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig
from implicit_eig._sylvester import eigenbasis
from implicit_eig._sylvester.columnwise import Columnwise

from ..oracles import (
    central_difference,
    flagged_eig,
    random_matrix,
    relative,
    slow_but,
    with_spectrum,
)
from ..problems import frank


N, K = 40, 3
LU = ieig.ImplicitAdjoint(lx.LU())


def loss(s):
    v = s.eigenvectors
    weight = jnp.linspace(0.5, 2.0, v.shape[0])[:, None]
    return jnp.sum(weight * jnp.abs(v) ** 4) + jnp.sum((s.eigenvalues**2).real)


def reverse(f):
    return jax.grad(f)(0.0)


def forward(f):
    return jax.jvp(f, (0.0,), (1.0,))[1]


@pytest.fixture
def factorisations(monkeypatch):
    """How often LU was needed."""
    jax.clear_caches()  # programs that count elsewhere, or not at all
    calls, solve = itertools.count(), Columnwise.solve

    def counted(self, system, rhs, **kwargs):
        add = lambda entry: (next(calls), entry)[1]
        entry = jax.pure_callback(add, rhs[0, 0], rhs[0, 0], vmap_method="sequential")
        return solve(self, system, rhs.at[0, 0].set(entry), **kwargs)

    monkeypatch.setattr(eigenbasis.Columnwise, "solve", counted)
    yield calls
    jax.clear_caches()


FEW = [(reverse, np.float64, True), (forward, np.complex128, False)]
CASES = itertools.product([reverse, forward], [np.float64, np.complex128], [False, True])


@pytest.mark.parametrize("mode, dtype, mass", slow_but(FEW, CASES))
def test_a_well_conditioned_rest_needs_no_factorisation(
    factorisations, mode, dtype, mass
):
    a = random_matrix(0, N, dtype)
    b = jnp.eye(N) + 0.1 * random_matrix(1, N) if mass else None

    def f(t, adjoint):
        s = ieig.eigs(a + t * jnp.roll(a, 1, 0), K, "LR", mass=b, adjoint=adjoint)
        return loss(s)

    got = mode(lambda t: f(t, None))
    assert next(factorisations) == 0
    assert relative(got, mode(lambda t: f(t, LU))) < 1e-11


@pytest.mark.parametrize("derivative", slow_but([jax.jacfwd], [jax.jacfwd, jax.hessian]))
def test_many_tangents_need_no_factorisation_either(factorisations, derivative):
    a = random_matrix(0, 12)
    f = lambda t, adjoint: loss(ieig.eigs(a + jnp.diag(t), K, "LR", adjoint=adjoint))
    got = derivative(f)(jnp.zeros(12), None)
    assert next(factorisations) == 0
    assert relative(got, derivative(f)(jnp.zeros(12), LU)) < 1e-9


def test_gradients_and_second_derivatives_are_those_of_jax():
    a = random_matrix(2, 12)

    def reference(a):
        w, v = flagged_eig(a)
        order = jnp.argsort(-w.real)[:2]
        return jnp.sum(jnp.abs(v[:, order]) ** 4) + jnp.sum((w[order] ** 2).real)

    def f(a):
        s = ieig.eigs(a, 2, "LR")
        return jnp.sum(jnp.abs(s.eigenvectors) ** 4) + jnp.sum((s.eigenvalues**2).real)

    assert relative(jax.grad(f)(a), jax.grad(reference)(a)) < 1e-10
    direction = random_matrix(3, 12)
    second = [jax.jvp(jax.grad(g), (a,), (direction,))[1] for g in (f, reference)]
    assert relative(*second) < 1e-8


def test_left_vectors_are_solved_for_with_the_transposed_spectrum(factorisations):
    a = random_matrix(4, N)

    def f(t, adjoint):
        s = ieig.eigs(a + t * a.T, K, "LM", left=True, adjoint=adjoint)
        return jnp.sum(jnp.abs(s.left_eigenvectors) ** 4)

    got = jax.grad(f)(0.3, None)
    assert next(factorisations) == 0
    assert relative(got, jax.grad(f)(0.3, LU)) < 1e-10


def defective_rest():
    """Three eigenvalues apart, and one Jordan block."""
    a = np.zeros((N, N))
    a[:K, :K] = np.diag([4.0, 3.0, 2.0])
    a[K:, K:] = 0.5 * np.eye(N - K) + 0.5 * np.eye(N - K, k=1)
    v = np.asarray(with_spectrum(0, np.ones(N) + np.arange(N)))
    q = np.linalg.qr(v)[0]
    return jnp.asarray(q @ a @ q.T)


ILL_CONDITIONED = {"defective": defective_rest, "frank": lambda: frank(12)}


@pytest.mark.parametrize("name", slow_but(["defective"], ILL_CONDITIONED))
def test_an_ill_conditioned_rest_is_left_to_factorisations(name):
    a = ILL_CONDITIONED[name]()
    d = random_matrix(7, a.shape[0]) / 10

    def f(t, adjoint=None):
        return loss(ieig.eigs(a + t * d, 2, "LM", adjoint=adjoint))

    got = jax.grad(f)(0.0)
    assert relative(got, jax.grad(f)(0.0, LU)) < 1e-10
    assert relative(got, central_difference(f, 0.0, 1.0, 1e-5)) < 1e-6


def test_a_defective_rest_does_need_a_factorisation(factorisations):
    a = defective_rest()
    jax.grad(lambda t: loss(ieig.eigs(a + t * a.T, 2, "LM")))(0.0)
    assert next(factorisations) == 1


def test_members_of_a_batch():
    batch = jnp.stack([random_matrix(5, N), defective_rest()])
    f = lambda a, adjoint: jax.grad(
        lambda a: loss(ieig.eigs(a, 2, "LM", adjoint=adjoint))
    )(a)
    got = jax.vmap(eqx.Partial(f, adjoint=None))(batch)
    assert relative(got, jax.vmap(eqx.Partial(f, adjoint=LU))(batch)) < 1e-9
