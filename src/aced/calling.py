"""Packages that can be called: `aced.train(config)`, though `aced.train` is the package of the trainer."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    """A package whose calls go to the function of its name in `aced.api`, which is imported then."""

    def _function(self) -> Any:
        return getattr(importlib.import_module("aced.api"), self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **keys: Any) -> Any:
        return self._function()(*args, **keys)

    @property
    def __signature__(self) -> Any:
        import inspect

        return inspect.signature(self._function())


def callable_package(name: str) -> None:
    """Let a package of aced, which is being imported, be called."""
    sys.modules[name].__class__ = _Called
