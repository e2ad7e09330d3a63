"""Warnings about weights that fit a model in shape but may not belong to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aced.models.pretrained_tags import (
    agreed_pixels,
    agreed_quick_gelu,
    disputed_pixels,
    quick_tags,
    same_architecture,
    says_quick_gelu,
    tag_in,
    usual_pixels,
)
from aced.models.recipes import Recipe


def doubts(recipe: Recipe, weights: Path, *, openai: bool) -> Iterator[str]:
    """Sentences about preprocessing and activation that the weights were probably not trained with.

    Saved folders, tags and repositories bring this information themselves.

    Args:
        recipe: what the model was built from.
        weights: the file that was loaded into it.
        openai: whether the file had OpenAI's own keys.
    """
    if recipe.kind == "saved" or not isinstance(recipe.source, Path):
        return
    like = recipe.name if recipe.kind == "name" else same_architecture(recipe.config)
    yield from _activation(recipe, weights, like, openai=openai)
    if recipe.kind == "name":
        yield from _disputed(recipe, weights)
    elif recipe.kind == "json" and not recipe.preprocess:
        yield from _default_pixels(recipe, like)


def _activation(recipe: Recipe, weights: Path, like: str | None, *, openai: bool) -> Iterator[str]:
    quick = bool(recipe.config.get("quick_gelu"))
    says = True if openai else says_quick_gelu(weights, like)
    if says is None and like and recipe.kind != "name" and agreed_quick_gelu(like):
        says = True
    if says is None and not quick and recipe.kind == "name" and (tags := quick_tags(recipe.name)):
        yield (
            f"Some weights of {recipe.name} ({', '.join(tags)}) were trained with QuickGELU; if {weights} is one, "
            f"name {recipe.name}-quickgelu."
        )
    if says and not quick:
        how = f"name {like}-quickgelu, or set" if like and recipe.kind == "name" else "set"
        yield (
            f'{weights} seems to belong to a QuickGELU model, but {recipe.name} has GELU: {how} "quick_gelu": true in '
            "its JSON config if so."
        )
    elif says is False and quick:
        yield f"{weights} seems to belong to a model with GELU, but {recipe.name} has QuickGELU."


def _disputed(recipe: Recipe, weights: Path) -> Iterator[str]:
    """Weights of an architecture whose tags were trained with different preprocessing."""
    tags = disputed_pixels(recipe.name)
    tag = tag_in(weights.name, recipe.name)
    usual = usual_pixels()
    other = {name: says for name, says in tags.items() if any(says[key] != usual[key] for key in says)}
    if tag in other or (tag is None and other):
        named = f"'{tag}'" if tag in other else f"those of {', '.join(map(repr, other))}"
        says = other[tag] if tag in other else next(iter(other.values()))
        told = ", ".join(f"{key} {value}" for key, value in says.items())
        yield (
            f"Of {recipe.name}'s weights, {named} were trained with {told}; open_clip's default is used here: if you "
            "load those, name the model as a JSON config with a preprocess_cfg."
        )


def _default_pixels(recipe: Recipe, like: str | None) -> Iterator[str]:
    """A config without preprocessing."""
    usual = usual_pixels()
    other = {key: value for key, value in agreed_pixels(like).items() if value != usual[key]} if like else {}
    if other:
        told = ", ".join(f"{key} {value}" for key, value in other.items())
        yield (
            f"{recipe.place} is the architecture {like}, whose weights in open_clip's list were trained with {told}; "
            "it has no preprocess_cfg, so open_clip's default is used: add one, or use the architecture's name."
        )
    elif not like:
        yield (
            f"{recipe.place} has no preprocess_cfg: images get open_clip's default (CLIP's mean and std, bicubic, "
            "the shortest side); add one if the weights were trained with another."
        )
