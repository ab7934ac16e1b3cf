"""What is installed is what was meant to be: one version, types, extras, a licence."""

import importlib.metadata
import importlib.resources
import pathlib
import tomllib

import implicit_eig as ieig


ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_stands_in_one_place():
    assert importlib.metadata.version("implicit_eig") == ieig.__version__
    assert "version" in PROJECT["dynamic"]
    assert f"## {ieig.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {ieig.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{ieig.__version__}}}" in (ROOT / "docs/cite.md").read_text()


def test_type_checkers_are_told_to_look():
    assert importlib.resources.files("implicit_eig").joinpath("py.typed").is_file()


def test_all_means_all_extras_for_users():
    for_developers = {"test", "dev", "docs", "bench", "build"}
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    names = everything.removeprefix("implicit_eig[").removesuffix("]").split(",")
    assert set(names) == set(extras) - for_developers - {"all"}


def test_licence_and_readme_are_in_the_metadata():
    metadata = importlib.metadata.metadata("implicit_eig")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
