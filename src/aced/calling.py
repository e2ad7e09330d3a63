"""Callable packages: `aced.train(config)`, although `aced.train` is the package of the trainer."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    """A package that, when called, calls the function of its name in `aced.api`, imported on the first call."""

    def _function(self) -> Any:
        return getattr(importlib.import_module("aced.api"), self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **keys: Any) -> Any:
        return self._function()(*args, **keys)

    @property
    def __signature__(self) -> Any:
        import inspect

        return inspect.signature(self._function())


def callable_package(name: str) -> None:
    """Make a package of aced callable while it is being imported."""
    sys.modules[name].__class__ = _Called
