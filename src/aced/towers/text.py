"""Text towers at the length of the batch: open_clip's own forward pass needs texts of the full length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_POOLS = ("argmax", "eos")


def trims(model: nn.Module) -> bool:
    """Whether cutting the padding leaves this open_clip model's text embeddings as they are.

    It does where attention is causal and the embedding is pooled at the end of the text, at the highest id or
    at the end id: what stands behind is then never looked at.
    """
    tower = _tower(model)
    return (
        getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and pool_type(model) in _POOLS
        and not (pool_type(model) == "eos" and _eos(model) == 0)
        and all(hasattr(tower, part) for part in ("token_embedding", "positional_embedding", "ln_final"))
    )


def pooled_positions(model: nn.Module, ids: Tensor) -> Tensor:
    """`[B, T]` ids to `[B]`, the position at which a tower that trims pools each row."""
    if pool_type(model) == "eos":
        return ids.eq(_eos(model)).int().argmax(dim=-1)
    return ids.argmax(dim=-1)


def by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Positions of B texts in one part, or in a short and a long one, each to be padded to its own longest text.

    There are two where that spares a tenth of the tokens: captions of the web are short but for a few, so it mostly
    spares a third. More parts spare little more, and small ones use a processor badly.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    longest = lengths[order[-1]] if order else 0
    spared = [short * (longest - lengths[i]) for short, i in enumerate(order, 1)]
    best = max(spared, default=0)
    if best == 0 or 10 * best < len(order) * longest:
        return [list(range(len(lengths)))]
    cut = spared.index(best) + 1
    return [order[:cut], order[cut:]]


def encode(model: nn.Module, ids: Tensor, trimmed: bool) -> Tensor:
    """`[B, T]` ids to `[B, d]` features, not normalised; with `trimmed`, T may be below the full length."""
    if not trimmed:
        return model.encode_text(ids)  # type: ignore[operator]
    tower: Any = _tower(model)
    length = ids.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    # One row per text is pooled, and the norm works row by row: pooling first gives the same.
    x = tower.ln_final(x[torch.arange(len(ids), device=ids.device), pooled_positions(model, ids)])
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def pool_type(model: nn.Module) -> str:
    """How the text tower pools; plain CLIP and the separate text towers keep it under different names."""
    tower = _tower(model)
    return str(getattr(tower, "pool_type", None) or getattr(tower, "text_pool_type", ""))


def _eos(model: nn.Module) -> int:
    tower = _tower(model)
    return int(getattr(tower, "eos_id", getattr(tower, "text_eos_id", 0)))


def _tower(model: nn.Module) -> nn.Module:
    """The module that holds the text tower's parts: the model itself in plain CLIP."""
    return getattr(model, "text", model)
