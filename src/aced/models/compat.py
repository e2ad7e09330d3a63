"""Imports of torchvision, timm and open_clip on machines that lack torchvision's compiled operators.

A CPU build of torch beside a CUDA build of torchvision cannot load torchvision's shared library. Its Python side still
registers meta kernels for those operators and fails on import with `operator torchvision::nms does not exist`, and so
do open_clip and timm. Nothing here uses the operators; only their *names* must exist.
"""

from __future__ import annotations

import importlib
import re
import sys
import threading
from pathlib import Path
from types import ModuleType

import torch

from aced.registry.makers import ARCHITECTURES, made
from aced.registry.plugins import load_plugins

CONFIGS = Path(__file__).parent / "configs"
"""The folder with the paper's students as open_clip configs."""

_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_MAX_OPERATORS = 64

# A Library's definitions disappear when it is collected, so the one in use is kept for good.
_library: torch.library.Library | None = None
_lock = threading.RLock()  # a plugin that is loaded meanwhile may need open_clip too
_open_clip: ModuleType | None = None
_added: dict[str, Path] = {}


def ensure_torchvision() -> list[str]:
    """Make `import torchvision` work; returns the operators that had to be defined (usually none).

    The missing names come from the error messages, one per attempt. Any other failure of the import is raised
    unchanged.
    """
    defined: list[str] = []
    for _ in range(_MAX_OPERATORS):
        try:
            importlib.import_module("torchvision")
            return defined
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if missing is None or missing[1] in defined:
                raise
            _define(missing[1])
            defined.append(missing[1])
            _forget_half_imports()
    raise RuntimeError(f"torchvision: {_MAX_OPERATORS} operators are missing, the last one {defined[-1]}.")


def _define(name: str) -> None:
    """Give torchvision's operator `name` a schema (no kernel: calling it is still an error)."""
    global _library
    if _library is None:
        # FRAGMENT, not DEF: it also works if other code registered some of the operators.
        _library = torch.library.Library("torchvision", "FRAGMENT")
    _library.define(name + _SCHEMA)


def _forget_half_imports() -> None:
    """Drop the modules of a failed import, so that the next attempt runs them again."""
    for module in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[module]


def import_open_clip() -> ModuleType:
    """The `open_clip` module, with the architectures that other code has registered so far; cheap to call again."""
    global _open_clip
    with _lock:
        if _open_clip is None:
            ensure_torchvision()
            _open_clip = importlib.import_module("open_clip")
            from aced.models.joined_trunk import register_joined_trunks

            register_joined_trunks()
            _open_clip.add_model_config(CONFIGS)
            load_plugins()
        for name in ARCHITECTURES.keys() - _added.keys():
            _added[name] = made(ARCHITECTURES, name)
            _open_clip.add_model_config(_added[name])
    return _open_clip


def config_folders() -> tuple[Path, ...]:
    """The folders of architectures that open_clip lacks; their vision towers are then in timm's registry."""
    import_open_clip()
    return (CONFIGS, *_added.values())
