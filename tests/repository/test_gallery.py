"""Each script of the gallery meets its published values, at its small size."""

import os
import pathlib
import subprocess
import sys

import pytest

from ..oracles import slow_but


EXAMPLES = pathlib.Path(__file__).parents[2] / "docs" / "examples"
GALLERY = [
    "waveguide",
    "orr_sommerfeld",
    "markov_chain",
    "population",
    "skin_effect",
    "koopman",
    "bring_your_own_solver",
    "drum",
    "mast",
    "spin_chain",
    "dampers",
    "delay",
    "resonator",
]


@pytest.mark.parametrize(
    "name", slow_but(["orr_sommerfeld", "population", "koopman"], GALLERY)
)
def test_gallery_script(name, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    script = EXAMPLES / f"{name}.py"
    run = subprocess.run(
        [sys.executable, script, "--small", "--figures", tmp_path],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert ": ok" in run.stdout
    assert (tmp_path / f"{name}.png").stat().st_size < 150_000


def test_every_script_has_a_page():
    pages = EXAMPLES.parent / "gallery"
    for name in GALLERY:
        text = (pages / f"{name}.md").read_text()
        assert f"docs/examples/{name}.py:" in text
        assert text.split("\n\n")[1].endswith(f"({name}.png)")  # opens with its picture
        assert f"({name}.png)]({name}.md)" in (pages / "index.md").read_text()
        sections = (EXAMPLES / f"{name}.py").read_text()
        for line in text.splitlines():
            if line.startswith("--8<--"):
                section = line.rsplit(":", 1)[1].strip('"')
                assert f"[start:{section}]" in sections, line
