"""Every example runs, and its own checks pass. (Those of the gallery: test_gallery.py.)"""

import pathlib
import subprocess
import sys

import pytest

from .test_gallery import GALLERY


FOLDER = pathlib.Path(__file__).parents[2] / "docs/examples"
EXAMPLES = [path for path in sorted(FOLDER.glob("*.py")) if path.stem not in GALLERY]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_at_its_small_size(example):
    run = subprocess.run(
        [sys.executable, str(example), "--small", "--no-plot"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
