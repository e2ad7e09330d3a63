"""A room never imports one above it, no modules import each other, and names are loaded only when used."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import aced

PACKAGE = Path(aced.__file__).parent
ORDER = (
    ("errors", "version", "calling", "moved"),
    ("core",),
    ("runtime",),
    ("files",),
    ("registry",),
    ("methods",),
    ("pool",),
    ("config",),
    ("models",),
    ("cache",),
    ("evaluate",),
    ("runs",),
    ("train",),
    ("train.run",),
    ("cost",),
    ("export",),
    ("latency",),
    ("report",),
    ("programs",),
    ("cli",),
    ("api",),
    ("lab",),
)
"""The rooms of the package from the ground up; those of one row import each other no more than those above them."""
CONFIG_READERS = {"config", "train.run", "cost", "programs", "cli", "api", "lab"}
"""Who may read a run's `Config`: below them, functions take what they need."""


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The absolute names that a module's import statements may load, wherever in it they stand.

    `from a import b` may load the module `a.b`, so that is what counts.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [above, node.module]))
            yield from (f"{module}.{name.name}" for name in node.names)


def modules(ring: str) -> list[Path]:
    """The files of `aced.<ring>`, a module or a package."""
    single = PACKAGE / f"{ring}.py"
    return [single] if single.exists() else sorted((PACKAGE / ring).rglob("*.py"))


def all_imports(path: Path) -> set[str]:
    """What a file of the package imports."""
    package = ".".join(["aced", *path.relative_to(PACKAGE).parent.parts])
    return set(imports(ast.parse(path.read_text(encoding="utf-8")), package))


def inside(name: str, rings: set[str]) -> bool:
    return any(name == ring or name.startswith(ring + ".") for ring in rings)


def test_the_reader_of_imports_sees_every_form() -> None:
    source = """
import aced.train
import numpy as np, aced.cli as c
from aced.lab import demo
from . import sibling
from .near import x
from ..up import y
def f():
    from aced.report.page import render
"""
    assert set(imports(ast.parse(source), "aced.pool")) == {
        "aced.train",
        "numpy",
        "aced.cli",
        "aced.lab.demo",
        "aced.pool.sibling",
        "aced.pool.near.x",
        "aced.up.y",
        "aced.report.page.render",
    }


def test_core_imports_torch_the_standard_library_and_itself() -> None:
    files = modules("core")
    assert len(files) >= 5
    for path in files:
        known = {"aced.core", "aced.errors", "torch", *sys.stdlib_module_names}
        strangers = {n for n in all_imports(path) if not inside(n, known)}
        assert not strangers, f"{path.name} imports {strangers}"


def room(name: str) -> str:
    """The room of a module: the longest name in `ORDER` that it lies in; the package itself lies in none."""
    short = name.removeprefix("aced").removeprefix(".")
    found = [one for row in ORDER for one in row if inside(short, {one})]
    return max(found, key=len, default="")


def test_no_room_imports_one_above_it() -> None:
    floors = {one: floor for floor, row in enumerate(ORDER) for one in row}
    wrong = [
        f"{name} imports {other}"
        for name, found in graph(PACKAGE).items()
        for other in found
        if room(name) and room(other) and room(name) != room(other) and floors[room(other)] >= floors[room(name)]
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_every_module_has_a_room() -> None:
    assert {name for name in graph(PACKAGE) if not room(name)} == {"aced", "aced.__main__"}


def test_only_those_that_build_runs_read_their_config() -> None:
    readers = {room(name) for name, found in graph(PACKAGE).items() if {"aced.config", "aced.config.sections"} & found}
    assert readers - {""} <= CONFIG_READERS


def graph(root: Path) -> dict[str, set[str]]:
    """The modules of the package at `root`, each with those that it imports, also for type checkers or when called."""
    paths = {".".join([root.name, *path.relative_to(root).with_suffix("").parts]): path for path in root.rglob("*.py")}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}

    def module(name: str) -> str:
        while name and name not in paths:
            name = name.rpartition(".")[0]
        return name

    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        names = imports(ast.parse(path.read_text(encoding="utf-8")), package)
        found[name] = {module(one) for one in names} - {"", name}
    return found


