"""Train small CLIP and SigLIP models by choosing what they learn from.

The public names are loaded on first use, so that `import aced` and `aced --help` cost next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aced.core import losses as losses
    from aced.core.embeddings import Embeddings as Embeddings
    from aced.core.selection import Selection as Selection
    from aced.core.selection import select as select
    from aced.errors import AcedError as AcedError
    from aced.methods import METHODS as METHODS
    from aced.methods import Method as Method
    from aced.registering import register_distillation as register_distillation
    from aced.registering import register_loss as register_loss
    from aced.registering import register_method as register_method
    from aced.registering import register_score as register_score
    from aced.towers import Tower as Tower
    from aced.towers import load_tower as load_tower

__version__ = "0.1.0"

_HOME = {
    "losses": "aced.core.losses",
    "Embeddings": "aced.core.embeddings",
    "Selection": "aced.core.selection",
    "select": "aced.core.selection",
    "AcedError": "aced.errors",
    "METHODS": "aced.methods",
    "Method": "aced.methods",
    "register_distillation": "aced.registering",
    "register_loss": "aced.registering",
    "register_method": "aced.registering",
    "register_score": "aced.registering",
    "Tower": "aced.towers",
    "load_tower": "aced.towers",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aced' has no attribute '{name}'")
    module = importlib.import_module(_HOME[name])
    return module if _HOME[name].endswith("." + name) else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
