"""Where eigenproblems are dangerous, no answer is silently wrong: docs/hazards.md, held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig
from tools import hazards


ROWS = hazards.every_row()


def cells():
    """In `make test` each row is asked in one column, in turns."""
    for i, row in enumerate(ROWS):
        columns = [c for c in hazards.OWN if hazards.has_answer(row, c)]
        for j, column in enumerate(columns):
            marks = [pytest.mark.slow] if j != i % len(columns) else []
            yield pytest.param(row, column, id=f"{row.name}, {column}", marks=marks)


@pytest.fixture(autouse=True)
def default_promotion():
    """Questions are written once for three array libraries, and mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("row, column", list(cells()))
def test_the_answer_is_right_or_says_that_it_is_not(row, column):
    text = hazards.verdict(row, column)
    assert not hazards.silently_wrong(text), text


def changed(column):
    """The cells that no longer say what the page says, but for the size of errors."""
    page = hazards.verdicts_on_the_page()
    for row in ROWS:
        now, before = hazards.verdict(row, column), page[row.key][column]
        if before != "?" and now.split()[:1] != before.split()[:1]:
            # Between these two there is a line, but not a change of behaviour.
            if {now.split()[0], before.split()[0]} != {"right", "lossy"}:
                yield f"{row.name}: {before!r} has become {now!r}"


@pytest.mark.skipif(not hazards.flagged(), reason="this JAX has no such derivatives")
@pytest.mark.slow
def test_jax_answers_what_the_page_says():
    assert not list(changed("JAX"))


def test_torch_answers_what_the_page_says():
    pytest.importorskip("torch")
    assert not list(changed("PyTorch"))


def test_the_page_has_every_row_and_no_wrong_answer_of_ours():
    page = hazards.verdicts_on_the_page()
    assert set(page) == {row.key for row in ROWS}
    for row in ROWS:
        for column in hazards.OWN:
            assert not hazards.silently_wrong(page[row.key][column]), (row.name, column)


def test_a_verdict_is_computed():
    want = hazards.Truth(0.5, scale=0.5, own=1e-14, by_pairs=1e-7)
    say = lambda x, by_pairs=True, **kwargs: hazards.classify(
        hazards.Answer(x, **kwargs), want, by_pairs
    )
    assert say(0.5) == "right (exact)"
    assert say(0.5 + 1e-15).startswith("right (2e-15")
    assert say(0.5 + 1e-8).startswith("lossy (2e-08")
    assert say(0.5 + 1e-8, by_pairs=False).startswith("wrong")
    assert say(4.5e15) == "wrong: 4.5e+15 for 0.5 (9e+15)"
    assert say(4.5e15, said="`cut`") == "warns: `cut`"
    assert say(np.nan) == "NaN" and say(np.inf) == "NaN"
    assert say(None, error="RuntimeError") == "raises RuntimeError"
    none = hazards.Truth(None, reason="q is not smooth")
    assert hazards.classify(hazards.Answer(2.0), none, True) == "wrong: 2, none exists"
    phase = hazards.Truth(None, in_gauge=2.0)
    in_gauge = lambda x, own: hazards.classify(hazards.Answer(x), phase, True, own)
    assert in_gauge(2.0, True) == "right, in the default gauge"
    assert in_gauge(2.1, True).startswith("wrong")
    assert in_gauge(2.0, False).startswith("wrong")


def test_an_eigenvalue_that_did_not_converge_has_no_gradient_either():
    hasty = ieig.KrylovSchur(krylov_dim=6, max_restarts=2)

    def f(b):
        product = lambda v: b * jnp.roll(v, 1).at[0].set(0.0) + 0.8 * jnp.roll(v, -1)
        like = jnp.zeros(200)
        s = ieig.eigs(product, 1, "LR", like=like, eigensolver=hasty, throw=False)
        return s.eigenvalues[0].real

    assert np.isnan(jax.jvp(f, (1.25,), (1.0,))[1])
    assert np.isnan(jax.grad(f)(1.25))
