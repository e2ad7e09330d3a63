"""Locked parts of a student: their weights stay fixed, they run in evaluation mode, and they get no gradient.

In training a locked part costs only its forward pass. `behind` is the share of a tower's forward pass that gradients
pass back through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from aced.errors import AcedError, nearest
from aced.models import text
from aced.models.flops import countable
from aced.models.modes import evaluating
from aced.models.tower import Tower

_IMAGE = "visual."
_OF_NEITHER = ("logit_scale", "logit_bias", "text_decoder.")


def lock(tower: Tower, parts: Sequence[str]) -> None:
    """Freeze parts of a tower from now on.

    Args:
        tower: the model.
        parts: `image`, `text`, or names of parameters or modules in its state dict, with `*`, `?` and `[0-5]` for
            several; a `!` in front marks one that is trained all the same. Later entries take precedence.

    Raises:
        AcedError: there is no such part, or nothing remains to train.
    """
    if not parts:
        return
    names = [name for name, _ in tower.model.named_parameters()]
    locked: set[str] = set()
    for part in parts:
        word = part.removeprefix("!")
        found = _named(word, names)
        if not found:
            towers = sorted({"image", "text", *(name.rpartition(".")[0] or name for name in names)})
            hint = nearest(word, towers)
            raise AcedError(
                f"train.lock: '{word}' is not a part of '{tower.name}'."
                + (hint if hint.startswith(" Did") else " Use image, text, or names in its state dict.")
            )
        locked = locked - found if part.startswith("!") else locked | found
    if all(name in locked or name in _OF_NEITHER for name in names):
        raise AcedError(
            f"train.lock = {list(parts)} leaves nothing of '{tower.name}' to train; exclude a part, as in "
            '["image", "text", "!visual.proj"].'
        )
    for name, parameter in tower.model.named_parameters():
        parameter.requires_grad_(name not in locked)
    tower.fixed = list(_fixed(tower.model))
    tower.behind = _behind_image(tower, locked, names), _behind_text(tower, locked, names)


def _named(word: str, names: Sequence[str]) -> set[str]:
    """The parameters that a word matches."""
    if word == "image":
        return {name for name in names if name.startswith(_IMAGE)}
    if word == "text":
        return {name for name in names if not name.startswith((_IMAGE, *_OF_NEITHER))}
    return {name for name in names if fnmatchcase(name, word) or fnmatchcase(name, f"{word}.*")}


def _fixed(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts of a module without any trained parameter."""
    for child in module.children():
        own = list(child.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            yield child
        else:
            yield from _fixed(child)


# -- what gradients go through ----------------------------------------------------------------------------------------


def _behind_image(tower: Tower, locked: set[str], names: Sequence[str]) -> float:
    def run() -> Tensor:
        side = tower.view.size
        return tower.embed_whole(torch.zeros(2, 3, side, side, device=tower.device, dtype=torch.uint8))

    return _behind(tower, _named("image", names), locked, run)


def _behind_text(tower: Tower, locked: set[str], names: Sequence[str]) -> float:
    def run() -> Tensor:
        ids = torch.ones(2, tower.context_length, dtype=torch.int64, device=tower.device)
        return text.encode(tower.model, ids, text.ending(tower.model))

    return _behind(tower, _named("text", names), locked, run)


def _behind(tower: Tower, own: set[str], locked: set[str], run: Callable[[], Tensor]) -> float:
    """The share of a tower's backward pass that remains if some of its parameters are locked, in FLOPs."""
    if own <= locked:
        return 0.0
    if not own & locked:
        return 1.0
    parameters = dict(tower.model.named_parameters())
    left = _backward(tower, run)
    try:
        for name in own:
            parameters[name].requires_grad_()
        whole = _backward(tower, run)
    finally:
        for name in own & locked:
            parameters[name].requires_grad_(False)
    return left / whole if whole else 1.0


def _backward(tower: Tower, run: Callable[[], Tensor]) -> int:
    """FLOPs of the backward pass of `run()`, by torch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    counter: Any = FlopCounterMode(display=False)
    with evaluating(tower), torch.enable_grad(), countable(), counter:
        made = run()
        forward = counter.get_total_flops()
        if made.requires_grad:
            made.sum().backward()
    tower.zero_grad(set_to_none=True)
    return int(counter.get_total_flops() - forward)
