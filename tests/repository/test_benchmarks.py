"""The harness of the benchmarks, on tasks that cost nothing; and that suites exist."""

import importlib
import json
import sys

import numpy as np
import pytest

from benchmarks import __main__ as command, report, slepc_worker
from benchmarks.harness import (
    lacks,
    measure,
    Peer,
    Point,
    reason,
    statistics,
    Task,
)
from benchmarks.worker import Worker


def constant(name, value, lacks=None, **kwargs):
    return Peer(name, lambda: lambda: np.asarray(value), lacks, **kwargs)


def task(*peers, **kwargs):
    return Task("a task", "a kind", [constant("ours", 1.0), *peers], **kwargs)


def test_quartiles():
    assert statistics([5.0, 1.0, 2.0, 4.0, 3.0]) == {"q1": 2.0, "median": 3.0, "q3": 4.0}


def test_a_missing_peer_is_skipped_and_the_line_says_how_to_get_it():
    result = measure(task(constant("x", 1.0, lacks("no_such_module"))), 2)
    assert result["peers"]["x"] == {"skipped": "pip install no_such_module"}
    assert any("pip install no_such_module" in line for line in report.rows(result))
    assert lacks("numpy") is None


@pytest.mark.parametrize("wrong", [1.1, np.nan])
def test_wrong_results_are_not_timed(wrong):
    row = measure(task(constant("x", wrong)), 2)["peers"]["x"]
    assert "differs" in row["failed"] and "seconds" not in row


def test_a_peer_that_fails_says_why_and_ours_may_not():
    def fails():
        raise RuntimeError("no convergence")

    row = measure(task(Peer("x", fails)), 2)["peers"]["x"]
    assert row["failed"] == "RuntimeError: no convergence"
    with pytest.raises(RuntimeError, match="no convergence"):
        measure(Task("t", "", [Peer("ours", fails)]), 2)


@pytest.mark.parametrize(
    "message, line",
    [("", ""), ("Above\n\nEquinoxRuntimeError: It missed.\n---", "It missed.")],
)
def test_the_reason_is_one_line(message, line):
    assert reason(RuntimeError(message)) == f"RuntimeError: {line}"


def test_a_peer_on_the_reference_blas_is_no_peer():
    folder = "7f0 r-xp 00 08:01 123  /usr/lib/x86_64-linux-gnu"
    assert slepc_worker.has_reference_blas(f"{folder}/blas/libblas.so.3.11.0\n")
    assert not slepc_worker.has_reference_blas(
        f"{folder}/openblas-pthread/libblas.so.3\n"
    )


def test_the_page_of_results_and_the_readme_are_as_generated():
    assert (report.HERE / "RESULTS.md").read_text() == report.generate()
    readme = (report.HERE.parent / "README.md").read_text()
    assert report.between_marks(readme, report.headline(kinds=report.FIRST)) == readme


def test_report_has_tasks_counts_figures_and_notes(tmp_path):
    counted = constant("x", 1.0, count=lambda: {"products": 7})
    point = Point("order", "n", 10.0)
    head = {"date": "d", "commit": "c", "machine": "m", "python": "3", "versions": {}}
    for folder in ("results", "notes"):
        (tmp_path / folder).mkdir()
    found = [measure(task(counted, point=point), 3)]
    path = tmp_path / "results" / "s.json"
    path.write_text(json.dumps(head | {"tasks": found}))
    (tmp_path / "notes" / "n.md").write_text("A note by hand.\n")
    report.draw(tmp_path)
    assert (tmp_path / "results" / "s-order.png").stat().st_size > 5_000
    text = report.generate(tmp_path)
    assert "A note by hand." in text and "7 products" in text
    assert "![order](results/s-order.png)" in text
    marked = f"above {report.BEGIN} old {report.END} below"
    new = report.between_marks(marked, report.headline(tmp_path))
    assert "old" not in new and "| a kind | x " in new
    assert new.startswith("above") and new.endswith("below")


def test_quick_results_give_way_to_full_ones_in_the_headline(tmp_path):
    (tmp_path / "results").mkdir()
    for name, ratio in (("s", 2.0), ("s-quick", 3.0)):
        row = {"ours_over_it": {"median": ratio}}
        tasks = [{"kind": "a kind", "peers": {"ours": {}, "x": row}}]
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps({"tasks": tasks}))
    assert "x 2.00" in report.headline(tmp_path)
    assert "3.00" not in report.headline(tmp_path)


def test_a_worker_answers_in_turn_and_one_that_ends_is_an_error():
    serve = "from benchmarks.worker import serve; serve({'n': 1}, lambda: [2.0, 3.0])"
    worker = Worker([sys.executable, "-c", serve])
    assert worker.ready == {"n": 1}
    assert worker() == worker() == [2.0, 3.0]
    with pytest.raises(RuntimeError, match="ended with 3"):
        Worker([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize("suite", command.SUITES)
def test_every_suite_has_tasks_of_which_the_first_peer_is_ours(suite):
    tasks = importlib.import_module(f"benchmarks.{suite}").tasks(quick=True)
    first = next(iter(tasks))
    assert first.peers[0].name.startswith(("ours", "KrylovSylvester"))


def test_an_unknown_suite_is_refused_by_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "no_such_suite"])
    with pytest.raises(SystemExit):
        command.main()
    assert "'no_such_suite'" in capsys.readouterr().err
