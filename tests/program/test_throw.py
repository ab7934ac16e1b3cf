"""What a failure does: one sentence in a plain call, NaN and a code in a compiled program."""

import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import slow_but


N, K = 40, 3
RATES = jnp.cos(jnp.arange(float(N)) ** 2)
SHORT = ieig.KrylovSchur(max_restarts=1)


def solution(rates, throw=None):
    return ieig.eigs(
        lambda v: rates * v + 0.5 * jnp.roll(v, 1),
        K,
        "LR",
        like=rates,
        eigensolver=SHORT,
        throw=throw,
    )


def loss(rates, throw=None):
    s = solution(rates, throw)
    return s.eigenvalues[K - 1].real + jnp.abs(s.eigenvectors[0, K - 1])


PLAIN = {
    "call": lambda: solution(RATES),
    "True": lambda: solution(RATES, True),
    "grad": lambda: jax.grad(loss)(RATES),
    "jvp": lambda: jax.jvp(loss, (RATES,), (RATES,)),
    "value_and_grad": lambda: jax.value_and_grad(loss)(RATES),
    "jacfwd": lambda: jax.jacfwd(lambda t: loss(t * RATES))(1.0),
    "vmap": lambda: jax.vmap(loss)(jnp.stack([RATES, RATES])),
}


@pytest.mark.parametrize("mode", slow_but(["call", "True", "grad", "vmap"], PLAIN))
def test_a_plain_call_raises_one_sentence_with_its_numbers(mode):
    with pytest.raises(RuntimeError, match=rf"Fewer than `k`.*of {K} did") as error:
        PLAIN[mode]()
    text = str(error.value).split("\n")[0]
    assert "1 restarts" in text and "the largest residual is" in text
    assert "krylov_dim=40" in text and "max_restarts" not in text
    assert "filter_jit" not in str(error.value)
    # What a user reads: frames of this test and of pytest apart.
    lines = traceback.format_exception_only(error.value)
    assert len("".join(lines).splitlines()) <= 5


def test_a_compiled_program_gives_nan_and_says_why():
    s = jax.jit(solution)(RATES)
    assert s.result == ieig.RESULTS.not_converged
    converged = int(s.stats["num_converged"])
    assert converged < K
    for x in (s.eigenvalues[converged:], s.eigenvectors[:, converged:]):
        assert np.isnan(x.real).all() and np.isnan(x.imag).all()
    assert np.isfinite(s.eigenvalues[:converged]).all()
    assert np.isfinite(s.residuals).all()
    assert np.isnan(jax.jit(jax.grad(loss))(RATES)).all()
    text = jax.jit(jax.value_and_grad(loss)).lower(RATES).as_text()
    assert "callback" not in text


def test_throw_true_raises_from_a_compiled_program():
    with pytest.raises(
        (RuntimeError, jax.errors.JaxRuntimeError), match="Fewer than `k`"
    ):
        jax.block_until_ready(jax.jit(lambda r: loss(r, True))(RATES))


def test_throw_false_keeps_what_was_reached():
    s = solution(RATES, False)
    assert s.result == ieig.RESULTS.not_converged
    assert np.isfinite(s.eigenvalues).all() and np.isfinite(s.eigenvectors).all()
    assert np.isnan(jax.grad(lambda r: loss(r, False))(RATES)).all()


def share(rates, throw=None):
    s = ieig.eigs(
        lambda v: rates * v + 0.5 * jnp.roll(v, 1),
        1,
        "LR",
        like=rates,
        adjoint=ieig.ImplicitAdjoint(ieig.DeflatedGMRES(restart=2, max_restarts=1)),
        throw=throw,
    )
    return jnp.abs(s.eigenvectors[0, 0])


SOLVES = {
    "grad": lambda: jax.grad(share)(RATES),
    "jvp": lambda: jax.jvp(share, (RATES,), (RATES,)),
    "jacrev": lambda: jax.jacrev(lambda r: share(r)[None])(RATES),
}


@pytest.mark.parametrize("mode", slow_but(["grad"], SOLVES))
def test_a_solve_that_fails_raises_where_python_sees_it(mode):
    with pytest.raises(RuntimeError, match="missed its tolerance") as error:
        SOLVES[mode]()
    lines = traceback.format_exception(error.value)
    # Below this test and pytest: no stack of the call that was differentiated.
    assert "JaxStackTraceBeforeTransformation" not in "".join(lines)
    assert error.value.__cause__ is None


def test_a_solve_that_fails_gives_nan_where_python_does_not_see_it_or_on_request():
    assert np.isnan(jax.jit(jax.grad(share))(RATES)).all()
    assert np.isnan(jax.grad(lambda r: share(r, False))(RATES)).all()


@pytest.mark.parametrize("throw", [1, "no", 0.0])
def test_what_throw_cannot_be_is_named(throw):
    with pytest.raises(TypeError, match=f"`throw` must be None, True or False.*{throw}"):
        solution(RATES, throw)
