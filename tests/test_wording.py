"""What tests ask of a text: keys, paths, numbers and names, in order; never a sentence."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from wording import tells

SENTENCE = re.compile(r"(?<![\w'`./-])[a-z]{2,}(?: [a-z]+){3,}(?![\w'`/-])")
"""Four plain words or more, none of which is a key, a path or a name."""

METHODS = {"startswith", "endswith", "count", "index", "find", "search", "fullmatch", "match"}
CHECKS = {"tells", "check", "refused"}
"""Methods, and functions of the tests, that look for their arguments."""

ALLOWED = {
    "some processor with a rather long name": "the test's own text, which the page repeats",
    "a picture of an orange ring": "a caption that the scenes draw",
    "colour and shape on noisy": "the name of a task",
    "a dog runs in the ": "a caption of the test's own pool",
    ".left.tmp is only in two": "a benchmark's own list of differences",
    "aced: process 1 of 2: The disk of this machine has melted": "the test's own fault",
}
"""Patterns that are no wording of the package, each with the reason."""


def text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def values(tree: ast.AST) -> dict[str, ast.AST]:
    """What the names of a module, or of a function, are set to, as far as it is written there."""
    found: dict[str, ast.AST] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = node.value
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=False)
                    found |= {name.id: value for name, value in pairs if isinstance(name, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node.value
    return found


def tables(function: ast.FunctionDef, used: set[str], module: dict[str, ast.AST]) -> Iterator[ast.AST]:
    """The cells of parametrised tables, and of those that a loop goes through, whose names are in `used`."""
    tables: list[tuple[list[str], ast.AST]] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "parametrize":
            names = ast.literal_eval(node.args[0])
            names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
            tables.append((names, node.args[1]))
        elif isinstance(node, ast.For):
            names = [name.id for name in ast.walk(node.target) if isinstance(name, ast.Name)]
            tables.append((names, node.iter))
    for names, table in tables:
        if isinstance(table, ast.Name):
            table = module.get(table.id, table)
        if isinstance(table, ast.Call) and isinstance(table.func, ast.Attribute) and table.func.attr == "items":
            rows: list[ast.expr] = list(getattr(table.func.value, "values", []))
            names = names[-1:]
        else:
            rows = getattr(table, "elts", [])
        for row in rows:
            cells = row.args if isinstance(row, ast.Call) else getattr(row, "elts", [row])  # pytest.param, or a tuple
            yield from (cell for name, cell in zip(names, cells, strict=False) if name in used)


def patterns(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of what the tests of a module look for in a text."""
    asked: list[ast.AST] = []
    module = values(tree)
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        here: list[ast.AST] = []
        for node in ast.walk(function):
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
                here.append(node.left)
            elif isinstance(node, ast.Call):
                here += [keyword.value for keyword in node.keywords if keyword.arg == "match"]
                if (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS) or (
                    isinstance(node.func, ast.Name) and node.func.id in CHECKS
                ):
                    here += node.args
        used = {node.id for node in here if isinstance(node, ast.Name)}
        own = values(function)
        asked += here + [own[name] for name in used & own.keys()] + list(tables(function, used, module))
    for node in asked:
        text = text_of(node)
        if text is not None:
            yield node.lineno, text  # type: ignore[attr-defined]


def test_no_test_looks_for_a_sentence() -> None:
    """A sentence may be put better at any time: what must stay in it are the key, the path, the number, the command."""
    root = Path(__file__).parent
    found = {
        f"{path.relative_to(root)}:{line}: {text!r}"
        for path in root.rglob("*.py")
        for line, text in patterns(ast.parse(path.read_text(encoding="utf-8")))
        if SENTENCE.search(re.sub(r"[`'\"][^`'\"]*[`'\"]", "", text))
    }
    found = {line for line in found if not any(mark in line for mark in ALLOWED)}
    assert not found, "\n".join(sorted(found))
    assert len(ALLOWED) <= 10


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("raises(E, match='the batch of them is too large')", 1),
        ("assert 'cannot be read any more' in text", 1),
        ("assert text.endswith(f'{x} is not what it was')", 1),
        ("raises(E, match='train.batch .*16')", 0),
        ("assert 'no run' in text", 0),
    ],
)
def test_the_guard_sees_a_sentence(code: str, count: int) -> None:
    found = list(patterns(ast.parse(f"def f():\n    {code}")))
    assert sum(bool(SENTENCE.search(text)) for _, text in found) == count


@pytest.mark.parametrize(
    ("text", "marks", "found"),
    [
        ("1 of them damaged", "1 … damaged", True),
        ("31 are damaged", "1 … damaged", False),
        ("0.1 damaged, 1,000 whole", "1", False),
        ("damaged: 1", "1 … damaged", False),
        ("120 in all; 0 to go", "120 … 0", True),
        ("120 in all", "120 … 0", False),
        ("a\n    b/0.tar.", "a b/0.tar", True),
        ("set train.batches", "train.batch", False),
        ("set train.batch: 3.", "train.batch … 3", True),
    ],
)
def test_marks_are_whole_words_in_order(text: str, marks: str, found: bool) -> None:
    assert tells(text, marks) == found
