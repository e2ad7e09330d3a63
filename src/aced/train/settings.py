"""The numbers of a step that stay fixed during a run."""

from __future__ import annotations

from dataclasses import dataclass

from aced.core.selection import Loss
from aced.core.selection_ranks import Scope
from aced.runtime.precision import Precision


@dataclass(frozen=True)
class StepSettings:
    """Numbers of a step; documented in `aced.config.sections`."""

    batch: int
    super_batch: int
    steps: int
    loss: Loss
    chunks: int
    temperature: float
    lr: float
    warmup: float
    clip: float
    micro_batch: int
    precision: Precision
    scope: Scope
    embedded_again: bool = False
    """Whether the training batch is embedded twice to save memory."""
    activations_again: bool = False
    """Whether activations are recomputed in the backward pass."""
