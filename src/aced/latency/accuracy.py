"""The effect of a runtime's rounding on scores: the same model scored by each runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.evaluate.tasks import Task
from aced.evaluate.zeroshot import average, evaluate
from aced.latency.runtimes import RUNTIMES, Ready
from aced.models import Tower


class _Run:
    """A model computed by a runtime, with the inputs of its tower."""

    def __init__(self, tower: Tower, ready: Ready) -> None:
        self.view, self.device = tower.view, tower.device
        self._tower, self._ready = tower, ready

    def embed_image(self, images: Tensor) -> Tensor:
        """`[B, 3, S, S]` uint8 to `[B, d]` of length 1."""
        return F.normalize(self._ready.image(self._tower.pixels(images)), dim=-1)

    def embed_text(self, texts: list[str]) -> Tensor:
        """B texts to `[B, d]` of length 1."""
        return F.normalize(self._ready.text(self._tower.tokenizer(texts).to(self.device)), dim=-1)


def score(tower: Tower, runtime: str, tasks: Sequence[Task], folder: Path) -> float:
    """The average over the tasks, in percent, of a tower by a runtime; the folder is the runtime's.

    Raises:
        AcedError: the runtime cannot run the model, or tasks share a name or are broken.
    """
    with torch.no_grad():
        return average(evaluate(_Run(tower, RUNTIMES[runtime](tower, folder)), tasks))
