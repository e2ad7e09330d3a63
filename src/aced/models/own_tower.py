"""A `Tower` around a model from outside open_clip: it needs three members and a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import nn

from aced.errors import AcedError
from aced.models.architecture import mark_of
from aced.models.recipes import OWN
from aced.models.tokenizers import Tokenizer
from aced.models.tower import Tower

_MEMBERS = ("encode_image", "encode_text", "logit_scale")


class OwnTower(Tower):
    """A model of your own with its preprocessing and tokenizer, as student or as reference; see `own_tower`."""

    def _computation_mark(self) -> str:
        """By class names and the printed structure: all that torch knows of a model beyond its weights."""
        return mark_of({"class": code_of(self), "structure": repr(self.model)})


class PixelWords(TypedDict, total=False):
    """The keywords of `own_tower` about pixels, see `Pixels`."""

    mean: Sequence[float]
    std: Sequence[float]
    resize_mode: str
    interpolation: str


@dataclass(frozen=True)
class Pixels:
    """The pixel format of your own model; `own_tower` documents each field."""

    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"


def own_tower(
    model: nn.Module,
    tokenizer: Tokenizer,
    *,
    name: str,
    width: int,
    image_size: int,
    context_length: int,
    **pixels: Unpack[PixelWords],
) -> OwnTower:
    """A `Tower` around a module.

    Args:
        model: has `encode_image(pixels)`, `[B, 3, S, S]` float after mean and std to `[B, width]`; `encode_text(ids)`,
            `[B, context_length]` int64 to `[B, width]`; `logit_scale`, a scalar parameter or buffer, the logarithm of
            the scale; and, for the sigmoid loss, `logit_bias`, a scalar. Embeddings are normalised here.
        tokenizer: B texts to `[B, context_length]` int64 ids.
        name: its name in messages.
        width: d, the dimension of the embeddings.
        image_size: S.
        context_length: length of the texts, in tokens.
        mean: of each channel, for pixels from 0 to 1; 0.5 by default.
        std: likewise.
        resize_mode: `shortest`, the default, which crops the centre, or `squash`.
        interpolation: `bicubic`, the default, or `bilinear`.

    Raises:
        AcedError: a member is missing, or the model returns another shape for two pairs.
    """
    missing = [member for member in _MEMBERS if not hasattr(model, member)]
    if missing:
        raise AcedError(
            f"The model '{name}' has no {missing[0]}: own_tower needs {', '.join(_MEMBERS)} (and logit_bias for the "
            "sigmoid loss); wrap it in a small module that has them."
        )
    asked = Pixels(**pixels)
    preprocess: dict[str, Any] = {
        "size": image_size,
        "mean": list(asked.mean),
        "std": list(asked.std),
        "interpolation": asked.interpolation,
        "resize_mode": asked.resize_mode,
    }
    tower = OwnTower(name, model, {"embed_dim": width}, preprocess, tokenizer, context_length)
    _check(tower)
    return tower


def _check(tower: OwnTower) -> None:
    """Embed two pairs in evaluation mode as a test."""
    name, size, was = tower.name, tower.view.size, tower.training
    tower.eval()
    try:
        with torch.no_grad():
            given = {
                "encode_image": tower.embed_image(torch.zeros(2, 3, size, size, dtype=torch.uint8)),
                "encode_text": tower.embed_text(["a", "a picture"]),
            }
    except AcedError:
        raise
    except Exception as error:
        raise AcedError(f"The model '{name}' cannot embed two pairs ({type(error).__name__}: {error}).") from error
    finally:
        tower.train(was)
    for member, found in given.items():
        if found.shape != (2, tower.width):
            raise AcedError(
                f"The model '{name}': {member} of two gives {list(found.shape)}; [2, {tower.width}] is needed."
            )


def described(tower: OwnTower) -> dict[str, Any]:
    """The entry for such a tower in a saved folder, beside its weights."""
    return {
        "name": tower.name,
        OWN: code_of(tower),
        "preprocess_cfg": tower.preprocess,
        "fingerprint": tower.fingerprint(),
        "architecture": tower.identity()["architecture"],
    }


def code_of(tower: Tower) -> str:
    """The class of a tower's model, with its module."""
    kind = type(tower.model)
    return f"{kind.__module__}.{kind.__qualname__}"
