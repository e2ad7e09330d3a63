"""Text towers at the length of the batch: open_clip's own forward pass needs texts of full length."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_POOLS = ("argmax", "eos")
_MASKED_POOLS = ("MeanPooler", "ClsPooler", "ClsLastHiddenStatePooler")
"""Poolers of open_clip's Hugging Face towers that ignore padding."""
_PAD = 0
"""What `aced.models.ids.padded` pads with."""


def trims(model: nn.Module) -> bool:
    """Whether cutting the padding leaves this open_clip model's text embeddings unchanged.

    It does if attention is causal and the embedding is pooled at the end of the text, at the highest id or at the end
    id: later positions are then never used.
    """
    tower = _tower(model)
    return (
        getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and pool_type(model) in _POOLS
        and not (pool_type(model) == "eos" and _eos(model) == 0)
        and all(hasattr(tower, part) for part in ("token_embedding", "positional_embedding", "ln_final"))
    )


class Ending(NamedTuple):
    """The end of a text in a tower, after which padding can be cut.

    Attributes:
        eos: the id that ends a text; None if it is the highest one.
        masked: whether the tower masks its padding, and so needs every id before it.
    """

    eos: int | None
    masked: bool = False

    def positions(self, ids: Tensor) -> Tensor:
        """`[B, T]` ids to `[B]`, the position of each row's last id that counts."""
        if self.masked:
            return (ids.ne(_PAD).sum(dim=-1) - 1).clamp_min(0)
        return ids.argmax(dim=-1) if self.eos is None else ids.eq(self.eos).int().argmax(dim=-1)


def ending(model: nn.Module) -> Ending | None:
    """The `Ending` of a model's text tower; None where padding must stay."""
    if _masks(model):
        return Ending(None, masked=True)
    if not trims(model):
        return None
    return Ending(_eos(model) if pool_type(model) == "eos" else None)


def _masks(model: nn.Module) -> bool:
    """Whether the text tower is one of Hugging Face's that masks the id 0 in attention and pooling, as BERT does."""
    tower: Any = _tower(model)
    pooler = type(getattr(tower, "pooler", None)).__name__
    return pooler in _MASKED_POOLS and getattr(getattr(tower, "config", None), "pad_token_id", None) == _PAD


def by_length(lengths: Tensor) -> list[Tensor]:
    """Positions of B texts in one part, or in a short and a long one, each padded to its own longest text.

    There are two if that saves a tenth of the tokens: most captions on the web are short, so it usually saves a third.
    More parts save little more, and small ones use a processor badly.

    Args:
        lengths: `[B]` int64.
    """
    count = len(lengths)
    if count == 0:
        return [torch.arange(0)]
    ordered = lengths.sort(stable=True)
    longest = ordered.values[-1]
    spared = torch.arange(1, count + 1) * (longest - ordered.values)
    best = int(spared.max())
    if best == 0 or 10 * best < count * int(longest):
        return [torch.arange(count)]
    cut = int((spared == best).nonzero()[0]) + 1
    return [ordered.indices[:cut], ordered.indices[cut:]]


def encode(model: nn.Module, ids: Tensor, end: Ending | None) -> Tensor:
    """`[B, T]` ids to `[B, d]` features, not normalised; with the model's `ending`, T may be below the full length."""
    if end is None or end.masked:
        return model.encode_text(ids)  # type: ignore[operator]
    tower: Any = _tower(model)
    length = ids.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    # One row per text is pooled, and the norm works row by row, so pooling first gives the same result.
    x = tower.ln_final(x[torch.arange(len(ids), device=ids.device), end.positions(ids)])
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def pool_type(model: nn.Module) -> str:
    """How the text tower pools; plain CLIP and separate text towers store it under different names."""
    tower = _tower(model)
    return str(getattr(tower, "pool_type", None) or getattr(tower, "text_pool_type", ""))


def _eos(model: nn.Module) -> int:
    tower = _tower(model)
    return int(getattr(tower, "eos_id", getattr(tower, "text_eos_id", 0)))


def _tower(model: nn.Module) -> nn.Module:
    """The module with the text tower's parts: the model itself in plain CLIP."""
    return getattr(model, "text", model)
