"""The file of weights in a local copy of a hub folder, or why none is used."""

from __future__ import annotations

import re
from pathlib import Path

from aced.errors import AcedError
from aced.models.names import looks_like_weights

HUB_CONFIG = "open_clip_config.json"

NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""The names that open_clip prefers in a folder, in its order (`open_clip.factory._find_checkpoint_in_dir`)."""

INDEX = ".index.json"
"""The suffix that an index of weights in several files adds to the name of one."""
# Files that trainers leave beside weights.
_NO_WEIGHTS = re.compile(
    r"(training_args|optimizer|optim|scheduler|scaler|rng_state|random_states|trainer_state)([._-].*)?"
)
_SHOWN = 3


def hub_weights(folder: Path) -> Path | None:
    """The file of weights, or the index of several, in a folder with an `open_clip_config.json`; None if it has none.

    Raises:
        AcedError: there are files of weights, but none has a name that open_clip knows.
    """
    for name in NAMES:
        for path in (folder / name, folder / f"{name}{INDEX}"):
            if path.is_file():
                return path
    others = [
        path.name
        for path in sorted(folder.iterdir())
        if path.is_file() and looks_like_weights(path) and not _NO_WEIGHTS.match(path.name)
    ]
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise AcedError(
            f"{folder} holds {', '.join(others[:_SHOWN])}{more}, but no file of weights under a name that open_clip "
            f"knows ({NAMES[0]}, {NAMES[2]}, ...): name the right one as the checkpoint, or rename it."
        )
    return None
