"""From a name or a path to the recipe of a tower: its config, preprocessing, tokenizer and weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from aced.errors import AcedError
from aced.files.standins import stand_in_at
from aced.models.compat import import_open_clip
from aced.models.hub_files import HubFile
from aced.models.hub_folder import HUB_CONFIG, hub_weights
from aced.models.names import looks_like_weights, what_was_meant
from aced.models.pretrained import HUB, hub_parts, tag_parts
from aced.models.pretrained_tags import agreed_pixels, agreed_quick_gelu, says_of_tag, tags_of, usual_pixels
from aced.runtime.paths import expand_optional

TOWER_FILE, WEIGHTS_FILE, WORDS_FILE = "tower.json", "model.safetensors", "vocabulary.txt"
OWN = "own"
"""Key under which the description of a model from outside open_clip names its code."""
FORMAT = 2
_FORMATS = (1, FORMAT)
"""The fingerprint of format 1 left out the architecture."""


@dataclass
class Recipe:
    """Everything that a tower is built from, wherever it was found.

    Attributes:
        name: the model as requested.
        config: the open_clip model config, with paths relative to here.
        preprocess: the preprocessing that was specified; the rest is open_clip's default.
        kind: a `name` of open_clip's list, a `json` file, a folder that we `saved`, or a `hub` folder.
        place: the file or folder; None for a name.
        vocabulary: a word list that belongs to it.
        fingerprint: the one that the folder records, and its `format`.
        plain: for a name, the recipe without the settings that all its pretrained weights share, if that differs.
        notes: sentences about it that a user should read.
        source: the file of its trained weights, or where to fetch it; None: it has none.
        key: which of several sets of weights in that file to use; empty: the model itself.
        fetches: whether weights, tokenizer and text config may be downloaded: a tag or an address on the hub was named.
    """

    name: str
    config: dict[str, Any]
    preprocess: dict[str, Any] = field(default_factory=dict)
    kind: Literal["name", "json", "saved", "hub"] = "name"
    place: Path | None = None
    vocabulary: Path | None = None
    fingerprint: str | None = None
    format: int = FORMAT
    plain: Recipe | None = None
    notes: tuple[str, ...] = ()
    source: Path | HubFile | str | None = None
    key: str = ""
    fetches: bool = False

    @property
    def trained(self) -> bool:
        """Whether it comes with trained weights."""
        return self.source is not None

    def text_model(self) -> dict[str, Any] | None:
        """The `config.json` of a Hugging Face text tower; None for open_clip's own.

        Raises:
            AcedError: it cannot be read.
        """
        source = self.config["text_cfg"].get("hf_model_name")
        if not source:
            return None
        path = Path(str(source)) / "config.json"
        try:
            found = dict(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise AcedError(f"{self.name}: the config of its text tower, {path}, cannot be read: {error}.") from None
        if "auto_map" in found and not _known_to_transformers(str(found.get("model_type"))):
            raise AcedError(
                f"{self.name}: its text tower asks to run its own code (auto_map in {path}), which aced never "
                "does: use a model that transformers knows."
            )
        return found


def expanded(place: str | Path) -> str:
    """A name or path with `~` expanded; empty if there is none.

    Raises:
        AcedError: it names no user's home, or contains a shell variable.
    """
    try:
        return expand_optional(str(place))
    except ValueError as error:
        raise AcedError(f"{place}: {error}.") from None


def find_recipe(model: str | Path, checkpoint: str | Path | None = None, key: str = "") -> Recipe:
    """The recipe for a name, a path or an address, and where its weights are.

    Only the small config of a repository that `model` names is downloaded; a local folder of that name comes first.

    Args:
        model: see `load_tower`.
        checkpoint: weights to use instead of the model's own, see `load_tower`.
        key: the section of a config that names it, which a recipe may have done and not the user; empty on the command
            line.

    Raises:
        AcedError: there is no such model or checkpoint, its config cannot be read, or the name of its weights is not
            informative.
    """
    try:
        recipe = _find(expanded(model))
    except AcedError as error:
        raise AcedError(f"{key}.model: {error}" if key else str(error)) from None
    if checkpoint is None or not str(checkpoint):
        return recipe if recipe.source is not None else replace(recipe, source=_own_weights(recipe))
    path, key = split_key(expanded(checkpoint))
    if path.is_file() or (path.exists() and not says_of_tag(recipe.name, str(checkpoint))):
        return replace(recipe, source=path, key=key)
    config, preprocess, source = tag_parts(recipe.name if recipe.kind == "name" else None, str(checkpoint))
    return Recipe(recipe.name, config, preprocess, source=source, fetches=True)


def split_key(checkpoint: str) -> tuple[Path, str]:
    """The path of a checkpoint and, after a `#`, which of several sets of weights in it to use."""
    head, sharp, key = checkpoint.rpartition("#")
    if not sharp or Path(checkpoint).exists():
        return Path(checkpoint), ""
    return Path(head), key


def trained_recipe(model: str | Path, checkpoint: str | Path | None = None, key: str = "") -> Recipe:
    """As `find_recipe`, for a model that must be trained: a random one would select, teach and score at random.

    Args:
        model, checkpoint, key: see `find_recipe`.

    Raises:
        AcedError: as `find_recipe`, or it has no trained weights.
    """
    recipe = find_recipe(model, checkpoint, key)
    if not recipe.trained:
        tags = tags_of(recipe.name) if recipe.kind == "name" else []
        what, how = (f"{key}.model = '{model}'", f"as {key}.checkpoint") if key else (model, "with --checkpoint")
        some = f" a tag of open_clip's list ({', '.join(tags[:2])}{', ...' * (len(tags) > 2)}) or" if tags else ""
        raise AcedError(
            f"{what} has no trained weights: name{some} a local file {how}, or the `model` folder of a run."
        )
    return recipe


def _own_weights(recipe: Recipe) -> Path | None:
    """The weights that a local model brings; None for a name, a config, and a hub folder without weights."""
    if recipe.kind == "saved" and recipe.place is not None:
        return recipe.place / WEIGHTS_FILE
    return hub_weights(recipe.place) if recipe.kind == "hub" and recipe.place is not None else None


def _find(model: str) -> Recipe:
    if not model:
        raise AcedError("No model is given; name an open_clip architecture, a JSON config or a model folder.")
    path = Path(model)
    if path.name in (TOWER_FILE, HUB_CONFIG) and path.is_file():
        path = path.parent
    for folder in (path, path / "model"):  # a run's folder means the model in it
        if (folder / TOWER_FILE).is_file():
            return saved_recipe(folder)
    if (path / HUB_CONFIG).is_file():
        return _hub_copy(path)
    if path.suffix == ".json" and path.is_file():
        config, preprocess = _levels(path)
        beside = path.with_name(f"{path.stem}-vocab.txt")
        return Recipe(path.stem, config, preprocess, "json", path, vocabulary=beside if beside.is_file() else None)
    if model.startswith(HUB):
        place, weights = hub_parts(model)
        config, preprocess = _levels(place)
        return Recipe(weights.repo.rpartition("/")[2], config, preprocess, "hub", source=weights, fetches=True)
    return _named(model, path)


def saved_recipe(folder: Path) -> Recipe:
    """The recipe of a folder that `save_tower` wrote.

    Raises:
        AcedError: its description cannot be read, or comes from a later version.
    """
    description = _read_json(folder / TOWER_FILE)
    if description.get("format") not in _FORMATS:
        raise AcedError(
            f"{folder / TOWER_FILE}: format {description.get('format')!r} is unknown (this version reads "
            f"{' and '.join(map(str, _FORMATS))}); update aced."
        )
    if OWN in description:
        raise AcedError(
            f"{folder} holds weights of {description[OWN]}, which only that code can build: build the tower with it "
            "(aced.own_tower), load model.safetensors into its model, and pass it to aced in Python."
        )
    config, preprocess = _levels(folder / TOWER_FILE, description)
    return Recipe(
        str(description.get("name") or folder.name),
        config,
        preprocess,
        "saved",
        folder,
        vocabulary=folder / WORDS_FILE if description.get("vocabulary") else None,
        fingerprint=description.get("fingerprint"),
        format=description["format"],
    )


def _hub_copy(folder: Path) -> Recipe:
    """A local copy of a model's hub folder; the tokenizer that it needs is in the same folder."""
    config, preprocess = _levels(folder / HUB_CONFIG)
    if config["text_cfg"].get("hf_tokenizer_name"):
        config["text_cfg"]["hf_tokenizer_name"] = str(folder)
    words = folder / WORDS_FILE  # `aced export` writes it beside a config with a word tokenizer
    return Recipe(folder.name, config, preprocess, "hub", folder, vocabulary=words if words.is_file() else None)


