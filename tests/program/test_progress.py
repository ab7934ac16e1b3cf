"""Progress meters: what they show, that they end, and that none is free."""

import io
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig
from implicit_eig._progress_meter import _Bar


N = 60
RATES = jnp.linspace(0.0, 1.0, N) ** 2


def values(rates, progress_meter=ieig.NoProgressMeter(), max_restarts=300):
    def mv(v):
        return rates * v + 0.1 * jnp.roll(v, 1)

    return ieig.eigs(
        mv,
        k=2,
        which="LR",
        like=rates,
        eigensolver=ieig.KrylovSchur(krylov_dim=8, max_restarts=max_restarts),
        throw=False,
        progress_meter=progress_meter,
    )


def largest(rates, progress_meter):
    return values(rates, progress_meter).eigenvalues[0].real


@pytest.fixture
def bars(monkeypatch):
    """All bars made, and what they would have shown."""
    tqdm = pytest.importorskip("tqdm")
    made = []

    class Bar(tqdm.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, file=io.StringIO(), **kwargs)
            self.closed, self.last_n = False, None
            made.append(self)

        def close(self):
            self.last_n, self.closed = self.n, True
            super().close()

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    return made


def test_text_is_one_line_a_restart(capsys):
    solution = values(RATES, ieig.TextProgressMeter())
    jax.effects_barrier()
    first, *lines = capsys.readouterr().out.splitlines()
    assert "compiling" in first
    assert len(lines) == int(solution.stats["num_restarts"]) > 1
    assert re.match(r"restart +1  converged 0/2  worst residual \d", lines[0])
    assert "converged 2/2" in lines[-1]


def test_bar_reaches_the_number_of_pairs_and_is_closed(bars):
    run = jax.jit(lambda rates: largest(rates, ieig.TqdmProgressMeter()))
    for _ in range(2):  # a new bar each run, also of a compiled program
        run(RATES).block_until_ready()
        jax.effects_barrier()
    assert [(bar.last_n, bar.total, bar.closed) for bar in bars] == [(100, 100, True)] * 2


def test_bar_is_closed_when_the_run_fails(bars):
    solution = values(RATES, ieig.TqdmProgressMeter(), max_restarts=2)
    jax.effects_barrier()
    assert solution.result == ieig.RESULTS.not_converged
    assert [(0 < bar.last_n < 100, bar.closed) for bar in bars] == [(True, True)]


def test_bar_moves_by_digits_and_its_total_stays(bars):
    bar = _Bar()
    residuals = [1e0, 1e-3, 1e-2, 1e-6, 1e-12]
    wanted, shown = [3, 4, 3, 4, 3], []
    for i, (worst, k) in enumerate(zip(residuals, wanted, strict=True)):
        last = i == len(residuals) - 1
        bar(i + 1, k if last else 0, k, np.float64(worst), last)
        shown.append((bars[0].n, bars[0].total, bars[0].postfix.split()[0]))
    moved, totals, pairs = zip(*shown, strict=True)
    assert moved == (0, 28, 28, 57, 100)
    assert set(totals) == {100}
    assert pairs == ("0/3",) * 4 + ("3/3",)


def test_bar_is_closed_on_nan(bars):
    values(RATES * jnp.nan, ieig.TqdmProgressMeter())
    jax.effects_barrier()
    assert [bar.closed for bar in bars] == [True]


def test_gradient_shows_the_forward_run_alone(bars):
    gradient = jax.jit(jax.grad(lambda rates: largest(rates, ieig.TqdmProgressMeter())))
    got = gradient(RATES)
    jax.effects_barrier()
    assert [(bar.last_n, bar.closed) for bar in bars] == [(100, True)]
    none = jax.grad(lambda rates: largest(rates, ieig.NoProgressMeter()))(RATES)
    assert jnp.allclose(got, none, rtol=1e-12)


def test_members_of_a_batch_have_a_bar_each_on_cpus_else_share_one(bars):
    batch = jnp.stack([RATES, 2 * RATES, RATES + 1])
    jax.vmap(lambda rates: largest(rates, ieig.TqdmProgressMeter()))(batch)
    jax.effects_barrier()
    count = 3 if jax.default_backend() == "cpu" else 1
    assert [(bar.last_n, bar.closed) for bar in bars] == [(100, True)] * count


def test_no_meter_leaves_no_callback():
    def run(rates):
        return largest(rates, ieig.NoProgressMeter())

    program = jax.jit(jax.value_and_grad(run)).lower(RATES)
    text = str(jax.make_jaxpr(run)(RATES))
    assert "callback" not in text
    assert "callback" not in program.as_text()


def test_missing_tqdm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=re.escape("implicit_eig[progress]")):
        ieig.TqdmProgressMeter()


def test_a_recording_meter_keeps_every_restart_of_every_run(capsys):
    meter = ieig.RecordingProgressMeter()
    solution = values(RATES, meter)
    (run,) = meter.histories()
    assert len(run.residuals) == solution.stats["num_restarts"]
    assert run.converged[-1] == run.wanted[-1] == 2
    assert run.residuals[-1] < 1e-9 < run.residuals[0]
    jax.grad(largest)(RATES, meter)
    assert len(meter.histories()) == 2
    np.testing.assert_array_equal(*(run.residuals for run in meter.histories()))
    meter.clear()
    assert meter.histories() == []
    assert capsys.readouterr().out == ""
