"""The harness of the benchmarks, on tasks that cost nothing."""

import json

import numpy as np
import pytest

from benchmarks import report
from benchmarks.harness import measure, Peer, statistics, Task


def constant(name, value, needs=None):
    return Peer(name, lambda: lambda: np.asarray(value), needs)


def test_quartiles():
    assert statistics([5.0, 1.0, 2.0, 4.0, 3.0]) == {"q1": 2.0, "median": 3.0, "q3": 4.0}


def test_a_missing_peer_is_skipped_with_a_line(capsys):
    task = Task("t", [constant("ours", 1.0), constant("x", 1.0, "no_such_module")])
    result = measure(task, 2)
    assert list(result["peers"]) == ["ours"]
    assert "pip install no_such_module" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [1.1, np.nan])
def test_wrong_results_are_not_timed(wrong):
    with pytest.raises(ValueError, match="disagree"):
        measure(Task("t", [constant("ours", 1.0), constant("x", wrong)]), 2)


def test_report_has_tasks_and_notes(tmp_path):
    result = measure(Task("a task", [constant("ours", 1.0), constant("x", 1.0)]), 3)
    head = {"date": "d", "commit": "c", "machine": "m", "python": "3", "versions": {}}
    for folder in ("results", "notes"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "results" / "s.json"
    path.write_text(json.dumps(head | {"tasks": [result]}))
    (tmp_path / "notes" / "n.md").write_text("A note by hand.\n")
    (tmp_path / "results" / "gpu.json").write_text(json.dumps(head | {"rows": []}))
    text = report.generate(tmp_path)
    assert "A note by hand." in text and "| a task | ours" in text
    marked = f"above {report.BEGIN} old {report.END} below"
    new = report.between_marks(marked, report.headline(tmp_path))
    assert "old" not in new and "| s | a task | x |" in new
    assert new.startswith("above") and new.endswith("below")
