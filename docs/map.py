"""Writes the map of modules in docs/design.md from the first line of every module.

    python docs/map.py

A test compares the page with what this would write.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

from aced.files.atomic import write_atomic

PAGE = Path(__file__).with_name("design.md")
PACKAGE = Path(__file__).parents[1] / "src" / "aced"
_MAP = re.compile(r"(^```\nsrc/aced/\n)(.*?)(^```$)", re.DOTALL | re.MULTILINE)
_WIDTH, _COLUMN = 120, 26


def page() -> str:
    """The page with today's map in it."""
    text = PAGE.read_text(encoding="utf-8")
    assert _MAP.search(text), f"{PAGE.name} has no map that could be replaced"
    return _MAP.sub(lambda found: found[1] + "\n".join(_rows(PACKAGE, 1)) + "\n" + found[3], text)


def _rows(folder: Path, depth: int) -> list[str]:
    """The modules of a folder, then its packages with theirs."""
    rows = [
        _row(path.name, path, depth)
        for path in sorted(folder.glob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ]
    for package in sorted(path.parent for path in folder.glob("*/__init__.py")):
        rows += [_row(f"{package.name}/", package / "__init__.py", depth), *_rows(package, depth + 1)]
    return rows


def _row(name: str, path: Path, depth: int) -> str:
    """A name and what its module says of itself."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    about = docstring.partition("\n")[0].rstrip(".")
    start = ("  " * depth + name).ljust(_COLUMN) + ("" if len("  " * depth + name) < _COLUMN else "  ")
    return textwrap.fill(start + about, _WIDTH, subsequent_indent=" " * _COLUMN, break_on_hyphens=False)


if __name__ == "__main__":
    write_atomic(PAGE, page())
