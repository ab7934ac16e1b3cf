"""Writes what of docs/design.md follows from the imports: the list of layers, and the
picture docs/images/design.svg.

    python -m tools.design

`tests/repository/test_architecture.py` holds both to what the imports are.
"""

import ast
import html
import pathlib
import re


ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "implicit_eig"
PAGE = ROOT / "docs" / "design.md"
PICTURE = ROOT / "docs" / "images" / "design.svg"

BOX, HIGH, GAP, ROW = 150, 34, 12, 62


def imports() -> dict[str, set[str]]:
    """For each unit (a file or a folder beside `__init__.py`) those it imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        others = found.setdefault(parts[0], set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == len(parts):
                names = [node.module] if node.module else [a.name for a in node.names]
                others.update(name.split(".")[0] for name in names)
    return {unit: others - {unit} for unit, others in found.items()}


def layers() -> list[list[str]]:
    """Units by the longest chain of imports below them; refuses a circle."""
    left, rows = imports(), []
    while left:
        row = sorted(unit for unit, others in left.items() if not others & left.keys())
        if not row:
            raise ValueError(f"These import each other in a circle: {sorted(left)}.")
        rows.append(row)
        left = {unit: others for unit, others in left.items() if unit not in row}
    return rows


def needed(imported: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The imports that do not follow from others."""
    below: dict[str, set[str]] = {}
    for row in layers():
        for unit in row:
            direct = imported[unit]
            below[unit] = direct.union(*(below[other] for other in direct))
    return {
        (unit, other)
        for unit, direct in imported.items()
        for other in direct
        if not any(other in below[between] for between in direct)
    }


def purpose(unit: str) -> str:
    """The first sentence of its docstring."""
    path = PACKAGE / f"{unit}.py"
    path = path if path.exists() else PACKAGE / unit / "__init__.py"
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(re.split(r"(?<=[.:])\s", text)[0].split()).rstrip(":.")


def listed() -> str:
    return "\n".join("    " + " ".join(row) for row in layers())


def picture() -> str:
    """Boxes in rows, what is imported below; hover over one for its purpose."""
    rows = layers()
    width = max(map(len, rows)) * (BOX + GAP) + GAP
    height = len(rows) * ROW + GAP
    at = {}
    for level, row in enumerate(rows):
        start = (width - len(row) * (BOX + GAP) + GAP) / 2
        for i, unit in enumerate(row):
            at[unit] = start + i * (BOX + GAP), height - (level + 1) * ROW + GAP
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="13">',
        "<style>"
        "text{fill:#222;text-anchor:middle}rect{fill:#eef1fb;stroke:#5b6bbf}"
        ".public rect{fill:#fdf0dc;stroke:#c08a2d}path{stroke:#999;fill:none}"
        "@media(prefers-color-scheme:dark){text{fill:#eee}rect{fill:#2a3050}"
        ".public rect{fill:#4a3a1c}path{stroke:#666}}"
        "</style>",
    ]
    for unit, other in sorted(needed(imports())):
        (x, y), (u, v) = at[unit], at[other]
        x, u, y = x + BOX / 2, u + BOX / 2, y + HIGH
        bend = (v - y) / 2
        curve = f"{x:g} {y + bend:g} {u:g} {v - bend:g} {u:g} {v:g}"
        out.append(f'<path d="M{x:g} {y:g}C{curve}"/>')
    public = (PACKAGE / "__init__.py").read_text()
    functions = {u for u in at if f"import {u.lstrip('_')} as" in public}
    inner = set().union(*imports().values()) - functions
    for unit, (x, y) in sorted(at.items()):
        kind = "inner" if unit in inner else "public"
        out.append(
            f'<g class="{kind}"><title>{html.escape(purpose(unit))}</title>'
            f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HIGH}" rx="5"/>'
            f'<text x="{x + BOX / 2:g}" y="{y + HIGH / 2 + 5:g}">{unit}</text></g>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


BLOCK = re.compile(r"(?<=Each line imports from lines above it only:\n\n)(?:    .*\n)+")


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: listed() + "\n", PAGE.read_text()))
    PICTURE.write_text(picture())
