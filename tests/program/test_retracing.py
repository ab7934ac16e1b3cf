"""A second call with the same shapes traces and compiles nothing."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import random_matrix


N, K = 24, 2
ROWS, COLUMNS = np.nonzero(np.asarray(random_matrix(0, N)) > 0.3)


def full(seed):
    return random_matrix(seed, N)


def sparse(seed):
    values = full(seed)[ROWS, COLUMNS]
    return ieig.SparseOperator(values, ROWS, COLUMNS, N)


def value(s):
    return jnp.sum(jnp.abs(s.eigenvalues) ** 2) + jnp.sum(jnp.abs(s.eigenvectors) ** 4)


def path(a):
    turned = lambda t: a + t * jnp.diag(jnp.arange(float(N)))
    return ieig.follow(turned, jnp.linspace(0.0, 0.1, 3), ieig.eigs(a, K))


CALLS = {
    "eig": (full, ieig.eig),
    "a sparse matrix": (
        sparse,
        lambda a: ieig.eigs(a, K, eigensolver=ieig.KrylovSchur()),
    ),
    "near a target": (sparse, lambda a: ieig.eigs(a, K, sigma=0.3)),
    "a path": (full, path),
    "gradient": (full, jax.grad(lambda a: value(ieig.eigs(a, K)))),
}


@pytest.fixture
def compiled(caplog):
    """What a call compiles."""

    def programs(call, x):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.DEBUG, "jax"):
            jax.block_until_ready(call(x))
        return [r.getMessage()[:60] for r in caplog.records if "Compiling" in r.message]

    jax.clear_caches()
    return programs


@pytest.mark.parametrize("name", CALLS)
def test_new_values_compile_nothing(name, compiled):
    make, call = CALLS[name]
    first, second = make(1), make(2)
    assert compiled(call, first)
    assert not compiled(call, second)


@pytest.mark.parametrize("call", [ieig.eig, lambda a: ieig.eigs(a, K)])
def test_a_plain_call_is_one_program(call, compiled):
    """Whatever else it ran would be paid for in Python at each call."""
    assert len(compiled(call, full(1))) == 1
