"""Loading local checkpoints into open_clip models: renamed as by open_clip, misfits reported."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from aced.errors import AcedError
from aced.models.bigvision import BigVision, load_big_vision
from aced.models.checkpoints import read_checkpoint
from aced.models.compat import import_open_clip
from aced.models.statedicts import pick_state

_SHOWN = 3
OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")
"""Three numbers that OpenAI's files hold beside the weights."""
# Left by `torch.optim.swa_utils.AveragedModel`, and by transformers before 4.31.
_NO_WEIGHTS = (*OPENAI_KEYS, "n_averaged", "text.transformer.embeddings.position_ids")
_TRANSFORMERS = re.compile(r"(^|\.)(text_model|vision_model|visual_projection)\.")
_POSITIONS = re.compile(r"(^|\.)(positional_embedding|pos_embed)$")


@dataclass(frozen=True)
class Loaded:
    """Findings in a checkpoint besides the weights.

    Attributes:
        notes: sentences that a user should read.
        bias: a logit bias that the model lacked, and now has.
        openai: whether it had OpenAI's own keys.
        unbiased: whether it had no logit bias; the model's bias is then 0, as in open_clip.
    """

    notes: tuple[str, ...] = ()
    bias: float | None = None
    openai: bool = False
    unbiased: bool = False


def load_weights(model: nn.Module, path: Path, name: str, key: str = "") -> Loaded:
    """Load a checkpoint into an open_clip model; every weight must be there and have the right shape.

    A model without a logit bias gets the file's.

    Args:
        model: the open_clip model.
        path: see `read_checkpoint`; its state dict may be in wrappers and have their prefixes.
        name: the model, for the error messages.
        key: which of several sets of weights in the file to use; empty: the model itself.

    Raises:
        AcedError: the file is missing or unreadable, it has no such set, or its weights do not fit; the sentence
            names the first ones.
    """
    content = read_checkpoint(path)
    if isinstance(content, BigVision):
        added = _take_bias(model, {"logit_bias": torch.zeros(1)}) is not None
        load_big_vision(model, content, name)
        return Loaded(bias=float(model.state_dict()["logit_bias"]) if added else None)
    state, notes = pick_state(content, set(model.state_dict()), path, key)
    if any(_TRANSFORMERS.search(key) for key in state):
        raise AcedError(
            f"{path}: its weights are in the layout of Hugging Face's transformers (text_model., vision_model.), "
            "but of no CLIP or SigLIP model in it; use the open_clip file of the same model."
        )
    openai = all(key in state for key in OPENAI_KEYS)
    bias = _take_bias(model, state)
    state = _renamed(model, state)
    unbiased = "logit_bias" not in state
    if unbiased and getattr(model, "logit_bias", None) is not None and "logit_scale" in state:
        state["logit_bias"] = torch.zeros_like(state["logit_scale"])
    if faults := _misfits(model.state_dict(), state):
        more = f", and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise AcedError(
            f"The weights in {path} do not fit the model '{name}': {'; '.join(faults[:_SHOWN])}{more}; "
            f"{_remedy(path, model.state_dict(), state)}."
        )
    model.load_state_dict(state, strict=True)
    return Loaded(tuple(notes), bias, openai, unbiased)


def start_bias(model: nn.Module, bias: float, log_scale: float) -> None:
    """Set the logit bias and scale of a model, even if it has no bias yet."""
    scale: Tensor = model.logit_scale  # type: ignore[assignment]
    with torch.no_grad():
        scale.fill_(log_scale)
        model.logit_bias = nn.Parameter(torch.full_like(scale, bias))


def _take_bias(model: nn.Module, state: dict[str, Tensor]) -> float | None:
    """Give a model without a logit bias that of a state dict; returns the value if it did."""
    bias = state.get("logit_bias")
    if bias is None or bias.numel() != 1 or getattr(model, "logit_bias", bias) is not None:
        return None
    value = float(bias)
    scale: Tensor = model.logit_scale  # type: ignore[assignment]
    model.logit_bias = nn.Parameter(torch.full_like(scale, value))
    return value


def _renamed(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What open_clip's own loader does to old and foreign files, except its silent resizing of positions."""
    open_clip = import_open_clip()
    own = model.state_dict()
    state = {key: value for key, value in state.items() if key in own or key not in _NO_WEIGHTS}
    state = open_clip.factory.convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = open_clip.factory.convert_to_custom_text_state_dict(state)
    for key in ("logit_scale", "logit_bias"):
        if key in own and key in state and state[key].numel() == own[key].numel():
            state[key] = state[key].reshape(own[key].shape)
    return dict(state)


def _misfits(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """The reasons why a state dict does not fit, one clause each."""
    faults = [
        f"{key} is {_shape(state[key])} in the file and {_shape(own[key])} in the model"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults += [f"{key} is missing in the file" for key in own if key not in state]
    return faults + [f"the model has no {key}" for key in state if key not in own]


def _remedy(path: Path, own: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """What to do about weights that do not fit."""
    part = re.search(r"-(\d+)-of-(\d+)\.\w+$", path.name)
    if part:
        return f"it is file {int(part[1])} of {int(part[2])}: name the index of all of them (.index.json)"
    other = [key for key in own if key in state and state[key].shape != own[key].shape]
    if own.keys() == state.keys() and other and all(_POSITIONS.search(key) for key in other):
        hints = [hint for key in other if (hint := _size_hint(key, own, state))]
        return "; ".join(hints) or "they belong to another image size or text length: set image_size or context_length"
    return "use a checkpoint of this architecture"


def _size_hint(key: str, own: dict[str, Tensor], state: dict[str, Tensor]) -> str | None:
    """The config key to set for a position embedding of another length."""
    if not key.startswith("visual."):
        return f"set text_cfg.context_length to {state[key].shape[-2]} in a JSON config"
    patch = own.get("visual.conv1.weight")
    side = math.isqrt(state[key].shape[-2] - 1)
    if patch is None or side**2 + 1 != state[key].shape[-2]:
        return None
    return f"they belong to another image size: set vision_cfg.image_size to {side * patch.shape[-1]} in a JSON config"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
