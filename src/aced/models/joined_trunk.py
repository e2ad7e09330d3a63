"""A vision tower of several timm trunks side by side: their pooled features, concatenated and projected together.

It is registered in timm as `aced_efficientnet_lite012`, so an open_clip JSON config can name it (`timm_model_name`) and
the folder of such a tower loads like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aced.errors import AcedError

TRUNKS: dict[str, tuple[str, ...]] = {
    "aced_efficientnet_lite012": ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2"),
}


class JoinedTrunk(nn.Module):
    """`[B, 3, H, W]` images to `[B, F]` features, concatenated in the order of the trunks.

    Args:
        names: timm models, which all see the same image.

    Attributes:
        num_features: F, the sum of the trunks' numbers of pooled features.
        default_cfg: timm's entry for the first trunk.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        import timm

        self.trunks = nn.ModuleList(timm.create_model(name, num_classes=0) for name in names)
        parts: list[Any] = list(self.trunks)
        self.default_cfg: dict[str, Any] = dict(parts[0].default_cfg)
        self.num_features = sum(part.num_features for part in parts)

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """As in timm's models; there is no classifier to begin with.

        Raises:
            ValueError: a classifier was requested.
        """
        if num_classes:
            raise ValueError("trunks side by side have no classifier: set 'timm_proj' to linear or mlp")
        trunks: list[Any] = list(self.trunks)
        for trunk in trunks:
            trunk.reset_classifier(0, global_pool)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` to `[B, F]`."""
        return torch.cat([trunk(images) for trunk in self.trunks], dim=1)


def register_joined_trunks() -> None:
    """Add the names to timm's registry (timm must be importable: call `ensure_torchvision` first)."""
    from timm.models import is_model, register_model

    for name, parts in TRUNKS.items():
        if not is_model(name):
            register_model(_entrypoint(name, parts))


def _entrypoint(name: str, parts: Sequence[str]) -> Any:
    """The function that timm calls to build `name`."""

    def build(pretrained: bool = False, **_: Any) -> JoinedTrunk:  # timm also passes arguments of its own models
        if pretrained:
            raise AcedError(f"{name}: no pretrained weights exist; set 'timm_model_pretrained' to false.")
        return JoinedTrunk(parts)

    build.__name__ = build.__qualname__ = name
    build.__module__ = __name__
    return build
