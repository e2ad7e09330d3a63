"""The patch tokens of a vision tower before pooling, for models that attend to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aced.errors import AcedError
from aced.models.compat import import_open_clip
from aced.models.modes import evaluating
from aced.models.tower import Tower


def encode_tokens(tower: Tower, images: Tensor) -> Tensor:
    """The patch tokens of a tower's images, as they enter its pooling; without gradient, in evaluation mode.

    Class and register tokens are left out. Supported: open_clip's `VisionTransformer` and timm's towers (the demo
    family is one of those); a feature map of a convolutional tower counts as H x W tokens.

    Args:
        tower: any `Tower`.
        images: `[B, 3, S, S]` uint8 in the tower's view.

    Returns:
        `[B, T, W]` float32: T tokens of width W, row by row.

    Raises:
        AcedError: the vision tower is of another kind, or does not return tokens.
    """
    visual: nn.Module = tower.model.visual  # type: ignore[assignment]
    with evaluating(tower), torch.no_grad():
        pixels = tower.pixels(images)
        if isinstance(visual, import_open_clip().transformer.VisionTransformer):
            return _open_clip(visual, pixels).float()
        trunk = getattr(visual, "trunk", None)
        if isinstance(trunk, nn.Module) and hasattr(trunk, "forward_features"):
            return _timm(tower.name, trunk, pixels).float()
    raise AcedError(
        f"The patch tokens of '{tower.name}' are not accessible: its vision tower is a {type(visual).__name__}; use a "
        "model with open_clip's VisionTransformer or a timm tower."
    )


def _open_clip(visual: nn.Module, pixels: Tensor) -> Tensor:
    """The last block's tokens, normalised if the tower does so before pooling."""
    before = visual.attn_pool is None and not visual.final_ln_after_pool
    found = visual.forward_intermediates(  # type: ignore[operator]
        pixels, indices=1, normalize_intermediates=before, intermediates_only=True, output_fmt="NLC"
    )
    return found["image_intermediates"][-1]


def _timm(name: str, trunk: nn.Module, pixels: Tensor) -> Tensor:
    """The output of a timm model's `forward_features`, as tokens."""
    features = trunk.forward_features(pixels)  # type: ignore[operator]
    width = int(trunk.num_features)  # type: ignore[arg-type]
    if features.ndim == 3 and features.shape[2] == width:
        return features[:, int(getattr(trunk, "num_prefix_tokens", 0)) :]
    if features.ndim == 4 and features.shape[1] == width:
        return features.flatten(2).transpose(1, 2)
    if features.ndim == 4 and features.shape[3] == width:
        return features.flatten(1, 2)
    raise AcedError(
        f"The vision tower of '{name}' returns features of shape {tuple(features.shape)}, not tokens of width {width}: "
        "its patch tokens cannot be read; use another model."
    )
