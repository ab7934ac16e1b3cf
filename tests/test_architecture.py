"""The list of the design page is what the imports are."""

import ast
import builtins
import dis
import importlib
import pathlib
import re
import types

import pytest


ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "implicit_eig"


def layers():
    """The units of the package, as the page names them, from the bottom."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    block = re.search(
        r"Each line imports from lines above it only:\n\n((?:    .*\n)+)", page
    )
    return [line.split() for line in block[1].splitlines()]


def imports():
    """For each unit (a file or a folder beside `__init__.py`) those it imports."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        others = found.setdefault(parts[0], set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == len(parts):
                names = [node.module] if node.module else [a.name for a in node.names]
                others.update(name.split(".")[0] for name in names)
    return {unit: others - {unit} for unit, others in found.items()}


def test_every_unit_stands_in_the_list():
    listed = [unit for line in layers() for unit in line]
    assert sorted(listed) == sorted(imports())


@pytest.mark.parametrize("unit", sorted(imports()))
def test_imports_point_one_way(unit):
    below = set()
    for line in layers():
        if unit in line:
            break
        below.update(line)
    assert imports()[unit] <= below


def globals_of(code):
    """Names that functions look for outside themselves."""
    for inner in (c for c in code.co_consts if isinstance(c, types.CodeType)):
        for step in dis.get_instructions(inner):
            if step.opname == "LOAD_GLOBAL":
                yield step.argval
        yield from globals_of(inner)


def test_every_name_is_defined():
    """Linters cannot tell: shapes stand in strings, where annotations have names."""
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        known = vars(importlib.import_module(name)).keys() | vars(builtins).keys()
        code = compile(path.read_text(), path, "exec")
        assert not set(globals_of(code)) - known, name


def test_no_file_is_longer_than_a_reader_stands():
    """500 lines; those that are longer today may only shrink."""
    longer = {"_eigensolver/base.py": 530}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        assert len(path.read_text().splitlines()) <= longer.get(name, 500), name
