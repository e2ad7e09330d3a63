"""Files, functions and lists of parameters stay so small that each can be read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import aced

PACKAGE = Path(aced.__file__).parent
LINES, FUNCTION, PARAMETERS = 400, 60, 8
"""Most lines of a file and of a function, and most parameters of a function."""
NOT_COUNTED = {"self", "cls", "ctx"}


def too_large(source: str) -> Iterator[tuple[str, str, int]]:
    """What is too large in a module: a function's name (empty for the file), of what it has too many, and how many."""
    if (lines := len(source.splitlines())) > LINES:
        yield "", "lines", lines
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION:
            yield node.name, "lines", lines
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if (count := sum(one.arg not in NOT_COUNTED for one in given)) > PARAMETERS:
            yield node.name, "parameters", count


def test_no_file_and_no_function_is_too_large() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    assert len(paths) > 100
    found = [
        f"{path.relative_to(PACKAGE)} {name}: {count} {what}"
        for path in paths
        for name, what, count in too_large(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_the_check_finds_what_is_too_large() -> None:
    long = "def f():\n" + "    x = 1\n" * FUNCTION
    wide = "class A:\n    async def g(self, " + ", ".join(f"a{i}" for i in range(PARAMETERS + 1)) + "): ...\n"
    assert list(too_large(long)) == [("f", "lines", FUNCTION + 1)]
    assert list(too_large(wide)) == [("g", "parameters", PARAMETERS + 1)]
    assert list(too_large("\n" * (LINES + 1))) == [("", "lines", LINES + 1)]
    just = "def f(self, a, b, c, d, *, e, f, g, h, **k):\n" + "    x = 1\n" * (FUNCTION - 1)
    assert list(too_large(just)) == []
