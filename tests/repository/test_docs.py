"""The code of every page and of every public docstring runs, and prints what is shown."""

import inspect
import re
import textwrap
import warnings

import jax
import pytest

import implicit_eig as ieig
from tools.pages import BLOCK, PAGES, ROOT, run, same


PUBLIC = {
    name: thing
    for name, thing in vars(ieig).items()
    if not name.startswith("_") and not inspect.ismodule(thing)
}
PLOTS = {
    f"plot.{name}": thing
    for name, thing in vars(ieig.plot).items()
    if inspect.isfunction(thing) and thing.__module__ == ieig.plot.__name__
    if not name.startswith("_")
}


@pytest.fixture(autouse=True)
def _as_a_reader_has_it():
    """Pages and docstrings set what they need themselves; none asks for strict types."""
    with jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.simplefilter("error", ieig.GaugeDependenceWarning)
        warnings.filterwarnings("ignore", "JAXopt is no longer maintained")
        yield


def _needs(code):
    if "KLU()" in code:
        pytest.importorskip("klujax", reason="the extra `sparse` is not installed")
    if "ieig.plot." in code:
        pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")


# The longest ones, run with the campaigns.
SLOW = """CONTRIBUTING coming-from eigenvector-gradient finite-elements gauges gmres hermitian
linear-solver many-matrices mass-matrix near-a-target plot save small-matrices sweep""".split()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else []
        )
        for page in PAGES
        if BLOCK.search(page.read_text())
    ],
)
def test_a_page_prints_what_it_shows(page):
    _needs("".join(block[1] for block in BLOCK.finditer(page.read_text())))
    shown = 0
    for block, printed in run(page.read_text(), str(page)):
        assert same(printed, block[2] or ""), f"{printed}\nis not\n{block[2]}"
        shown += 1
    assert shown


def _examples():
    """(name, code) of the fenced Python in public docstrings, those of methods too."""
    for name, thing in (PUBLIC | PLOTS).items():
        members = vars(thing).items() if inspect.isclass(thing) else ()
        for where, part in [(name, thing), *((f"{name}.{m}", x) for m, x in members)]:
            doc = getattr(part, "__doc__", None) or ""
            for i, code in enumerate(re.findall(r"```python\n(.*?)```", doc, re.S)):
                yield pytest.param(textwrap.dedent(code), id=f"{where}-{i}")


@pytest.mark.parametrize("code", list(_examples()))
def test_the_example_of_a_docstring_runs(code):
    _needs(code)
    exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("name", [*PUBLIC, *PLOTS])
def test_a_public_name_has_an_example_and_a_place_in_the_reference(name):
    thing = (PUBLIC | PLOTS)[name]
    # Of its own: a subclass would be given that of its base.
    assert "```python" in thing.__doc__
    pages = "".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    assert re.search(rf"^::: implicit_eig\.{name}$", pages, re.M)
