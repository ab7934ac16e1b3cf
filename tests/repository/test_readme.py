"""What the README shows is what a reader gets."""

import os
import pathlib
import re
import subprocess
import sys

import pytest


ROOT = pathlib.Path(__file__).parents[2]


def first_example(name):
    """Code and output."""
    text = (ROOT / name).read_text()
    blocks = r"```python\n(.*?)```\n```(?:text)?\n(.*?)```"
    return re.search(blocks, text, re.S).groups()


def test_the_first_example_is_that_of_the_site():
    """Whose pages test_docs.py runs."""
    (ours, output), (code, shown) = map(first_example, ("README.md", "docs/index.md"))
    below_imports = lambda text: text[text.index("jax.config") :]
    assert below_imports(ours) == below_imports(code) and output == shown


@pytest.mark.slow
def test_the_first_example_prints_what_the_readme_says():
    code, output = first_example("README.md")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert run.stdout == output
