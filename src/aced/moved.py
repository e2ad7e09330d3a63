"""Module names of version 0.1: each still imports, with a warning that names its new place.

They will be removed in version 0.3. Those of `aced.embed` are missing already: `aced.embed` is a function now.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "aced.core.ledger": "aced.runs.ledger",
    "aced.data": "aced.pool",
    "aced.data.atomic": "aced.files.atomic",
    "aced.data.captions": "aced.pool.captions",
    "aced.data.memory": "aced.pool.inmemory",
    "aced.data.own": "aced.pool.own",
    "aced.data.scenes": "aced.lab.scenes",
    "aced.data.shards": "aced.pool.shards",
    "aced.data.source": "aced.pool.source",
    "aced.data.store": "aced.cache.store",
    "aced.data.views": "aced.pool.views",
    "aced.demo": "aced.lab.demo",
    "aced.demo.recipe": "aced.lab.demo.rows",
    "aced.devices": "aced.runtime.devices",
    "aced.evaluate.embedder": "aced.evaluate.task_embedder",
    "aced.evaluate.folder": "aced.evaluate.task_folders",
    "aced.evaluate.metrics": "aced.evaluate.zeroshot_metrics",
    "aced.makers": "aced.registry.makers",
    "aced.objectives": "aced.registry.objectives",
    "aced.plugins": "aced.registry.plugins",
    "aced.precision": "aced.runtime.precision",
    "aced.progress": "aced.runtime.progress",
    "aced.registering": "aced.registry.doors",
    "aced.report.records": "aced.runs.run_results",
    "aced.towers": "aced.models",
    "aced.towers.compat": "aced.models.compat",
    "aced.towers.flops": "aced.models.flops",
    "aced.towers.loading": "aced.models.model_loading",
    "aced.towers.own": "aced.models.own_tower",
    "aced.towers.recipes": "aced.models.recipes",
    "aced.towers.tokenizers": "aced.models.tokenizers",
    "aced.towers.tower": "aced.models.tower",
    "aced.train.fit": "aced.train.run.fit",
    "aced.train.inputs": "aced.train.run.inputs",
    "aced.train.program": "aced.programs.train",
    "aced.train.student": "aced.train.run.student",
    "aced.train.trackers": "aced.runs.trackers",
    "aced.train.trackers.tracker": "aced.runs.trackers.tracker",
}
"""Old module names that the documents of version 0.1 mention or that users may have needed, and the new ones."""


class _Stand(ModuleType):
    """A module under its old name, with the contents of the new one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(MOVED[self.__name__]), name)


class _OldNames(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if name not in MOVED:
            return None
        return ModuleSpec(name, self, is_package=any(one.startswith(f"{name}.") for one in MOVED))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Stand(spec.name, importlib.import_module(MOVED[spec.name]).__doc__)

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        # A FutureWarning is visible by default; a DeprecationWarning would be hidden in a user's own modules.
        warnings.warn(f"{old} is now {MOVED[old]}; the old name ends with version 0.3.", FutureWarning, stacklevel=2)


def keep_old_names() -> None:
    """Make the old names importable; one call is enough."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
