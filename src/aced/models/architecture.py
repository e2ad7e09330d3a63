"""The architecture of a model as a hash: its open_clip config in a normal form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aced.models.compat import import_open_clip

# Entries of a config that the built model does not depend on: initial values, and parts that are compared elsewhere
# (the tokenizer has its own fingerprint, a folder is known by its content).
_FIRST_VALUES = {"init_logit_scale", "init_logit_bias", "nonscalar_logit_scale", "output_dict", "cast_dtype"}
_VISION_ELSEWHERE = {"timm_model_pretrained"}
_TEXT_ELSEWHERE = {
    "hf_model_name",
    "hf_model_pretrained",
    "hf_tokenizer_name",
    "tokenizer_mode",
    "tokenizer_kwargs",
}
# What towers that are not open_clip's own transformer read; the rest of their section changes nothing.
_OF_TIMM = {"image_size", "patch_dropout"}
_OF_RESNET = {"layers", "width", "head_width", "image_size"}
_OF_HUGGING_FACE = {"hf_proj_type", "hf_pooler_type", "output_tokens", "context_length"}
_TRAINING_ONLY = ("patch_dropout", "timm_drop", "timm_drop_path")
_BOOKKEEPING = {"_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype", "auto_map"}


def is_custom(config: Mapping[str, Any]) -> bool:
    """Whether open_clip builds a config with a separate text tower, under `text.`."""
    return bool(config.get("custom_text")) or "hf_model_name" in config["text_cfg"]


def architecture(config: Mapping[str, Any], text_model: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An open_clip model config in its normal form: equal for two configs that build the same model.

    Defaults, entries that these towers never read, initial values of parameters, the tokenizer and paths are left out.

    Args:
        config: the open_clip model config.
        text_model: the `config.json` of a Hugging Face text tower, for a config that names one.
    """
    open_clip = import_open_clip()
    vision, text = dict(config["vision_cfg"]), dict(config["text_cfg"])
    plain = _without_defaults(vision, open_clip.CLIPVisionCfg()) | _wanted_by_blocks(vision)
    own_text = _without_defaults(text, open_clip.CLIPTextCfg()) | _wanted_by_blocks(text)
    plain = {key: value for key, value in plain.items() if key not in _VISION_ELSEWHERE}
    own_text = {key: value for key, value in own_text.items() if key not in _TEXT_ELSEWHERE}
    own_activation = True
    if vision.get("timm_model_name"):
        plain = {key: value for key, value in plain.items() if key.startswith("timm_") or key in _OF_TIMM}
    elif isinstance(vision.get("layers"), (list, tuple)):
        plain = {key: value for key, value in plain.items() if key in _OF_RESNET}
    else:
        plain = {key: value for key, value in plain.items() if not key.startswith("timm_")}
    if text.get("hf_model_name"):
        own_text = {key: value for key, value in own_text.items() if key in _OF_HUGGING_FACE}
        own_activation = not vision.get("timm_model_name")
        own_text["hf_model"] = {key: value for key, value in (text_model or {}).items() if key not in _BOOKKEEPING}
    else:
        own_text = {key: value for key, value in own_text.items() if not key.startswith("hf_")}
    found = {
        key: value
        for key, value in config.items()
        if key not in _FIRST_VALUES | {"custom_text", "quick_gelu", "vision_cfg", "text_cfg", "multimodal_cfg"}
    }
    found |= {"custom_text": is_custom(config), "vision_cfg": plain, "text_cfg": own_text}
    if config.get("quick_gelu") and own_activation:
        found["quick_gelu"] = True
    if is_custom(config) and "multimodal_cfg" in config:
        multimodal = open_clip.coca_model.MultimodalCfg()
        found["multimodal_cfg"] = _without_defaults(dict(config["multimodal_cfg"]), multimodal)
    normal: dict[str, Any] = _plain(found)
    return normal


def computation(normal: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a normal form that embeddings depend on: without dropout."""
    vision = {key: value for key, value in normal["vision_cfg"].items() if key not in _TRAINING_ONLY}
    return {**normal, "vision_cfg": vision}


def mark_of(content: Any) -> str:
    """16 hex digits of a JSON-serialisable value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _without_defaults(section: Mapping[str, Any], defaults: Any) -> dict[str, Any]:
    usual = asdict(defaults)
    return {
        key: value
        for key, value in section.items()
        if value is not None and not (key in usual and _plain(usual[key]) == _plain(value))
    }


def _wanted_by_blocks(section: Mapping[str, Any]) -> dict[str, Any]:
    """The block that a transformer uses, if it is not open_clip's default."""
    special = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
    usual = "custom" if any(section.get(key) for key in special) else "default"
    kind = section.get("block_type") or usual
    return {"block_type": None if kind == usual else kind}


def _plain(value: Any) -> Any:
    """A value as JSON would return it: 4.0 is 4, a tuple a list; a key without a value is left out."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
