"""Switches of a tower that change what it costs and not what it computes: compilation, activation checkpointing."""

from __future__ import annotations

from typing import Any

from torch import nn

from aced.errors import AcedError
from aced.models.tower import Tower


def compile_towers(tower: Tower, backend: str = "inductor") -> None:
    """Compile the image tower and the text transformer in place, at their first call.

    Names of parameters stay as they are. The text transformer sees texts of many lengths, and is compiled for any
    length once it has seen two.
    """
    model: Any = tower.model
    model.visual.compile(backend=backend)
    text = getattr(model, "text", model)
    getattr(text, "transformer", text).compile(backend=backend)


def checkpoint_activations(tower: Tower) -> None:
    """Keep the input of each transformer block only, and compute the rest anew in the backward pass.

    Raises:
        AcedError: the architecture cannot.
    """
    model: Any = tower.model
    try:
        trunk = getattr(model.visual, "trunk", None)
        if trunk is not None:  # open_clip's wrapper would only log that the trunk cannot
            trunk.set_grad_checkpointing(True)
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError):
        raise AcedError(
            f"train.activation_checkpointing: the architecture of '{tower.name}' cannot compute activations anew; "
            "leave it out, and use train.grad_cache to save memory."
        ) from None


def uneven_layer(tower: Tower, switch: str) -> str:
    """The kind of layer for which a switch changes what a training step computes, and not its rounding alone.

    Args:
        tower: the model.
        switch: `train.grad_cache` and `train.activation_checkpointing` show a layer that keeps statistics of batches
            other ones, or the same ones twice; `train.grad_cache` and `train.compile` have a layer that drops
            something at random drop something else. Any other key changes neither.

    Returns:
        The name of its class; empty where the tower has none.
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
