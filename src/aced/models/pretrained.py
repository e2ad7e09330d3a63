"""Weights by name: tags of open_clip's list and repositories on the hub; naming one permits its download.

Tags and addresses are looked up as in open_clip; downloads are kept in the hub client's own cache.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aced.errors import AcedError, nearest
from aced.models.compat import import_open_clip
from aced.models.hub_files import (
    TOKENIZER_FILES,
    TOKENIZER_MODELS,
    FileProgress,
    HubFile,
    NotOnHub,
    endpoint,
    fetch,
    fetch_folder,
    silently,
)
from aced.models.hub_folder import HUB_CONFIG, NAMES
from aced.models.names import looks_like_weights
from aced.models.pretrained_tags import PIXELS, architectures_of_tag, listed, says_of_tag, tags_of

HUB = "hf-hub:"
"""Prefix of an address on the hub, as in open_clip."""
_SHOWN = 4


def tag_parts(name: str | None, tag: str) -> tuple[dict[str, Any], dict[str, Any], HubFile | str]:
    """The config, the preprocessing and the weight file of an architecture's tag.

    Args:
        name: the architecture; None for a model outside open_clip's list.
        tag: in any spelling.

    Raises:
        AcedError: the architecture has no weights of that name.
    """
    says = says_of_tag(name, tag) if name is not None else {}
    if not says:
        raise AcedError(_no_such_tag(name, tag))
    config: dict[str, Any] = import_open_clip().get_model_config(name)
    if says.get("quick_gelu"):
        config["quick_gelu"] = True
    preprocess = {key: listed(says[key]) for key in PIXELS if says.get(key) is not None}
    return config, preprocess, _file_of(says, tag)


def _file_of(says: dict[str, Any], tag: str) -> HubFile | str:
    """Where the weights of a tag are: in a repository or, in versions of open_clip before 3, at an address."""
    repo, _, name = str(says.get("hf_hub") or "").rpartition("/")
    if not repo:
        return str(says["url"])
    # As open_clip: safetensors if there are any. An entry without a file name ends in a slash.
    names = (name.rsplit(".", 1)[0] + ".safetensors", name) if name else (NAMES[0], NAMES[2])
    hand = f"name it as the checkpoint under a name that contains {tag}"
    return HubFile(repo, tuple(dict.fromkeys(names)), hand=hand)


def _no_such_tag(name: str | None, tag: str) -> str:
    """Why a word that is not a local file is not a tag either."""
    others, own = architectures_of_tag(tag), tags_of(name) if name is not None else []
    if not others and (not own or looks_like_weights(Path(tag)) or "/" in tag or "#" in tag):
        return f"There is no checkpoint {tag}; name a local file, or a tag of open_clip's list."
    if not others:
        return f"There is no checkpoint {tag}, neither a file nor a tag of {name}.{nearest(tag, own)}"
    of = f"'{tag}' is a tag of pretrained weights of {_some(others)}"
    if name is None:
        return f"{of}, so the model must be one of these architectures; name one of them, or a local file here."
    there = f"has {_some(own)}" if own else "has no weights in open_clip's list"
    return f"{of}; {name} {there}: name an architecture and one of its tags, or a local file."


def hub_parts(address: str) -> tuple[Path, HubFile]:
    """The downloaded config of a repository, and where its weights are.

    Args:
        address: `hf-hub:ORGANISATION/MODEL`, with `@REVISION` if it is not the main branch.

    Raises:
        AcedError: it cannot be fetched, or is not an open_clip repository.
    """
    repo, _, revision = address.removeprefix(HUB).partition("@")
    hand = f"put it and {HUB_CONFIG} into a folder that you name as the model"
    weights = HubFile(repo, NAMES, revision or None, hand)
    try:
        return fetch(replace(weights, names=(HUB_CONFIG,)), silently), weights
    except NotOnHub:
        raise AcedError(_foreign(weights)) from None


def _foreign(file: HubFile) -> str:
    """What a repository without open_clip's config is."""
    what = f"{HUB}{file.repo}"
    try:
        config = json.loads(fetch(replace(file, names=("config.json",)), silently).read_bytes())
    except (AcedError, ValueError):
        return f"{what} has no {HUB_CONFIG}: it is not the repository of an open_clip model."
    if "auto_map" in config:
        return (
            f"{what} asks to run its own code (auto_map in its config.json), which aced never does: use a "
            f"model with {HUB_CONFIG}."
        )
    kind = config.get("model_type", "another kind") if isinstance(config, dict) else "another kind"
    return (
        f"{what} has no {HUB_CONFIG}: it is a transformers repository ({kind}); name an open_clip architecture, and "
        f"as its checkpoint the weight file from {endpoint()}/{file.repo}."
    )


def fetched_text(name: str, text: Mapping[str, Any], progress: FileProgress | None = None) -> dict[str, Any]:
    """A `text_cfg` whose tokenizer and text tower config on the hub have been copied to local folders.

    Args:
        name: the model, for error messages.
        text: the section of an open_clip model config.
        progress: opens the bar of a download.

    Raises:
        AcedError: they cannot be fetched, or cannot be used here.
    """
    text = dict(text)
    wanted = {"hf_tokenizer_name": (*TOKENIZER_FILES, *TOKENIZER_MODELS), "hf_model_name": ("config.json",)}
    for key, patterns in wanted.items():
        repo = str(text.get(key) or "")
        if repo and not Path(repo).is_dir():
            if find_spec("transformers") is None:
                raise AcedError(f"{name}: its text tower needs transformers: run `pip install transformers`.")
            hand = f"name their folder as text_cfg.{key} of a JSON config"
            text[key] = str(fetch_folder(HubFile(repo, patterns, hand=hand), progress))
    return text


def fetched_weights(source: Path | HubFile | str | None, progress: FileProgress | None = None) -> Path | None:
    """The local file of a recipe's weights, downloaded if needed; None if it has none.

    Raises:
        AcedError: they cannot be fetched.
    """
    if isinstance(source, HubFile):
        return fetch(source, progress)
    return _from_address(source) if isinstance(source, str) else source


def _from_address(url: str) -> Path:
    """A file outside a hub, by open_clip's own loader into its own cache."""
    folder = Path("~/.cache/clip").expanduser()
    target = folder / url.rpartition("/")[2]
    was_there = target.exists()
    try:
        return Path(import_open_clip().pretrained.download_pretrained_from_url(url, cache_dir=str(folder)))
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        if not was_there:
            target.unlink(missing_ok=True)  # a partial download
        raise AcedError(f"{url} cannot be fetched ({error}): fetch it by hand and name its path.") from None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
