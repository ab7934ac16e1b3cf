"""What the README shows is what a reader gets."""

import os
import pathlib
import re
import subprocess
import sys


def test_the_first_example_prints_what_the_readme_says():
    text = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    code, output = re.search(r"```python\n(.*?)```\n```\n(.*?)```", text, re.S).groups()
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert run.stdout == output
