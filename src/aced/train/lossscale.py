"""The scale factor that keeps gradients within the range of fp16, adjusted on the device.

torch's own `GradScaler` asks the host at every step whether a gradient that is not finite only means that the factor is
too large. Here the norm of the whole gradient, which every rank has, answers it on the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from aced.train.sharding import gradients

_GROWTH, _BACKOFF = 2.0, 0.5
_SMALLEST = 1.0
"""After this many halvings no gradient would fit fp16: the run has diverged."""


class LossScale:
    """Multiplies losses, divides gradients, and searches for the largest factor with finite gradients.

    Args:
        device: where losses and gradients are.
        enabled: whether there is a factor at all; otherwise it does nothing.
        first: the initial factor.
        interval: steps without overflow after which it doubles.
    """

    def __init__(self, device: torch.device, *, enabled: bool, first: float = 2.0**16, interval: int = 2000) -> None:
        self.enabled, self.interval = enabled, interval
        self._factor = torch.full((), first, device=device)
        self._calm = torch.zeros((), dtype=torch.int64, device=device)  # steps since it changed

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss times the factor."""
        return loss * self._factor if self.enabled else loss

    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divide the gradients by the factor, in place."""
        if self.enabled:
            torch._foreach_mul_(gradients(parameters), self._factor.reciprocal())

    def overflowed(self, finite_loss: Tensor, finite_norm: Tensor) -> Tensor:
        """Bool, a scalar: whether a gradient only means that the factor is too large."""
        if not self.enabled:
            return torch.zeros_like(finite_loss)
        return finite_loss & ~finite_norm & (self._factor > _SMALLEST)

    def update(self, overflowed: Tensor, refused: Tensor) -> None:
        """Halve the factor after an overflow, double it after many steps without one, keep it if a step was refused."""
        if not self.enabled:
            return
        calm = self._calm + 1
        grows = calm >= self.interval
        factor = torch.where(overflowed, self._factor * _BACKOFF, self._factor)
        factor = torch.where(grows & ~overflowed, self._factor * _GROWTH, factor)
        calm = calm.masked_fill(overflowed | grows, 0)
        self._factor = torch.where(refused, self._factor, factor)
        self._calm = torch.where(refused, self._calm, calm)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; under the names of torch's `GradScaler`, as in older versions."""
        if not self.enabled:
            return {}
        return {
            "scale": self._factor.item(),
            "growth_factor": _GROWTH,
            "backoff_factor": _BACKOFF,
            "growth_interval": self.interval,
            "_growth_tracker": int(self._calm),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore the output of `state`, if both have a factor."""
        if self.enabled and state:
            self._factor.fill_(state["scale"])
            self._calm.fill_(state["_growth_tracker"])
            self.interval = state["growth_interval"]
