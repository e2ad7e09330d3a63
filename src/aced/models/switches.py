"""Switches that change the cost of a tower but not its results: compilation, activation checkpointing."""

from __future__ import annotations

from typing import Any

from torch import nn

from aced.errors import AcedError
from aced.models.tower import Tower


def compile_towers(tower: Tower, backend: str = "inductor") -> None:
    """Compile the image tower and the text transformer in place, at their first call.

    Parameter names stay unchanged. The text transformer gets texts of many lengths, and is compiled for any length once
    it has met two.
    """
    model: Any = tower.model
    model.visual.compile(backend=backend)
    text = getattr(model, "text", model)
    getattr(text, "transformer", text).compile(backend=backend)


def checkpoint_activations(tower: Tower) -> None:
    """Keep only the input of each transformer block, and recompute the rest in the backward pass.

    Raises:
        AcedError: the architecture does not support it.
    """
    model: Any = tower.model
    try:
        trunk = getattr(model.visual, "trunk", None)
        if trunk is not None:  # open_clip's wrapper would only log a missing support
            trunk.set_grad_checkpointing(True)
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError):
        raise AcedError(
            f"train.activation_checkpointing: the architecture of '{tower.name}' cannot recompute activations; "
            "leave it out, and use train.grad_cache to save memory."
        ) from None


def uneven_layer(tower: Tower, switch: str) -> str:
    """The kind of layer for which a switch changes the result of a training step, beyond rounding.

    Args:
        tower: the model.
        switch: `train.grad_cache` and `train.activation_checkpointing` give a layer with batch statistics other
            batches, or the same ones twice; `train.grad_cache` and `train.compile` change what a layer with random
            dropping drops. Any other key changes neither.

    Returns:
        The name of its class; empty if the tower has none.
    """
    averages = switch in ("train.grad_cache", "train.activation_checkpointing")
    draws = switch in ("train.grad_cache", "train.compile")
    for module in tower.modules():
        if averages and isinstance(module, nn.modules.batchnorm._BatchNorm):
            return type(module).__name__
        if draws and any(_is_share(getattr(module, name, None)) for name in ("p", "prob", "drop_prob", "dropout")):
            return type(module).__name__
    return ""


def _is_share(value: Any) -> bool:
    return isinstance(value, float) and value > 0
