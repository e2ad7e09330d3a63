"""Google's own SigLIP checkpoints: numpy archives as big_vision writes them, loaded by open_clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from aced.errors import AcedError
from aced.models.compat import import_open_clip


@dataclass(frozen=True)
class BigVision:
    """A file of arrays that has not been read yet."""

    path: Path


def load_big_vision(model: nn.Module, file: BigVision, name: str) -> None:
    """Load such a file into an open_clip model.

    Raises:
        AcedError: the file holds another model, or none.
    """
    path = file.path
    try:
        with np.load(path, allow_pickle=False) as arrays:
            root = "params/" if "params/b" in arrays else ""
            names = [key for key in arrays.files if key.startswith((f"{root}img/", f"{root}txt/"))]
            names += [f"{root}b", f"{root}t"]
            # open_clip copies the arrays that it knows; comparing the sizes shows whether that is all of both.
            inside = sum(math.prod(arrays[key].shape) for key in names)
        if not {f"{root}img/embedding/kernel", f"{root}txt/Embed_0/embedding"} <= set(names):
            raise KeyError(f"{root}img/embedding/kernel")
    except (KeyError, ValueError, OSError):
        raise AcedError(
            f"{path}: this numpy archive is not one of big_vision's SigLIP models; use the PyTorch "
            "weights of the same model."
        ) from None
    wanted = sum(value.numel() for value in model.state_dict().values())
    if inside != wanted:
        raise AcedError(
            f"The weights in {path} do not fit the model '{name}': they are {inside:,} numbers and it has {wanted:,}; "
            "name the architecture of this checkpoint (such as ViT-B-16-SigLIP)."
        )
    try:
        import_open_clip().convert.load_big_vision_weights(model, str(path))
    except (KeyError, AttributeError, RuntimeError, AssertionError, TypeError, IndexError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise AcedError(
            f"The weights in {path} do not fit the model '{name}' ({reason}); name the architecture of this "
            "checkpoint (such as ViT-B-16-SigLIP)."
        ) from None