def cycle_within(modules: dict[str, set[str]], ring: str) -> list[str]:
    """Modules of `ring` that import each other in a circle, the first one once more at the end; or none."""
    mine = {name: {one for one in found if inside(one, {ring})} for name, found in modules.items()}
    try:
        TopologicalSorter({name: found for name, found in mine.items() if inside(name, {ring})}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other() -> None:
    modules = graph(PACKAGE)
    assert {"aced", "aced.train", "aced.train.step", "aced.models.tower", "aced.config"} <= modules.keys()
    assert not cycle_within(modules, "aced")


def test_a_cycle_that_runs_never_is_found_too(tmp_path: Path) -> None:
    sources = {
        "__init__": "from house.attic import x",
        "attic": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.cellar import y",
        "cellar": "def f():\n    from .stairs.step import z",
        "stairs/__init__": "",
        "stairs/step": "import house.attic, os",
    }
    for name, source in sources.items():
        (tmp_path / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "house" / f"{name}.py").write_text(source)
    modules = graph(tmp_path / "house")
    assert modules["house.cellar"] == {"house.stairs.step"}
    assert set(cycle_within(modules, "house")) == {"house.attic", "house.cellar", "house.stairs.step"}
    assert not cycle_within(modules, "house.stairs")


def public_classes(path: Path) -> set[str]:
    """The public classes and named types that a module defines."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {one.id for one in targets if isinstance(one, ast.Name) and not one.id.isupper()}
    return {name for name in found if not name.startswith("_")}


def clashes(root: Path) -> dict[str, list[str]]:
    """Names that several modules, or public classes of several modules, share, each with where it stands."""
    places: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.py")):
        where = path.relative_to(root).as_posix()
        if not path.stem.startswith("__"):
            places.setdefault(f"{path.stem}.py", []).append(where)
        for name in public_classes(path):
            places.setdefault(name, []).append(where)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_one_name_means_one_thing() -> None:
    assert not clashes(PACKAGE)


def test_names_that_clash_are_found(tmp_path: Path) -> None:
    for place, source in {
        "a/rooms.py": "class Door: pass\nWIDTH = 1",
        "b/rooms.py": "Key = int\nWIDTH = 2\n_own = 1",
        "b/walls.py": "class Door: pass\nKey: type = str\n_own = 2",
    }.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(source, encoding="utf-8")
    assert clashes(tmp_path) == {
        "rooms.py": ["a/rooms.py", "b/rooms.py"],
        "Door": ["a/rooms.py", "b/walls.py"],
        "Key": ["b/rooms.py", "b/walls.py"],
    }


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that are loaded after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_core_needs_nothing_but_torch() -> None:
    core = [f"aced.core.{p.stem}" for p in modules("core") if p.stem != "__init__"]
    extra = loaded_by(f"import {', '.join(core)}") - loaded_by("import torch") - set(sys.stdlib_module_names)
    assert "aced" in extra
    # Parts of torch may load more of torch's own dependencies on first use, but none of these.
    assert not extra & {
        "open_clip", "timm", "torchvision", "PIL", "pydantic", "rich", "typer", "jinja2", "matplotlib",
        "safetensors", "simplejpeg", "scipy",
    }  # fmt: skip


def test_importing_the_package_is_light() -> None:
    loaded = loaded_by("import aced")
    assert "aced" in loaded
    assert loaded - loaded_by("pass") - set(sys.stdlib_module_names) == {"aced"}


def test_public_names_are_loaded_on_first_use() -> None:
    light = "import aced; aced.__version__; dir(aced)"
    assert "torch" not in loaded_by(light)
    assert "torch" not in loaded_by("from aced import AcedError")
    assert "torch" in loaded_by("import aced; aced.select")


def test_every_public_name_is_there() -> None:
    code = "import aced\nfor name in aced.__all__: assert getattr(aced, name) is not None, name"
    assert "aced" in loaded_by(code)
    assert "aced" in loaded_by("from aced import *; select, METHODS, Embeddings, load_tower, losses")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'aced' has no attribute 'selekt'"):
        _ = aced.selekt
