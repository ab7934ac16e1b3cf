"""Prints pip constraints that pin every dependency to its lower bound in pyproject.toml.

    python tools/lowest.py > constraints.txt
    pip install -c constraints.txt 'implicit_eig[test]'

`make test-min` does this. Names without a lower bound are an error: a bound that is not
written down cannot be tested.
"""

import pathlib
import re
import sys
import tomllib


ROOT = pathlib.Path(__file__).resolve().parents[1]
EXTRAS = (
    "jaxopt",
    "scipy",
    "progress",
    "plot",
    "sparse",
    "test",
)  # of which the tests make use


def constraints(project):
    named = project["optional-dependencies"]
    requirements = project["dependencies"] + [r for extra in EXTRAS for r in named[extra]]
    for requirement in requirements:
        if requirement.startswith(project["name"]):  # an extra made of extras
            continue
        bound = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
        if bound is None:
            raise SystemExit(f"no lower bound in {requirement!r}")
        yield "{}=={}".format(*bound.groups())


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sys.stdout.writelines(f"{pin}\n" for pin in constraints(project))
