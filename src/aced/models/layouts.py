"""Conversion of state dicts between open_clip's names and those of transformers' CLIP and SigLIP.

transformers keeps query, key and value apart, and projections as separate layers. A name that no rule knows stays
unchanged, so it is reported like any other that does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_TOWER = {tower: re.compile(rf"(?<![^.]){tower}_model\.encoder\.layers\.") for tower in ("text", "vision")}
_OURS = re.compile(r"(text|vision)_model\.|(text|visual)_projection\.|logit_(scale|bias)$")
_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_LEFT_OUT = re.compile(r"\.position_ids$")
_BLOCK = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
_BLOCK |= {"self_attn.out_proj": "attn.out_proj"}
_TIMM_BLOCK = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj"}
_CLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}
_SIGLIP = {
    "text_model.embeddings.token_embedding.weight": "text.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
    "text_model.final_layer_norm": "text.ln_final",
    "text_model.head": "text.text_projection",
    "vision_model.embeddings.patch_embedding": "visual.trunk.patch_embed.proj",
    "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
    "vision_model.post_layernorm": "visual.trunk.norm",
    "vision_model.head.probe": "visual.trunk.attn_pool.latent",
    "vision_model.head.attention.out_proj": "visual.trunk.attn_pool.proj",
    "vision_model.head.layernorm": "visual.trunk.attn_pool.norm",
    "vision_model.head.mlp": "visual.trunk.attn_pool.mlp",
}


def translated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with every transformers CLIP or SigLIP in it converted to open_clip's names and shapes.

    Such models are recognised by their two towers under one prefix; all other names stay unchanged.
    """
    prefixes = {tower: {name[: at.start()] for name in state if (at := _TOWER[tower].search(name))} for tower in _TOWER}
    found = dict(state)
    for prefix in prefixes["text"] & prefixes["vision"]:
        own = [name for name in state if name.startswith(prefix) and _OURS.match(name.removeprefix(prefix))]
        model = _from_transformers({name.removeprefix(prefix): found.pop(name) for name in own})
        found |= {f"{prefix}{name}": value for name, value in model.items()}
    return found


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of transformers' CLIPModel or SiglipModel with open_clip's names and shapes."""
    siglip = any(name.startswith("vision_model.head.") for name in state)
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if _LEFT_OUT.search(name):
            continue
        if layer := _LAYER.fullmatch(name):
            tower, number, part, kind = layer.groups()
            timm = siglip and tower == "vision"
            block = f"{_blocks(tower, siglip=siglip)}.{number}."
            if one := re.fullmatch(r"self_attn\.([qkv])_proj", part):
                joined = f"attn.qkv.{kind}" if timm else f"attn.in_proj_{kind}"
                parts.setdefault(block + joined, {})[one[1]] = value
            else:
                found[f"{block}{(_TIMM_BLOCK if timm else _BLOCK).get(part, part)}.{kind}"] = value
        elif siglip and name.startswith("vision_model.head.attention.in_proj_"):
            kind, width = name.rpartition("_")[2], value.shape[0] // 3
            found[f"visual.trunk.attn_pool.q.{kind}"] = value[:width]
            found[f"visual.trunk.attn_pool.kv.{kind}"] = value[width:]
        else:
            new, value = _single(name, value, _SIGLIP if siglip else _CLIP)
            found[new] = value
    return found | {name: torch.cat([three[key] for key in "qkv" if key in three]) for name, three in parts.items()}


def _blocks(tower: str, *, siglip: bool) -> str:
    """The place of a tower's layers in open_clip."""
    if siglip:
        return "visual.trunk.blocks" if tower == "vision" else "text.transformer.resblocks"
    return "visual.transformer.resblocks" if tower == "vision" else "transformer.resblocks"


def _single(name: str, value: Tensor, names: Mapping[str, str]) -> tuple[str, Tensor]:
    """A weight outside the layers."""
    if name in names:
        new = names[name]
        if new in ("text_projection", "visual.proj"):
            value = value.T.contiguous()
        return new, value[None] if new.endswith("pos_embed") and value.ndim == 2 else value
    for old, new in names.items():
        if name.startswith(f"{old}."):
            return new + name.removeprefix(old), value
    return name, value


def as_transformers(state: Mapping[str, Tensor], *, siglip: bool) -> dict[str, Tensor]:
    """The reverse: a state dict of open_clip's CLIP or SigLIP in the layout of transformers' CLIPModel or SiglipModel.

    A weight that has no counterpart keeps its name.

    Args:
        state: the weights of a model.
        siglip: whether its vision tower is a timm tower with attention pooling.
    """
    found: dict[str, Tensor] = {}
    pooling: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        plain = name if siglip else name.removeprefix("text.")  # open_clip's CLIP with a separate text tower
        if block := _block_of(plain, siglip=siglip):
            found |= {f"{block[0]}.{part}": one for part, one in _parts_of(*block[1:], value)}
        elif siglip and (half := re.fullmatch(r"visual\.trunk\.attn_pool\.(q|kv)\.(weight|bias)", plain)):
            pooling.setdefault(half[2], {})[half[1]] = value
        else:
            new, value = _single_back(plain, value, _SIGLIP if siglip else _CLIP)
            found[new] = value
    for kind, halves in pooling.items():
        found[f"vision_model.head.attention.in_proj_{kind}"] = torch.cat([halves["q"], halves["kv"]])
    return found


def _block_of(name: str, *, siglip: bool) -> tuple[str, bool, str, str] | None:
    """For a weight: its block's place in transformers, whether timm named it, its part in it, `weight` or `bias`."""
    for tower in ("text", "vision"):
        pattern = rf"{re.escape(_blocks(tower, siglip=siglip))}\.(\d+)\.(.+)[._](weight|bias)"
        if at := re.fullmatch(pattern, name):
            return f"{tower}_model.encoder.layers.{at[1]}", siglip and tower == "vision", at[2], at[3]
    return None


def _parts_of(timm: bool, part: str, kind: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """A weight of a block under its names in transformers, with query, key and value apart."""
    if part == ("attn.qkv" if timm else "attn.in_proj"):
        return [(f"self_attn.{key}_proj.{kind}", one) for key, one in zip("qkv", value.chunk(3), strict=True)]
    back = {new: old for old, new in (_TIMM_BLOCK if timm else _BLOCK).items()}
    return [(f"{back.get(part, part)}.{kind}", value)]


def _single_back(name: str, value: Tensor, names: Mapping[str, str]) -> tuple[str, Tensor]:
    for old, new in names.items():
        if name == new:
            if new in ("text_projection", "visual.proj"):
                value = value.T.contiguous()
            return old, value[0] if new.endswith("pos_embed") else value
        if name.startswith(f"{new}."):
            return old + name.removeprefix(new), value
    return name, value
