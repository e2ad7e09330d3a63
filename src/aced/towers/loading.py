"""Build a `Tower` from a name, a JSON config or a folder, with local weights; save it. Never the network."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aced.data.atomic import save_tensors_atomic, write_atomic, writing
from aced.errors import AcedError, nearest
from aced.paths import expand_optional
from aced.towers.attention import quicken_attention
from aced.towers.compat import import_open_clip
from aced.towers.tokenizers import WordTokenizer, choose_tokenizer
from aced.towers.tower import Tower
from aced.towers.weights import load_weights

TOWER_FILE, WEIGHTS_FILE, WORDS_FILE = "tower.json", "model.safetensors", "vocabulary.txt"
_TOKENIZER_FOLDER = "tokenizer"
_OPEN_CLIP_FILE = "open_clip_config.json"
_OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
_FORMAT = 1


@dataclass
class _Recipe:
    """What a tower is built from, wherever that was found."""

    name: str
    config: dict[str, Any]
    preprocess: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    vocabulary: Path | None = None
    fingerprint: str | None = None


def load_tower(
    model: str | Path,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    seed: int | None = None,
) -> Tower:
    """Build an open_clip model with its preprocessing and tokenizer.

    Args:
        model: an open_clip architecture (`ViT-S-32`), the demo family (`aced-demo-s`, `-m`, `-l`), the path
            of an open_clip JSON config, a folder that `save_tower` wrote, or a folder with an
            `open_clip_config.json`.
        checkpoint: local weights, .safetensors or .pt/.pth/.bin (read with `weights_only=True`); for a folder
            they take the place of its own.
        device: where the model goes; it is always built on the CPU.
        seed: seed of the initial weights. The global generator stays as it was; without a seed it is used,
            unless the weights are loaded.

    A JSON config may carry a second level, `{"model_cfg": .., "preprocess_cfg": ..}`, as on the hub.
    Architecture names get open_clip's default preprocessing, as with `open_clip.create_model` and a local
    file.

    Raises:
        AcedError: unknown name, unreadable or invalid config, weights that do not fit, or something that
            would have to be downloaded.
    """
    recipe = _find(_expanded(model))
    weights = Path(_expanded(checkpoint)) if checkpoint is not None and str(checkpoint) else recipe.weights
    # Where every weight is loaded anyway, the initial ones must not cost the caller random numbers.
    tower = _build(recipe, 0 if seed is None and weights is not None else seed)
    if weights is not None:
        load_weights(tower.model, weights, tower.name)
    if weights == recipe.weights and recipe.fingerprint not in (None, tower.fingerprint()):
        raise AcedError(
            f"{model}: {WEIGHTS_FILE} and {TOWER_FILE} do not belong together (the folder was overwritten "
            "in part, or a file was changed); write the folder again."
        )
    return tower.to(device)


def save_tower(tower: Tower, folder: str | Path) -> None:
    """Write a folder that `load_tower` reads: `tower.json`, `model.safetensors` and the tokenizer's own files.

    Each file is replaced as a whole, the JSON last. The weights carry open_clip's own names. What else lies in
    the folder stays.

    Raises:
        AcedError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    state = {name: tensor.cpu() for name, tensor in tower.model.state_dict().items()}
    save_tensors_atomic(folder / WEIGHTS_FILE, state)
    words = isinstance(tower.tokenizer, WordTokenizer)
    config = json.loads(json.dumps(tower.config))
    if isinstance(tower.tokenizer, WordTokenizer):
        write_atomic(folder / WORDS_FILE, "\n".join(tower.tokenizer.words) + "\n")
    elif hasattr(tower.tokenizer, "save_pretrained"):
        with writing(folder / _TOKENIZER_FOLDER):
            tower.tokenizer.save_pretrained(folder / _TOKENIZER_FOLDER)
        config["text_cfg"]["hf_tokenizer_name"] = _TOKENIZER_FOLDER
    description = {
        "format": _FORMAT,
        "name": tower.name,
        "model_cfg": config,
        "preprocess_cfg": tower.preprocess,
        "vocabulary": WORDS_FILE if words else None,
        "fingerprint": tower.fingerprint(),
    }
    write_atomic(folder / TOWER_FILE, json.dumps(description, indent=2) + "\n")


