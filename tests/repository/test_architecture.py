"""What the design page says of the package is so."""

import ast
import builtins
import dis
import importlib
import pathlib
import types

from tools import design


ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "implicit_eig"


def test_the_design_page_shows_what_the_imports_are():
    """`layers` refuses a circle. Write both with `python -m tools.design`."""
    assert design.BLOCK.search(design.PAGE.read_text())[0] == design.listed() + "\n"
    assert design.PICTURE.read_text() == design.picture()


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
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 450, path


# Public signatures, and what takes them apart; and the one constructor of a block, of all
# that is known of it, by name.
MANY = "attach eigs eigsh invariant_subspace nonlinear_eigs polyeig of".split()


def test_no_function_is_longer_than_a_reader_stands():
    """60 lines without the docstring, and 8 arguments."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            first = node.body[bool(ast.get_docstring(node)) and len(node.body) > 1]
            where = path.name, node.name
            assert node.end_lineno - first.lineno < 60, where
            given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            given = [a for a in given if a.arg not in ("self", "cls")]
            assert len(given) <= 8 or node.name in MANY, where