def _named(model: str, path: Path) -> Recipe:
    """An architecture of open_clip's list, the demo family included; anything else is refused here."""
    config = import_open_clip().get_model_config(model) if ":" not in model else None
    if config is None:
        raise AcedError(_unknown(model, path))
    plain = Recipe(model, config)
    preprocess, quick = agreed_pixels(model), agreed_quick_gelu(model) and not config.get("quick_gelu")
    notes = []
    if quick:
        config = {**config, "quick_gelu": True}
        notes.append(
            f"{model}: with QuickGELU, as all its pretrained weights in open_clip's list; for GELU use a "
            'JSON config without "quick_gelu".'
        )
    usual = usual_pixels()
    other = {key: value for key, value in preprocess.items() if usual[key] != value}
    if other:
        told = ", ".join(f"{key} {value}" for key, value in other.items())
        notes.append(f"{model}: {told}, as for all pretrained weights in open_clip's list.")
    if not quick and not other:
        return replace(plain, preprocess=preprocess)
    return Recipe(model, config, preprocess, plain=plain, notes=tuple(notes))


def _unknown(model: str, path: Path) -> str:
    """Why there is no such model, and what to do."""
    scheme, _, rest = model.partition(":")
    if scheme == "local-dir":
        return f"{model}: name only the folder, {rest}."
    if repo := re.fullmatch(r"(?:hf_hub:|hf:(?://)?|https?://(?:huggingface|hf)\.co/)([\w.-]+/[\w.-]+).*", model):
        return f"{model}: write {HUB}{repo[1]}."
    if scheme in ("http", "https"):
        return f"{model}: the only addresses supported are {HUB}ORGANISATION/MODEL; otherwise name a local folder."
    if path.is_dir():
        return f"{model}: {_no_model_in(path)}"
    if path.is_file() or looks_like_weights(path):
        there = "is a file of weights" if path.is_file() else "would be a file of weights, but does not exist"
        return (
            f"{model} {there}; the model must be an architecture, a JSON config or a folder, and such a file is its "
            "checkpoint."
        )
    if path.suffix == ".json" or len(path.parts) > 2 or model.startswith(("./", "../", "~")) or _is_path(path):
        return f"{model}: no such file or folder; name a JSON config, a model folder or an architecture."
    if len(path.parts) > 1:
        return f"No model is called '{model}', and there is no such file or folder.{what_was_meant(model)}"
    return f"No model is called '{model}'.{what_was_meant(model)}"