# -- what was asked for --------------------------------------------------------------------------------------


def _expanded(place: str | Path) -> str:
    """A name or path, `~` in it expanded."""
    try:
        return expand_optional(str(place))
    except ValueError as error:
        raise AcedError(f"{place}: {error}.") from None


def _find(model: str) -> _Recipe:
    """The recipe behind a name or a path."""
    if not model:
        raise AcedError("No model is given; name an open_clip architecture, a JSON config or a model folder.")
    path = Path(model)
    if (path / TOWER_FILE).is_file():
        return _saved(path)
    if (path / _OPEN_CLIP_FILE).is_file():
        return _hub_copy(path)
    if path.suffix == ".json" and path.is_file():
        config, preprocess = _levels(path)
        beside = path.with_name(f"{path.stem}-vocab.txt")
        return _Recipe(path.stem, config, preprocess, vocabulary=beside if beside.is_file() else None)
    if model.startswith(("hf-hub:", "hf_hub:", "local-dir:", "http:", "https:")):
        raise AcedError(
            f"{model}: nothing is downloaded; fetch the model's folder yourself and give its path, or give "
            "an architecture name and a local checkpoint."
        )
    if path.suffix == ".json" or len(path.parts) > 1:
        if path.is_dir():
            raise AcedError(
                f"{model}: the folder holds neither {TOWER_FILE} nor {_OPEN_CLIP_FILE}; name the `model` "
                "folder of a run."
            )
        raise AcedError(f"{model}: no such file or folder; give a JSON config, a model folder or a name.")
    return _named(model)


def _named(name: str) -> _Recipe:
    """An architecture of open_clip's registry, the demo family included."""
    open_clip = import_open_clip()
    config = open_clip.get_model_config(name)
    if config is None:
        known = open_clip.list_models()
        hint = nearest(name, known)
        if hint.startswith(" Known"):
            hint = f" There are {len(known)}; `open_clip.list_models()` lists them, the demo family among them."
        folder = f" (the folder {name} holds no {TOWER_FILE})" if Path(name).is_dir() else ""
        raise AcedError(f"No model is called '{name}'{folder}.{hint}")
    return _Recipe(name, config)


def _saved(folder: Path) -> _Recipe:
    """A folder that `save_tower` wrote."""
    description = _read_json(folder / TOWER_FILE)
    if description.get("format") != _FORMAT:
        raise AcedError(
            f"{folder / TOWER_FILE}: format {description.get('format')!r} is unknown (this version reads "
            f"{_FORMAT}); update aced."
        )
    config, preprocess = _levels(folder / TOWER_FILE, description)
    return _Recipe(
        str(description.get("name") or folder.name),
        config,
        preprocess,
        weights=folder / WEIGHTS_FILE,
        vocabulary=folder / WORDS_FILE if description.get("vocabulary") else None,
        fingerprint=description.get("fingerprint"),
    )


def _hub_copy(folder: Path) -> _Recipe:
    """A local copy of a model's folder on the hub; a tokenizer that it needs lies in the same folder."""
    config, preprocess = _levels(folder / _OPEN_CLIP_FILE)
    if config["text_cfg"].get("hf_tokenizer_name"):
        config["text_cfg"]["hf_tokenizer_name"] = str(folder)
    weights = next((folder / name for name in _OPEN_CLIP_WEIGHTS if (folder / name).is_file()), None)
    return _Recipe(folder.name, config, preprocess, weights=weights)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AcedError(f"Cannot read the model config {path}: {error}.") from None
    if not isinstance(content, dict):
        raise AcedError(f"{path}: a model config must be a JSON object.")
    return content


