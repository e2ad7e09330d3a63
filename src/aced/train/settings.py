"""The numbers of a step that do not change during a run."""

from __future__ import annotations

from dataclasses import dataclass

from aced.config import Config
from aced.core.selection import Loss
from aced.core.selection_ranks import Scope
from aced.objectives import LOSSES
from aced.precision import Precision


@dataclass(frozen=True)
class Settings:
    """Numbers of a step; documented in `aced.config_sections`."""

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
    """Whether what gradients go through is computed again in the backward pass."""


def settings_of(config: Config, precision: Precision) -> Settings:
    """The numbers of a run that a step needs."""
    train, method = config.train, config.method
    return Settings(
        batch=train.batch,
        super_batch=config.super_batch,
        steps=train.steps,
        loss=LOSSES.find(method.loss).scores,
        chunks=method.chunks,
        temperature=method.temperature,
        lr=train.lr,
        warmup=train.warmup,
        clip=train.clip,
        micro_batch=train.micro_batch,
        precision=precision,
        scope=method.scope,
        embedded_again=train.grad_cache > 0,
        activations_again=train.activation_checkpointing,
    )