def _is_path(path: Path) -> bool:
    """Whether two words with a slash are a path and not a repository: `runs/model`, or an existing folder."""
    return path.is_absolute() or (len(path.parts) > 1 and (path.name == "model" or path.parent.is_dir()))


def _no_model_in(folder: Path) -> str:
    """Why a folder is not a model."""
    if _of_transformers(folder):
        return (
            "the folder is in the layout of Hugging Face's transformers (a config.json); name the architecture, and "
            f"its weight file as the checkpoint, or use the open_clip folder of the same model, with "
            f"{HUB_CONFIG}."
        )
    if (folder / "config.toml").is_file():
        return "the run has no model yet: it writes one when it ends; continue with 'aced train ... --resume'."
    inside = sorted(one.parent.name for one in folder.glob(f"*/{TOWER_FILE}"))
    named = f"; {folder / inside[0]} is one" if inside else "; name the `model` folder of a run"
    return f"the folder holds neither {TOWER_FILE} nor {HUB_CONFIG}{named}."


def _known_to_transformers(kind: str) -> bool:
    """Whether transformers builds a kind of model with its own code; if it is not installed, it builds none."""
    try:
        from transformers import CONFIG_MAPPING
    except ImportError:
        return False
    return kind in CONFIG_MAPPING


def _of_transformers(folder: Path) -> bool:
    try:
        content = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "model_type" in content


# -- configs ---------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if what := stand_in_at(path):
            raise AcedError(f"Cannot read the model config {path}: {what}.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AcedError(f"Cannot read the model config {path}: {error}.") from None
    if not isinstance(content, dict):
        raise AcedError(f"{path}: a model config must be a JSON object.")
    return content


def _levels(path: Path, content: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and preprocessing config of a JSON file of one or two levels; paths in it are relative to it."""
    content = _read_json(path) if content is None else content
    config = content.get("model_cfg", content)
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if missing:
        foreign = "; it is for Hugging Face's transformers; open_clip has its own" * ("model_type" in content)
        raise AcedError(f"{path}: not an open_clip model config: '{missing[0]}' is missing{foreign}.")
    for key in ("vision_cfg", "text_cfg"):
        if not isinstance(config[key], dict):
            raise AcedError(f"{path}: '{key}' must be a JSON object.")
    for key in ("hf_tokenizer_name", "hf_model_name"):
        source = expanded(config["text_cfg"].get(key) or "")
        if source and (path.parent / source).is_dir():
            config["text_cfg"][key] = str(path.parent / source)
    return config, dict(content.get("preprocess_cfg") or {})
