"""FLOPs of one forward pass: a formula for open_clip's transformers, torch's counter for everything else.

A multiply-add counts as 2. Only matrix products and convolutions count, as in torch's `FlopCounterMode`; a test
enforces that the formula equals the counter exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from aced.models import text
from aced.models.modes import evaluating


class Flops(NamedTuple):
    """FLOPs of one forward pass per sample, by tower."""

    image: int
    text: int

    @property
    def total(self) -> int:
        """Image and text together."""
        return self.image + self.text


class Counted(Protocol):
    """The part of a `Tower` that is counted."""

    model: nn.Module
    mean: Tensor

    def embed_whole(self, images: Tensor) -> Tensor:
        """`[B, 3, S, S]` uint8 to `[B, d]`."""
        ...


def transformer_flops(tokens: int, width: int, layers: int, hidden: int) -> int:
    """A transformer over T tokens: projections 8 T W^2, MLP 4 T W H and attention 4 T^2 W per layer."""
    return layers * (8 * tokens * width**2 + 4 * tokens * width * hidden + 4 * tokens**2 * width)


def count_image(tower: Counted, side: int) -> int:
    """FLOPs of the image tower for one image of `side` pixels."""
    visual: Any = getattr(tower.model, "visual", None)
    if type(visual).__name__ == "VisionTransformer" and visual.attn_pool is None and _plain(visual.transformer):
        patch = visual.patch_size[0] * visual.patch_size[1]
        patches = (side // visual.patch_size[0]) * (side // visual.patch_size[1])
        width = visual.conv1.out_channels
        flops = _resblocks(visual.transformer, patches + 1) + 2 * patches * 3 * patch * width
        return flops + _projection(visual.proj)
    images = torch.zeros(2, 3, side, side, device=tower.mean.device, dtype=torch.uint8)
    return count(tower.model, lambda: tower.embed_whole(images)) // 2


def count_text(tower: Counted, length: int) -> int:
    """FLOPs of the text tower for one text of `length` tokens."""
    module: Any = getattr(tower.model, "text", tower.model)
    if getattr(module, "cls_emb", None) is None and _plain(getattr(module, "transformer", None)):
        return _resblocks(module.transformer, length) + _projection(module.text_projection)
    ids = torch.ones(2, length, dtype=torch.int64, device=tower.mean.device)
    return count(tower.model, lambda: text.encode(tower.model, ids, text.ending(tower.model))) // 2


def _plain(transformer: Any) -> bool:
    """Whether a module is open_clip's transformer with its default blocks only."""
    blocks = getattr(transformer, "resblocks", ())
    return len(blocks) > 0 and all(type(block).__name__ == "ResidualAttentionBlock" for block in blocks)


def _resblocks(transformer: Any, tokens: int) -> int:
    hidden = transformer.resblocks[0].mlp.c_fc.out_features
    return transformer_flops(tokens, transformer.width, len(transformer.resblocks), hidden)


def _projection(projection: Any) -> int:
    """2 W E of the final projection, which is a matrix, a linear layer or absent."""
    if isinstance(projection, nn.Linear):
        return 2 * projection.in_features * projection.out_features
    return 0 if projection is None else 2 * projection.shape[0] * projection.shape[1]


def count(model: nn.Module, run: Callable[[], object]) -> int:
    """FLOPs of `run()` by torch's counter, in evaluation mode and without gradient."""
    from torch.utils.flop_counter import FlopCounterMode

    trained = [value for value in model.parameters() if value.requires_grad]
    try:
        # The counter follows modules by gradients, and finds none if a module receives a view of a parameter (timm's
        # attention pooling).
        for value in trained:
            value.requires_grad_(False)
        with evaluating(model), torch.no_grad(), countable(), FlopCounterMode(display=False) as counter:
            run()
    finally:
        for value in trained:
            value.requires_grad_(True)
    return int(counter.get_total_flops())


@contextmanager
def countable() -> Iterator[None]:
    """Turn off what hides work from torch's counter on a CPU: attention's fast path and fused kernels."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
