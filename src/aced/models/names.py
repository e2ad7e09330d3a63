"""Errors for unknown model names: the likely intention, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

from aced.errors import nearest
from aced.models.compat import import_open_clip
from aced.models.pretrained_tags import architectures_of_tag

WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz", ".msgpack", ".onnx", ".h5", ".gguf", ".pkl")
"""Suffixes of weight files."""
_SHOWN = 3


def looks_like_weights(path: Path) -> bool:
    """Whether a path is that of a weight file, by its name."""
    return path.suffix.lower() in WEIGHTS


def what_was_meant(name: str) -> str:
    """The second half of "No model is called NAME.": a sentence that begins with a space."""
    models = import_open_clip().list_models()
    if close := _spelled(name, models):
        return f" Did you mean '{close}'?"
    if tag := tag_sentence(name):
        return f" {tag}"
    head, separator, tail = re.match(r"([^:@]*)([:@]*)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    if separator and (close := _spelled(head, models)):
        return f" Name only the architecture, '{close}', and '{tail}' as its checkpoint."
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        inside = [model for model in models if _folded(model) in _folded(name)] or _of_transformers(name, models)
        meant = f" ('{max(inside, key=len)}' seems to be the architecture)" if inside else ""
        return (
            f" If it is a repository on the Hugging Face hub, write hf-hub:{name}; otherwise name an architecture, and "
            f"its weights as the checkpoint{meant}."
        )
    if spelled := _of_transformers(name, models):
        return f" Did you mean '{spelled[0]}'?"
    hint = nearest(name, models)
    if hint.startswith(" Known"):
        return f" There are {len(models)}; `open_clip.list_models()` lists them, including the demo family."
    return hint


def tag_sentence(name: str) -> str:
    """What to do about a tag of pretrained weights given as a model; empty if it is not a tag."""
    models = architectures_of_tag(name.strip())
    if not models:
        return ""
    more = f" and {len(models) - _SHOWN} more" if len(models) > _SHOWN else ""
    return (
        f"'{name}' is a tag of pretrained weights (of {', '.join(models[:_SHOWN])}{more}): name the architecture, with "
        "the tag as its checkpoint."
    )


def _spelled(name: str, models: list[str]) -> str | None:
    """The model that a name matches apart from case, spaces, slashes and underscores."""
    return next((model for model in models if _folded(model) == _folded(name)), None)


def _folded(name: str) -> str:
    return re.sub(r"[\s/_.-]+", "", name.lower())


def _of_transformers(name: str, models: list[str]) -> list[str]:
    """`openai/clip-vit-base-patch32` and similar names in open_clip's spelling."""
    found = re.search(r"vit-(base|large|huge|giant)-?patch(\d+)(-336)?", name.lower())
    if not found:
        return []
    size = {"base": "B", "large": "L", "huge": "H", "giant": "g"}[found[1]]
    spelled = f"ViT-{size}-{found[2]}{found[3] or ''}"
    quick = f"{spelled}-quickgelu"
    return [model for model in models if model == (quick if name.startswith("openai/") else spelled)]
