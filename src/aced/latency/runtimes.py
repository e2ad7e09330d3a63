"""The runtimes for a model: torch eager and compiled, onnxruntime in fp32 and with 8-bit weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aced.errors import AcedError
from aced.export.onnxfiles import SIDES, file_of, session_of, write_graphs
from aced.models import Tower

TimedTower = Callable[[Tensor], Tensor]


class Ready(NamedTuple):
    """A callable model.

    Attributes:
        image: pixels `[B, 3, S, S]` float on the device, to features; returns when they are ready.
        text: ids `[B, T]` likewise.
        image_bytes: size of the image tower's weights.
        text_bytes: size of the text tower's.
    """

    image: TimedTower
    text: TimedTower
    image_bytes: int
    text_bytes: int


def _eager(tower: Tower, folder: Path) -> Ready:
    model: Any = tower.model
    return Ready(_waiting(model.encode_image, tower.device), _waiting(model.encode_text, tower.device), *_sizes(tower))


def _compiled(tower: Tower, folder: Path) -> Ready:
    model: Any = tower.model
    image, text = (torch.compile(encode, dynamic=False) for encode in (model.encode_image, model.encode_text))
    return Ready(_waiting(image, tower.device), _waiting(text, tower.device), *_sizes(tower))


def _onnx(tower: Tower, folder: Path, kind: str) -> Ready:
    if tower.device.type != "cpu":
        raise AcedError("onnxruntime is timed on a CPU only; use --device cpu.")
    if not (folder / file_of("text", kind)).is_file():
        write_graphs(tower, folder)
    paths = [folder / file_of(side, kind) for side in SIDES]
    image, text = (session_of(path) for path in paths)
    return Ready(image, text, *(path.stat().st_size for path in paths))


RUNTIMES: dict[str, Callable[[Tower, Path], Ready]] = {
    "eager": _eager,
    "compiled": _compiled,
    "onnx": partial(_onnx, kind="fp32"),
    "int8": partial(_onnx, kind="int8"),
}
"""How each prepares a tower, with torch's number of threads; it may keep files of the tower in the folder."""


def _waiting(encode: Callable[[Tensor], Tensor], device: torch.device) -> TimedTower:
    """The same without gradient; on a GPU it returns when the features are ready."""

    def call(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            features = encode(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return features

    return call


def halves(tower: Tower) -> tuple[int, int]:
    """The number of parameters of the image tower, and of the rest without the logit scale and bias."""
    image = _count(tower.model.visual.parameters())  # type: ignore[union-attr]
    loose = sum(getattr(tower.model, name, None) is not None for name in ("logit_scale", "logit_bias"))
    return image, _count(tower.model.parameters()) - image - loose


def _count(values: Any) -> int:
    return sum(value.numel() for value in values)


def _sizes(tower: Tower) -> tuple[int, int]:
    """Bytes of weights and statistics as saved, by tower."""
    image = _bytes(tower.model.visual)  # type: ignore[arg-type]
    return image, _bytes(tower.model) - image


def _bytes(module: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in module.state_dict().values())
