"""Train small CLIP and SigLIP models by choosing what they learn from.

The public names are loaded on first use, so that `import aced` and `aced --help` cost next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aced.moved import keep_old_names
from aced.version import __version__

if TYPE_CHECKING:
    from aced.api import Trained as Trained
    from aced.api import embed as embed
    from aced.api import evaluate as evaluate
    from aced.api import train as train
    from aced.config import Config as Config
    from aced.config import load_config as load_config
    from aced.config import make_config as make_config
    from aced.core import losses as losses
    from aced.core.embeddings import Embeddings as Embeddings
    from aced.core.selection import Selection as Selection
    from aced.core.selection import select as select
    from aced.core.selection_losses import select_losses as select_losses
    from aced.errors import AcedError as AcedError
    from aced.methods import METHODS as METHODS
    from aced.methods import Method as Method
    from aced.methods import register_method as register_method
    from aced.models import OwnTower as OwnTower
    from aced.models import Tower as Tower
    from aced.models import load_tower as load_tower
    from aced.models import own_tower as own_tower
    from aced.models import save_tower as save_tower
    from aced.pool.own import PairSource as PairSource
    from aced.pool.shards import open_shards as open_shards
    from aced.pool.source import Candidates as Candidates
    from aced.pool.source import Column as Column
    from aced.pool.source import Fault as Fault
    from aced.pool.source import Source as Source
    from aced.registry.doors import register_distillation as register_distillation
    from aced.registry.doors import register_loss as register_loss
    from aced.registry.doors import register_score as register_score
    from aced.registry.makers import Panel as Panel
    from aced.registry.makers import register_architectures as register_architectures
    from aced.registry.makers import register_panel as register_panel
    from aced.registry.makers import register_source as register_source
    from aced.registry.makers import register_task as register_task
    from aced.registry.makers import register_tower as register_tower
    from aced.registry.makers import register_tracker as register_tracker
    from aced.train.hook import Step as Step
    from aced.train.hook import StopTraining as StopTraining

keep_old_names()

_HOME = {
    "losses": "aced.core.losses",
    "Embeddings": "aced.core.embeddings",
    "Selection": "aced.core.selection",
    "select": "aced.core.selection",
    "select_losses": "aced.core.selection_losses",
    "AcedError": "aced.errors",
    "Config": "aced.config",
    "load_config": "aced.config",
    "make_config": "aced.config",
    "open_shards": "aced.pool.shards",
    "PairSource": "aced.pool.own",
    "Candidates": "aced.pool.source",
    "Column": "aced.pool.source",
    "Fault": "aced.pool.source",
    "Source": "aced.pool.source",
    "Step": "aced.train.hook",
    "StopTraining": "aced.train.hook",
    "Trained": "aced.api",
    "METHODS": "aced.methods",
    "Method": "aced.methods",
    "register_distillation": "aced.registry.doors",
    "register_loss": "aced.registry.doors",
    "register_method": "aced.methods",
    "register_score": "aced.registry.doors",
    "Panel": "aced.registry.makers",
    "register_architectures": "aced.registry.makers",
    "register_panel": "aced.registry.makers",
    "register_source": "aced.registry.makers",
    "register_task": "aced.registry.makers",
    "register_tower": "aced.registry.makers",
    "register_tracker": "aced.registry.makers",
    "Tower": "aced.models",
    "load_tower": "aced.models",
    "OwnTower": "aced.models",
    "own_tower": "aced.models",
    "save_tower": "aced.models",
    "embed": "aced.api",
    # Packages that can be called: each hands over to the function of its name in aced.api.
    "evaluate": "aced.evaluate",
    "train": "aced.train",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aced' has no attribute '{name}'")
    module = importlib.import_module(_HOME[name])
    return module if _HOME[name].endswith("." + name) else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
