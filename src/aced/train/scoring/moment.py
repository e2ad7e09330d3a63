"""The context of one step's choice, so that it need not know the trainer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aced.methods import Method
from aced.models import Tower
from aced.runs.ledger import Ledger
from aced.train.distributed import World
from aced.train.providers import Provider
from aced.train.settings import StepSettings


@dataclass(frozen=True)
class Moment:
    """The context of a step.

    Attributes:
        step: its number, from 0.
        world: the processes that select together.
        counts: number of candidates of each of them.
        positions: `[B]` positions in the source of all candidates.
        method: the row of the methods table.
        settings: numbers of the run.
        student: embeds candidates with its current weights.
        reference: embeds them too; None for a method without one.
        generator: of the draw.
        ledger: where time and FLOPs are counted.
        sources: `[B]` int64 on the CPU, the source of each candidate if each gets its own share; otherwise None.
    """

    step: int
    world: World
    counts: list[int]
    positions: Tensor
    method: Method
    settings: StepSettings
    student: Tower
    reference: Provider | None
    generator: torch.Generator
    ledger: Ledger
    sources: Tensor | None = None
