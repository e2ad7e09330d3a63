"""What several tests of the towers need: small configs, candidates, and random pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aced.models import Tower
from aced.pool.source import Candidates

_VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
_TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"embed_dim": 32, "vision_cfg": _VISION, "text_cfg": _TEXT},
    "custom": {
        "embed_dim": 48,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {**_VISION, "image_size": 48, "patch_size": 16, "mlp_ratio": 3.0, "pool_type": "avg"},
        "text_cfg": {**_TEXT, "mlp_ratio": 2.0, "layers": 3, "proj_bias": True},
    },
    # The shape of the SigLIP text towers: both directions, pooled at the last position, so never trimmed.
    "tiny-siglip": {
        "embed_dim": 32,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": _VISION,
        "text_cfg": {**_TEXT, "no_causal_mask": True, "pool_type": "last"},
    },
    # A class token behind the text: never trimmed either.
    "coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {**_VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**_TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
}

TEXTS = (
    "a red circle",
    "a photo of a small striped square to the left of a large blue star",
    "",
    "Ünknown wörds 猫, really!",
    "a",
)


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps(config))
    return path


def images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def candidates(towers: Sequence[Tower], texts: Sequence[str] = TEXTS) -> Candidates:
    views = {tower.view: images(len(texts), tower.view.size) for tower in towers}
    return Candidates(torch.arange(len(texts)), list(texts), views)
