"""Runs the Python of a page, block by block in one namespace, and compares what is shown
under a block with what it prints. (Pages of the gallery show parts of scripts, which
`test_gallery.py` runs.)

    python -m tools.pages docs/start.md ...     writes what the blocks print into the pages

A block of output is a fence without a language, or with `text`, that follows the block of
Python. Nothing else on a page is looked at.
"""

import contextlib
import io
import math
import pathlib
import re
import sys


ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted(
    {*ROOT.glob("docs/**/*.md"), ROOT / "CONTRIBUTING.md"}
    - {*ROOT.glob("docs/gallery/*.md")}
)
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(?:\n?^```(?:text)?\n(.*?)^```\n)?", re.M | re.S
)

NUMBER = re.compile(r"([-+]?\d+\.?\d*(?:e[-+]?\d+)?)")


def run(text, name):
    """Yields (match, what it printed) of each block."""
    namespace = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        line = text[: block.start(1)].count("\n")
        code = compile(
            "\n" * line + block[1], name, "exec"
        )  # errors name the page's line
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        yield block, printed.getvalue()


def same(printed, shown):
    """Whether two texts agree: words exactly, numbers to 1e-3, rounding errors not at all."""
    mine, theirs = (NUMBER.split(" ".join(text.split())) for text in (printed, shown))
    if [w.strip() for w in mine[::2]] != [w.strip() for w in theirs[::2]]:
        return False
    pairs = zip(mine[1::2], theirs[1::2], strict=True)
    return all(
        math.isclose(float(a), float(b), rel_tol=1e-3, abs_tol=1e-9) for a, b in pairs
    )


def write(page):
    text = page.read_text()
    for block, printed in reversed(list(run(text, str(page)))):
        fence = f"```text\n{printed}```\n" if printed else ""
        text = (
            text[: block.start()]
            + f"```python\n{block[1]}```\n"
            + fence
            + text[block.end() :]
        )
    page.write_text(text)


if __name__ == "__main__":
    for page in sys.argv[1:]:
        write(pathlib.Path(page))
