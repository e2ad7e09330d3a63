"""Training and evaluation mode of a model and its parts, and the state that a forward pass changes in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each submodule is back in its own mode."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The state that a forward pass in training changes, in each process according to its own pairs."""
    return [b for m in model.modules() if isinstance(m, _NormBase) for b in m.buffers(recurse=False)]
