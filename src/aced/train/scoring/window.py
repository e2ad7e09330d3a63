"""Selection for a part of the run: the steps that select, and the pairs loaded for the others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from aced.pool.orders.order import Orders


@dataclass(frozen=True)
class Window:
    """The steps that select their batches; the others train on random ones.

    Attributes:
        first: the first step that selects, from 0.
        end: the step before which selection ends.
        batch: b, pairs of a random batch.
        ranks: processes that share it.
    """

    first: int
    end: int
    batch: int
    ranks: int

    @classmethod
    def of(cls, since: float, until: float, steps: int, batch: int, ranks: int) -> Window:
        """From shares of a run: step s selects if since <= s / steps < until."""
        return cls(math.ceil(since * steps - 1e-9), math.ceil(until * steps - 1e-9), batch, ranks)

    def holds(self, step: int) -> bool:
        """Whether step number `step` (from 0) selects."""
        return self.first <= step < self.end


class WindowedOrder(Orders):
    """An order whose steps outside the window load only b pairs, the first ones of each process's part.

    Super-batches are random, so these are a random batch, which depends only on (seed, step).

    Args:
        plain: the super-batches.
        inside: the pairs loaded of them at a step that selects.
        window: the steps that select.
    """

    uneven = True  # steps have different numbers

    def __init__(self, plain: Orders, inside: Orders, window: Window) -> None:
        self.n, self.batch, self.seed, self.steps_per_epoch = plain.n, plain.batch, plain.seed, plain.steps_per_epoch
        self._plain, self._inside, self._window = plain, inside, window

    def indices(self, step: int) -> Tensor:
        """As in `Orders`; `[b]` outside the window."""
        return self._inside.indices(step) if self._window.holds(step) else self._some(step, self._plain.indices(step))

    def epochs(self, step: int) -> Tensor:
        """As in `Orders`."""
        return self._inside.epochs(step) if self._window.holds(step) else self._some(step, self._plain.epochs(step))

    def parts(self, step: int, world: int) -> list[int]:
        """As in `Orders`."""
        if self._window.holds(step):
            return self._inside.parts(step, world)
        if step < self._window.first < self._window.end:
            # Lookup processes start now, before the loading processes are started and watched.
            self._inside.parts(self._window.first, world)
        each, more = divmod(self._window.batch, world)
        return [each + (rank < more) for rank in range(world)]

    def _some(self, step: int, values: Tensor) -> Tensor:
        ranks = self._window.ranks
        parts = values.split(self._plain.parts(step, ranks))
        return torch.cat([part[:share] for part, share in zip(parts, self.parts(step, ranks), strict=True)])
