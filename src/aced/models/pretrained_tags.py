"""open_clip's list of pretrained weights: the preprocessing and activation of an architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from aced.models.architecture import architecture
from aced.models.compat import import_open_clip

PIXELS = ("mean", "std", "interpolation", "resize_mode")
"""Keys of a preprocessing config that pretrained weights define."""


@cache
def _tags(name: str) -> dict[str, dict[str, Any]]:
    """open_clip's entry for each set of weights of an architecture, by its tag."""
    pretrained = import_open_clip().pretrained
    return {tag: pretrained.get_pretrained_cfg(name, tag) for tag in pretrained.list_pretrained_tags_by_model(name)}


def usual_pixels() -> dict[str, Any]:
    """open_clip's default preprocessing."""
    transform = import_open_clip().transform
    found = transform.merge_preprocess_dict(transform.PreprocessCfg(), {})
    return {key: listed(found[key]) for key in PIXELS}


def agreed_pixels(name: str) -> dict[str, Any]:
    """The preprocessing that all pretrained weights of an architecture share, key by key; empty if it has none."""
    tags = list(_tags(name).values())
    found = {key: {_frozen(tag.get(key)) for tag in tags} for key in PIXELS}
    return {
        key: listed(value)
        for key, (value, *others) in ((key, tuple(values)) for key, values in found.items() if values)
        if not others and value is not None
    }


def disputed_pixels(name: str) -> dict[str, dict[str, Any]]:
    """Where the weights of an architecture differ in preprocessing: for each tag the keys that differ."""
    agreed = agreed_pixels(name)
    return (
        {tag: {key: listed(says.get(key)) for key in PIXELS if key not in agreed} for tag, says in _tags(name).items()}
        if len(agreed) < len(PIXELS)
        else {}
    )


def agreed_quick_gelu(name: str) -> bool:
    """Whether an architecture has pretrained weights, and all of them were trained with QuickGELU."""
    tags = _tags(name)
    return bool(tags) and all(tag.get("quick_gelu") for tag in tags.values())


def quick_tags(name: str) -> list[str]:
    """The tags of an architecture's weights that were trained with QuickGELU."""
    return [tag for tag, says in _tags(name).items() if says.get("quick_gelu")]


def tag_in(file: str, name: str) -> str | None:
    """The one tag of an architecture that a file's name contains; None if there is none, or several."""
    words = _words(file)
    found = [tag for tag in _tags(name) if _words(tag) in words]
    longest = [
        tag for tag in found if not any(_words(tag) != _words(one) and _words(tag) in _words(one) for one in found)
    ]
    return longest[0] if len(longest) == 1 else None


def says_quick_gelu(file: Path, name: str | None) -> bool | None:
    """Whether the name of a weight file says that QuickGELU was used in training; None if it says nothing.

    Args:
        file: the weights.
        name: their architecture in open_clip's list, if known.
    """
    words = _words(file.name)
    if "quickgelu" in words:
        return True
    tag = tag_in(file.name, name) if name else None
    if tag is not None:
        return bool(_tags(str(name))[tag].get("quick_gelu"))
    return True if re.search(r"(^|[^a-z])openai([^a-z]|$)", file.name.lower()) else None


def tags_of(name: str) -> list[str]:
    """The tags of an architecture's pretrained weights."""
    return list(_tags(name))


def says_of_tag(name: str, tag: str) -> dict[str, Any]:
    """open_clip's entry for the weights of a tag in any spelling; empty if there are none."""
    return dict(import_open_clip().pretrained.get_pretrained_cfg(name, tag))


def architectures_of_tag(tag: str) -> list[str]:
    """The architectures that have pretrained weights of this tag."""
    return list(import_open_clip().pretrained.list_pretrained_models_by_tag(tag))


def same_architecture(config: Mapping[str, Any]) -> str | None:
    """The architecture in open_clip's list with pretrained weights that a config equals, apart from its activation."""
    if config["text_cfg"].get("hf_model_name"):
        return None  # a folder here, a name there
    wanted = architecture({**config, "quick_gelu": False})
    return next((name for name, normal in _known().items() if normal == wanted), None)


@cache
def _known() -> dict[str, dict[str, Any]]:
    open_clip = import_open_clip()
    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models() if _tags(name)}
    return {
        name: architecture({**config, "quick_gelu": False})
        for name, config in configs.items()
        if not config["text_cfg"].get("hf_model_name")
    }


def listed(value: Any) -> Any:
    """A tuple as JSON would return it."""
    return list(value) if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _words(text: str) -> str:
    """Letters and digits alone, in lower case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())
