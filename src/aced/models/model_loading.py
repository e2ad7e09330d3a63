"""Build a `Tower` from a name, a JSON config, a folder or an address, with its weights; save it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aced.errors import AcedError
from aced.files.atomic import save_tensors_atomic, write_atomic, writing
from aced.models.architecture import is_custom
from aced.models.attention import quicken_attention
from aced.models.compat import import_open_clip
from aced.models.doubts import doubts
from aced.models.hub_files import FileProgress
from aced.models.own_tower import OwnTower, described
from aced.models.pretrained import HUB, fetched_text, fetched_weights
from aced.models.recipes import FORMAT, TOWER_FILE, WEIGHTS_FILE, WORDS_FILE, Recipe, find_recipe
from aced.models.tokenizers import Tokenizer, WordTokenizer, choose_tokenizer
from aced.models.tower import Tower
from aced.models.weights import load_weights, start_bias

_TOKENIZER_FOLDER, _TEXT_FOLDER = "tokenizer", "text_model"


def load_tower(
    model: str | Path,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    progress: FileProgress | None = None,
) -> Tower:
    """Build an open_clip model with its preprocessing and tokenizer.

    Args:
        model: an open_clip architecture (`ViT-S-32`), the demo family (`aced-demo-s`, `-m`, `-l`), the path
            of an open_clip JSON config, a folder that `save_tower` wrote (or the run that it lies in), a folder
            with an `open_clip_config.json`, or such a folder on the hub, `hf-hub:ORGANISATION/MODEL`.
        checkpoint: a local file of weights (`FILE#KEY`: one of several sets in it), or a tag of pretrained weights of
            the architecture (`laion2b_s34b_b79k`); it replaces a folder's own weights.
        device: where the model goes; it is always built on the CPU.
        seed: seed of the initial weights; the global generator stays unchanged. Without a seed it is used,
            unless the weights are loaded.
        progress: opens a bar for downloads; None shows that of the hub's own client.

    Only naming a tag or an address on the hub permits a download. A JSON config may have a second level,
    `{"model_cfg": .., "preprocess_cfg": ..}`, as on the hub. Architecture names without a tag get the preprocessing and
    the activation that all their pretrained weights in open_clip's list share, and otherwise its defaults. The tower's
    `notes` say what a user should know about the weights.

    Raises:
        AcedError: unknown name, unreadable or invalid config, weights that do not fit, something that would have to be
            downloaded unasked, or a download that fails.
    """
    return load_recipe(find_recipe(model, checkpoint), device, seed, progress)


def load_recipe(
    recipe: Recipe,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    progress: FileProgress | None = None,
    first: Mapping[str, float] | None = None,
) -> Tower:
    """As `load_tower`, for a model that has already been found.

    Args:
        recipe: the model.
        device, seed, progress: as `load_tower`.
        first: `init_logit_bias` and `init_logit_scale`, for weights without a logit bias.

    Raises:
        AcedError: as `load_tower`.
    """
    if recipe.fetches:
        text = fetched_text(recipe.name, recipe.config["text_cfg"], progress)
        recipe = replace(recipe, config={**recipe.config, "text_cfg": text})
    # If every weight is loaded anyway, the initial ones must not cost the caller random numbers.
    tower = _build(recipe, 0 if seed is None and recipe.trained else seed)
    tower.notes = recipe.notes
    # Last, because weights are large and all other faults should be reported first.
    weights = fetched_weights(recipe.source, progress)
    if weights is not None:
        loaded = load_weights(tower.model, weights, tower.name, recipe.key)
        if loaded.bias is not None:
            tower.config["init_logit_bias"] = loaded.bias
        tower.notes += loaded.notes + tuple(doubts(recipe, weights, openai=loaded.openai))
        if recipe.kind == "saved" and recipe.place is not None and weights == recipe.place / WEIGHTS_FILE:
            _check_whole(recipe, tower)
        if loaded.unbiased:
            tower.notes += _without_bias(tower, weights, first)
    return tower.to(device)


def _without_bias(tower: Tower, weights: Path, first: Mapping[str, float] | None) -> tuple[str, ...]:
    """Initialise the logit bias of a tower whose weights lack it, if requested; returns notes for the user."""
    if first is not None:
        start_bias(tower.model, first["init_logit_bias"], first["init_logit_scale"])
        tower.config["init_logit_bias"] = first["init_logit_bias"]
        named = ", ".join(f"{key} = {value:.4g}" for key, value in first.items())
        return (
            f"{weights}: no logit_bias, which the sigmoid loss needs; it starts with {named}. A JSON config may "
            "set other values.",
        )
    if getattr(tower.model, "logit_bias", None) is not None:
        return (f"{weights}: no logit_bias; the one of '{tower.name}' starts at 0, as in open_clip.",)
    return ()


def _check_whole(recipe: Recipe, tower: Tower) -> None:
    """Raise an AcedError if a folder's weights and its description belong to different models."""
    found = tower.identity()["tower" if recipe.format == FORMAT else "contents"]
    if recipe.fingerprint not in (None, found):
        raise AcedError(
            f"{recipe.place}: {WEIGHTS_FILE} and {TOWER_FILE} do not belong together (the folder was overwritten "
            "in part, or a file was changed); write the folder again."
        )


