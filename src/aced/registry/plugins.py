"""Users' modules that register methods, losses and more: listed in `run.imports`, or installed as entry points."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from aced.errors import AcedError, reason_of

GROUP = "aced.plugins"
"""The group of entry points: each names a module, or a function of one that is called without arguments."""
COMMANDS = "aced.commands"
"""The group of entry points that add commands: each names a function of the `typer.Typer` application."""
LABORATORY = "aced.lab"
"""The plugin that comes with the package; without its folder the package works with fewer names."""
VARIABLE = "ACED_IMPORTS"
"""Further modules for every command, separated by commas."""


def load_laboratory(module: str = "") -> ModuleType | None:
    """Import the plugin that comes with the package, or a module of it; None if its folder is missing."""
    if importlib.util.find_spec(LABORATORY) is None:
        return None
    return importlib.import_module(LABORATORY + module)


def load_commands(app: Any) -> None:
    """Let installed packages add commands.

    Args:
        app: the `typer.Typer` application.

    Raises:
        AcedError: one of them fails.
    """
    for point in entry_points(group=COMMANDS):
        with _blaming(point):
            point.load()(app)


def load_plugins(names: Iterable[str] = ()) -> None:
    """Import the laboratory, installed plugins, the modules in `ACED_IMPORTS`, and then some modules; each once.

    Raises:
        AcedError: one of them does not exist, or fails.
    """
    load_laboratory()
    _load_installed()
    for name in filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))):
        _load(name, VARIABLE)
    for name in names:
        _load(name, "run.imports")


_begun = False


def _load_installed() -> None:
    global _begun
    if _begun:  # also by a plugin that is being loaded and itself needs open_clip
        return
    _begun = True
    try:
        for point in entry_points(group=GROUP):
            _load_point(point)
    except BaseException:
        _begun = False
        raise


def _load_point(point: EntryPoint) -> None:
    with _blaming(point):
        found = point.load()
        if not isinstance(found, ModuleType):
            found()


@contextmanager
def _blaming(point: EntryPoint) -> Iterator[None]:
    """An error inside names the package that installs the entry point."""
    try:
        yield
    except (Exception, SystemExit) as error:
        package = point.dist.name if point.dist is not None else "a package"
        raise AcedError(
            f"The plugin '{point.name}' that {package} installs fails ({_reason(error)}): repair or uninstall it."
        ) from error


def _load(name: str, key: str) -> None:
    """Import a module; the current folder is searched last."""
    if name.endswith(".py") or "/" in name:
        stem = name.removesuffix(".py").strip("./").replace("/", ".")
        raise AcedError(f"{key} names '{name}': write the module, as in `import {stem}`, instead of its file.")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise AcedError(
                f"{key} names '{name}', but there is no such module: Python looks in {here} and where it "
                "finds packages (PYTHONPATH)."
            ) from None
        raise AcedError(f"{key}: the module '{name}' fails ({_reason(error)}): repair it, or leave it out.") from error


def _reason(error: BaseException) -> str:
    if not isinstance(error, Exception):
        return f"it ends the program, {error!r}"
    return reason_of(error).rstrip(".")
