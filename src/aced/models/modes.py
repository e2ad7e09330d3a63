"""Training and evaluation mode of a model and of each of its parts, and what a forward pass changes in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each submodule's own mode back afterwards."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


def running_statistics(model: nn.Module) -> list[Tensor]:
    """What a forward pass in training changes of a model, in each process as its own pairs have it."""
    return [b for m in model.modules() if isinstance(m, _NormBase) for b in m.buffers(recurse=False)]