def save_tower(tower: Tower, folder: str | Path) -> None:
    """Write a folder that `load_tower` reads: `tower.json`, `model.safetensors` and the tokenizer's own files.

    Each file is replaced as a whole, the JSON last. The weights have open_clip's own names. Other files in the folder
    stay. The folder is self-contained: the config of a Hugging Face text tower is copied into it. For an `OwnTower` it
    holds the weights and the name of their code; only that code can build the model.

    Raises:
        AcedError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    state = {name: tensor.cpu() for name, tensor in tower.model.state_dict().items()}
    save_tensors_atomic(folder / WEIGHTS_FILE, state)
    if isinstance(tower, OwnTower):
        write_atomic(folder / TOWER_FILE, json.dumps({"format": FORMAT, **described(tower)}, indent=2) + "\n")
        return
    words = isinstance(tower.tokenizer, WordTokenizer)
    config = json.loads(json.dumps(tower.config))
    if isinstance(tower.tokenizer, WordTokenizer):
        write_atomic(folder / WORDS_FILE, "\n".join(tower.tokenizer.words) + "\n")
    elif hasattr(tower.tokenizer, "save_pretrained"):
        with writing(folder / _TOKENIZER_FOLDER):
            tower.tokenizer.save_pretrained(folder / _TOKENIZER_FOLDER)
        config["text_cfg"]["hf_tokenizer_name"] = _TOKENIZER_FOLDER
    if tower.text_model is not None:
        write_atomic(folder / _TEXT_FOLDER / "config.json", json.dumps(tower.text_model, indent=2) + "\n")
        config["text_cfg"]["hf_model_name"] = _TEXT_FOLDER
    description = {
        "format": FORMAT,
        "name": tower.name,
        "model_cfg": config,
        "preprocess_cfg": tower.preprocess,
        "vocabulary": WORDS_FILE if words else None,
        "fingerprint": tower.fingerprint(),
    }
    write_atomic(folder / TOWER_FILE, json.dumps(description, indent=2) + "\n")


# -- building ------------------------------------------------------------------------------------------------


def _build(recipe: Recipe, seed: int | None) -> Tower:
    """The tower with initial weights, on the CPU."""
    _refuse_downloads(recipe)
    context_length = int(recipe.config["text_cfg"].get("context_length", 77))
    tokenizer = choose_tokenizer(recipe.name, recipe.config["text_cfg"], context_length, recipe.vocabulary)
    text_model = recipe.text_model()  # now, because its folder may be gone when the tower is saved
    open_clip = import_open_clip()
    with _seeded(seed):
        model = _instantiate(open_clip, recipe)
        _start_decoder(open_clip, model)
    tower = _around(model, recipe, tokenizer, context_length)
    tower.text_model = text_model
    return tower


def outline(model: str | Path) -> Tower:
    """The architecture of a model on torch's meta device: shapes and FLOPs, but no weights and no tokenizer.

    Large models take no longer than small ones, and almost no memory. Nothing is downloaded.

    Args:
        model: as in `load_tower`, except addresses.

    Raises:
        AcedError: the name is unknown, the config unreadable or invalid, or the architecture would need a download.
    """
    if str(model).startswith(HUB):
        raise AcedError(f"{model}: its config would need a download; name its architecture in open_clip instead.")
    recipe = find_recipe(model)
    _refuse_downloads(recipe)
    with torch.device("meta"):
        built = _instantiate(import_open_clip(), recipe)

    def tokenize(texts: list[str]) -> torch.Tensor:
        raise AcedError(f"{recipe.name}: an outline has no tokenizer; load the model to embed texts.")

    context_length = int(recipe.config["text_cfg"].get("context_length", 77))
    return _around(built, recipe, tokenize, context_length).to("meta")


def _around(model: nn.Module, recipe: Recipe, tokenizer: Tokenizer, context_length: int) -> Tower:
    """The tower of an open_clip model that was built from a recipe."""
    quicken_attention(model)
    transform = import_open_clip().transform
    preprocess = transform.merge_preprocess_dict(transform.PreprocessCfg(), recipe.preprocess)
    size = getattr(model.visual, "image_size", preprocess["size"])
    preprocess["size"] = list(size) if isinstance(size, tuple) else size
    for key in ("mean", "std"):
        value = preprocess[key]
        preprocess[key] = list(value) if isinstance(value, (list, tuple)) else [value] * 3
    return Tower(recipe.name, model, recipe.config, preprocess, tokenizer, context_length)


def _instantiate(open_clip: Any, recipe: Recipe) -> nn.Module:
    """The open_clip model of a config, as `create_model` chooses its class."""
    options = json.loads(json.dumps(recipe.config))
    options.pop("custom_text", None)
    if options["vision_cfg"].get("timm_model_name"):
        options["vision_cfg"]["timm_model_pretrained"] = False
    if options["text_cfg"].get("hf_model_name"):
        options["text_cfg"]["hf_model_pretrained"] = False
    kind = open_clip.CLIP
    if is_custom(recipe.config):
        kind = open_clip.CoCa if "multimodal_cfg" in options else open_clip.CustomTextCLIP
    try:
        model: nn.Module = kind(**options)
    except AcedError:
        raise
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError, ImportError, OSError) as error:
        raise AcedError(f"{recipe.name}: open_clip cannot build this config: {error}.") from error
    return model


def _start_decoder(open_clip: Any, model: nn.Module) -> None:
    """Initialise the one weight that open_clip allocates and never fills: the projection of CoCa's text decoder.

    With whatever was in memory it would differ between two builds with the same seed, and sometimes be NaN.
    """
    for module in model.modules():
        if isinstance(module, open_clip.transformer.MultimodalTransformer) and module.text_projection is not None:
            nn.init.normal_(module.text_projection, std=module.width**-0.5)


def _refuse_downloads(recipe: Recipe) -> None:
    """Stop before a part of the model would be downloaded from a hub."""
    vision, text = recipe.config["vision_cfg"], recipe.config["text_cfg"]
    if str(vision.get("timm_model_name") or "").startswith(("hf-hub:", "hf_hub:")):
        raise AcedError(f"{recipe.name}: vision_cfg.timm_model_name is on a hub; name an architecture of timm instead.")
    source = text.get("hf_model_name")
    if source and not Path(str(source)).is_dir():
        raise AcedError(
            f"{recipe.name}: its text tower '{source}' would need a download; put its config into a "
            "folder and name that folder in 'text_cfg.hf_model_name' of a local copy of the config."
        )


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw from `seed` in this context and leave the global generator unchanged; without a seed, use the global one."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
