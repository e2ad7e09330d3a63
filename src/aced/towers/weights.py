"""Local checkpoints into open_clip models: read safely, renamed as open_clip does, misfits told."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from aced.errors import AcedError
from aced.towers.compat import import_open_clip

_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 3


def load_weights(model: nn.Module, path: Path, name: str) -> None:
    """Load a checkpoint into an open_clip model; every weight must be there and have the right shape.

    Args:
        model: the open_clip model.
        path: .safetensors, or a file of `torch.save` with a state dict or `{"state_dict": ..}`. Pickled
            objects other than tensors and plain values are refused.
        name: the model, for the error messages.

    Raises:
        AcedError: the file is missing or unreadable, or its weights do not fit; the sentence names the first
            ones.
    """
    state = _renamed(model, read_state(path))
    own = model.state_dict()
    faults = [
        f"{key} is {_shape(state[key])} in the file and {_shape(own[key])} in the model"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults += [f"{key} is missing in the file" for key in own if key not in state]
    faults += [f"the model has no {key}" for key in state if key not in own]
    if faults:
        more = f", and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise AcedError(
            f"The weights in {path} do not fit the model '{name}': {'; '.join(faults[:_SHOWN])}{more}; "
            "give the checkpoint of this very architecture."
        )
    model.load_state_dict(state, strict=True)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a local file, prefixes of wrappers (`module.`) removed.

    Raises:
        AcedError: no such file, a damaged file, or a pickle with more than tensors and plain values in it.
    """
    if not path.is_file():
        raise AcedError(f"There is no checkpoint {path}; nothing is downloaded, so give the path of a local file.")
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError:
        raise AcedError(
            f"{path}: not a plain file of tensors (only `weights_only` files are opened, because others can "
            "run code); convert it to .safetensors."
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AcedError(f"{path}: the checkpoint cannot be read: {reason}") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise AcedError(f"{path}: neither a state dict nor a file with a 'state_dict' in it.")
    strays = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strays:
        raise AcedError(f"{path}: '{strays[0]}' is not a tensor; give a file that holds a model's state dict only.")
    return {_bare(str(key)): value for key, value in content.items()}


def _bare(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _renamed(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What open_clip's own loader does to old and foreign files, but for its silent resizing of positions."""
    open_clip = import_open_clip()
    state = open_clip.factory.convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = open_clip.factory.convert_to_custom_text_state_dict(state)
    for key in ("logit_scale", "logit_bias"):
        own = getattr(model, key, None)
        if own is not None and key in state and state[key].numel() == own.numel():
            state[key] = state[key].reshape(own.shape)
    if getattr(model, "logit_bias", None) is not None and "logit_bias" not in state and "logit_scale" in state:
        state["logit_bias"] = torch.zeros_like(state["logit_scale"])
    state.pop("text.transformer.embeddings.position_ids", None)
    return dict(state)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
