"""What benchmarks, examples and the scripts of the pages import from the package is there, also inside functions."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [path for folder in ("benchmarks", "examples", "docs") for path in sorted((ROOT / folder).glob("*.py"))]


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Modules of the package, each with a name that is taken from it; an empty one for the module itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "aced":
            yield from ((str(node.module), name.name) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names if name.name.partition(".")[0] == "aced")


def is_there(module: str, name: str) -> bool:
    try:
        found = importlib.import_module(module)
        return not name or hasattr(found, name) or bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


@pytest.mark.filterwarnings("error::FutureWarning")  # a name of an earlier version
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_a_script_imports_is_there(script: Path) -> None:
    names = set(imported(ast.parse(script.read_text(encoding="utf-8"))))
    assert not {pair for pair in names if not is_there(*pair)}


def test_what_is_not_there_is_found() -> None:
    source = "def f():\n    from aced.train.settings import EmbedSettings, StepSettings\n    import aced.nothing"
    assert {pair for pair in imported(ast.parse(source)) if not is_there(*pair)} == {
        ("aced.train.settings", "EmbedSettings"),
        ("aced.nothing", ""),
    }
