"""Modules of users, as files, and tables that are afterwards as they were."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aced.methods import METHODS
from aced.registry.doors import parts


@contextlib.contextmanager
def tables_put_back() -> Iterator[None]:
    """What is registered inside is forgotten at the end, and so are the modules that are loaded."""
    tables: list[Any] = [METHODS, *parts()]
    before = [(dict(table), dict(table._origins)) for table in tables]
    modules, path = set(sys.modules), list(sys.path)
    try:
        yield
    finally:
        for table, (rows, origins) in zip(tables, before, strict=True):
            table.clear()
            table.update(rows)
            table._origins = origins
        for name in set(sys.modules) - modules:
            if name.startswith("mine"):
                del sys.modules[name]
        sys.path[:] = path


@pytest.fixture
def doors() -> Iterator[None]:
    """As `tables_put_back`, for a whole test."""
    with tables_put_back():
        yield


def module(folder: Path, name: str, text: str) -> str:
    """A module of a user in a folder; its name."""
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return name