def _levels(path: Path, content: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and preprocessing config of a JSON file of one or two levels, folders in it as seen from it."""
    content = _read_json(path) if content is None else content
    config = content.get("model_cfg", content)
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if missing:
        raise AcedError(f"{path}: not an open_clip model config, '{missing[0]}' is missing.")
    for key in ("vision_cfg", "text_cfg"):
        if not isinstance(config[key], dict):
            raise AcedError(f"{path}: '{key}' must be a JSON object.")
    for key in ("hf_tokenizer_name", "hf_model_name"):
        source = _expanded(config["text_cfg"].get(key) or "")
        if source and (path.parent / source).is_dir():
            config["text_cfg"][key] = str(path.parent / source)
    return config, dict(content.get("preprocess_cfg") or {})


# -- building ------------------------------------------------------------------------------------------------


def _build(recipe: _Recipe, seed: int | None) -> Tower:
    """The tower with initial weights, on the CPU."""
    _refuse_downloads(recipe)
    context_length = int(recipe.config["text_cfg"].get("context_length", 77))
    tokenizer = choose_tokenizer(recipe.name, recipe.config["text_cfg"], context_length, recipe.vocabulary)
    open_clip = import_open_clip()
    with _seeded(seed):
        model = _instantiate(open_clip, recipe)
        _start_decoder(open_clip, model)
    quicken_attention(model)
    preprocess = open_clip.transform.merge_preprocess_dict(open_clip.transform.PreprocessCfg(), recipe.preprocess)
    size = getattr(model.visual, "image_size", preprocess["size"])
    preprocess["size"] = list(size) if isinstance(size, tuple) else size
    for key in ("mean", "std"):
        value = preprocess[key]
        preprocess[key] = list(value) if isinstance(value, (list, tuple)) else [value] * 3
    return Tower(recipe.name, model, recipe.config, preprocess, tokenizer, context_length)


def _instantiate(open_clip: Any, recipe: _Recipe) -> nn.Module:
    """The open_clip model of a config, as `create_model` chooses its class."""
    options = json.loads(json.dumps(recipe.config))
    custom = options.pop("custom_text", False) or "hf_model_name" in options["text_cfg"]
    if options["vision_cfg"].get("timm_model_name"):
        options["vision_cfg"]["timm_model_pretrained"] = False
    if options["text_cfg"].get("hf_model_name"):
        options["text_cfg"]["hf_model_pretrained"] = False
    kind = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in options else open_clip.CustomTextCLIP
    try:
        model: nn.Module = kind(**options)
    except AcedError:
        raise
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError, ImportError) as error:
        raise AcedError(f"{recipe.name}: open_clip cannot build this config: {error}.") from error
    return model


def _start_decoder(open_clip: Any, model: nn.Module) -> None:
    """Draw the one weight that open_clip allocates and never fills: the projection of CoCa's text decoder.

    Left as it was found in memory it would differ between two builds of the same seed, and be NaN now and then.
    """
    for module in model.modules():
        if isinstance(module, open_clip.transformer.MultimodalTransformer) and module.text_projection is not None:
            nn.init.normal_(module.text_projection, std=module.width**-0.5)


def _refuse_downloads(recipe: _Recipe) -> None:
    """Stop before a part of the model would be fetched from a hub."""
    vision, text = recipe.config["vision_cfg"], recipe.config["text_cfg"]
    if str(vision.get("timm_model_name") or "").startswith(("hf-hub:", "hf_hub:")):
        raise AcedError(f"{recipe.name}: vision_cfg.timm_model_name is on a hub; name an architecture of timm instead.")
    source = text.get("hf_model_name")
    if source and not Path(str(source)).is_dir():
        raise AcedError(
            f"{recipe.name}: its text tower '{source}' would have to be downloaded; put its config into a "
            "folder and name that folder in 'text_cfg.hf_model_name' of a local copy of the config."
        )


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw from `seed` inside and leave the global generator alone; without a seed, use the global one."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
