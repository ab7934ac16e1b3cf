"""Ratchets on the size of what everybody compiles. Counts of equations do not depend on the
machine; whoever raises one says why."""

import jax
import jax.numpy as jnp
import pytest

import implicit_eig as ieig
from implicit_eig._kernels import library


N = 400
RATES = jnp.cos(jnp.arange(float(N)) / 31)


def of_eigs(rates):
    def step(v):
        return rates * v + 0.3 * jnp.roll(v, 1) + 0.2 * jnp.roll(v, -1)

    return ieig.eigs(step, k=4, which="LR", like=rates).eigenvalues[0].real


def of_dense(a):
    return jnp.abs(ieig.eigs(a, 2, "LR").eigenvectors[0, 0])


def of_eig(a):
    return jnp.sum(jnp.abs(ieig.eig(a).eigenvectors[0]) ** 2)


def equations(fn, x):
    def count(jaxpr):
        return sum(
            1 + sum(count(inner) for inner in subjaxprs_of(eqn)) for eqn in jaxpr.eqns
        )

    def subjaxprs_of(eqn):
        for leaf in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(leaf, "jaxpr"):
                leaf = leaf.jaxpr
            if hasattr(leaf, "eqns"):
                yield leaf

    # A new function: JAX keeps traces by identity, and options may have changed.
    return count(jax.make_jaxpr(lambda x: fn(x))(x).jaxpr)


A = jnp.eye(6)
# Runs look for further copies where one turned up: 24 equations, of numbers and of k×k. What
# the border leaves of a right side is told from rounding: 7 a solve. What a solver makes of a
# system is kept for further rounds: 2 a solve. Where a pair stands in the Schur form, which
# kernels reorder: 6 a run. Denormal entries are looked for: 8 a matrix. Searches for copies lock
# what is known not to be wanted, and let it go if they find one: 99 a run that looks for copies,
# for up to a quarter of its products. Without kernels, rounding errors below the diagonal are
# cleared before `geev` balances a projected matrix: 10 a run.
MOST = {
    "eigs": (of_eigs, RATES, 1874),
    "gradient of eigs": (jax.grad(of_eigs), RATES, 5432),
    "dense": (of_dense, A, 1513),
    "gradient of dense": (jax.grad(of_dense), A, 4012),
    "eig": (of_eig, A, 739),
    "gradient of eig": (jax.grad(of_eig), A, 1332),
}


@pytest.mark.parametrize("name", MOST)
def test_programs_do_not_grow(name, monkeypatch):
    monkeypatch.setenv(library.OPTION, "off")
    fn, x, most = MOST[name]
    assert equations(fn, x) <= most


@pytest.mark.parametrize("name, most", [("eigs", 1566), ("gradient of eigs", 4430)])
def test_kernels_make_programs_smaller(name, most):
    if reason := library.reason_against():
        pytest.skip(f"no kernels: {reason}")
    fn, x, _ = MOST[name]
    assert equations(fn, x) <= most
