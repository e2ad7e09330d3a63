"""A small vision transformer with a two-step stem, made to learn fast on tiny images on a CPU.

It is registered in timm as `aced_stem_vit_xs`, `_s`, `_m` and `_l` (32 px), `_s64` and `_m64` (64 px) and `_l48`
(48 px), so that an open_clip config in JSON can name it (`timm_model_name`) and open_clip's own tools can build it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from aced.errors import AcedError

CONFIGS = Path(__file__).parent / "configs"
"""The folder of the family's open_clip configs and its word list."""
PATCH = 8
"""Side of an image token in pixels: a 4x4 patch, then a neighbourhood of 2x2 patches."""
_INNER = 4
_STEM = 48

SIZES: dict[str, dict[str, int]] = {
    "aced_stem_vit_xs": {"width": 32, "layers": 3, "heads": 1},
    "aced_stem_vit_s": {"width": 64, "layers": 3, "heads": 2},
    "aced_stem_vit_m": {"width": 96, "layers": 4, "heads": 3},
    "aced_stem_vit_l": {"width": 128, "layers": 5, "heads": 4},
    "aced_stem_vit_s64": {"width": 64, "layers": 3, "heads": 2, "image_size": 64},
    "aced_stem_vit_m64": {"width": 96, "layers": 4, "heads": 3, "image_size": 64},
    "aced_stem_vit_l48": {"width": 128, "layers": 5, "heads": 4, "image_size": 48},
}


class StemBlock(nn.Module):
    """A pre-norm transformer block with fused attention and a ReLU MLP: `[B, T, W]` to `[B, T, W]`."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, int(width * mlp_ratio))
        self.fc2 = nn.Linear(int(width * mlp_ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, width]` to the same shape."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.fc2(F.relu(self.fc1(self.norm2(x))))


class StemViT(nn.Module):
    """`[B, 3, H, W]` images, H and W divisible by 8, to `[B, width]` features.

    The stem is a 4x4 convolution of stride 4 to 48 channels, ReLU, and a 2x2 convolution of stride 2 to
    `width`, written as two matrix products, which is faster at this size on a CPU. A position embedding is
    learned for `image_size`; other sizes get it interpolated.

    Args:
        width: width of the tokens.
        layers: number of transformer blocks.
        heads: attention heads; must divide `width`.
        mlp_ratio: hidden width of the MLP over `width`.
        image_size: side in pixels that the position embedding is made for.
        num_classes: outputs of a linear head; 0 for none.
        global_pool: `avg` for mean pooling, `""` for the tokens themselves.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float = 2.0,
        image_size: int = 32,
        num_classes: int = 0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = self.embed_dim = width
        self.token_side = PATCH
        self.grid_size = (image_size // PATCH, image_size // PATCH)
        # Attributes that open_clip's TimmModel expects of a trunk; no pool_size: the features are already pooled.
        self.default_cfg = {"input_size": (3, image_size, image_size), "pool_size": None, "num_classes": 0}
        self.pretrained_cfg = self.default_cfg
        self.stem1 = nn.Linear(3 * _INNER**2, _STEM)
        self.stem2 = nn.Linear(4 * _STEM, width)
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid_size[0] * self.grid_size[1], width))
        self.blocks = nn.Sequential(*(StemBlock(width, heads, mlp_ratio) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head: nn.Module = nn.Identity()
        self.reset_classifier(num_classes, global_pool)
        self.grad_checkpointing = False
        self._initialise()

    def _initialise(self) -> None:
        """Fan-in scaled weights: at widths of 64 to 128 the usual std of 0.02 would start near zero."""
        depth = math.sqrt(2 * len(self.blocks))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                gain = 1.0 if name.endswith(("stem1", "qkv", "fc1", "head")) else math.sqrt(2.0)
                if name.endswith(("proj", "fc2")):
                    gain = 1.0 / depth
                nn.init.trunc_normal_(module.weight, std=gain / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.5)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head (0 classes: none) and, if given, the kind of pooling."""
        if global_pool is not None:
            if global_pool not in ("avg", ""):
                raise AcedError(f"aced_stem_vit: timm_pool is '{global_pool}'; use 'avg' or ''.")
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are matrices in shape only."""
        return {"pos_embed"}

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position embedding for `grid` (rows, columns) of tokens: `[1, rows * columns, width]`."""
        if grid == self.grid_size:
            return self.pos_embed
        square = self.pos_embed.reshape(1, *self.grid_size, -1).permute(0, 3, 1, 2)
        resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
        return resized.flatten(2).transpose(1, 2)

    def _patches(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """`[B, 3, H, W]` to `[B, tokens, 4, 48]`, each token's four 4x4 patches in a row; and the grid."""
        batch, channels, height, width = x.shape
        if height % PATCH or width % PATCH:
            raise AcedError(
                f"aced_stem_vit: image size {height}x{width} is not divisible by {PATCH}; set 'image_size' "
                "in the model config to a multiple of it."
            )
        rows, columns = height // PATCH, width // PATCH
        x = x.view(batch, channels, rows, 2, _INNER, columns, 2, _INNER)
        x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)
        return x.reshape(batch, rows * columns, 4, channels * _INNER**2), (rows, columns)

    def forward_features(self, x: Tensor) -> Tensor:
        """`[B, 3, H, W]` to the normalised tokens `[B, T, width]`, row by row."""
        patches, grid = self._patches(x)
        x = self.stem2(F.relu(self.stem1(patches)).flatten(2)) + self.positions(grid)
        if self.grad_checkpointing and torch.is_grad_enabled():
            x = checkpoint_sequential(self.blocks, len(self.blocks), x, use_reentrant=False)
        else:
            x = self.blocks(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens `[B, T, width]` to pooled features `[B, width]`, or the head's `[B, num_classes]`."""
        if self.global_pool == "avg":
            x = x.mean(dim=1)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images to features; see the class."""
        return self.forward_head(self.forward_features(x))


def register_stem_vits() -> None:
    """Register the sizes in timm (timm must be importable: call `ensure_torchvision` first)."""
    from timm.models import is_model, register_model

    for name, size in SIZES.items():
        if not is_model(name):
            register_model(_entrypoint(name, size))


def _entrypoint(name: str, size: Mapping[str, int]) -> Any:
    """The function that timm calls to build `name`."""

    def build(pretrained: bool = False, **options: Any) -> StemViT:
        if pretrained:
            raise AcedError(f"{name}: no pretrained weights exist; set 'timm_model_pretrained' to false.")
        # timm also passes arguments of its own models: pretrained_cfg, cache_dir and others.
        known = {"num_classes", "global_pool", "image_size", "mlp_ratio"}
        arguments: dict[str, Any] = {**size, **{k: v for k, v in options.items() if k in known}}
        return StemViT(**arguments)

    build.__name__ = build.__qualname__ = name
    build.__module__ = __name__
    return build
