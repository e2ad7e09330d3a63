"""Which samples a tar holds and where their parts lie, kept in a cache folder if there is one."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aced.data.atomic import write_atomic
from aced.data.tars import TarFault, TarListing, list_tar, split_key

# In order of preference where a sample has more than one.
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
_PARTS = ("image", "txt", "json")
_VERSION = 1


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar by key, in the order in which the keys first appear; n of them.

    Attributes:
        size: bytes of the file.
        mtime_ns: its modification time.
        keys: the n keys.
        places: for `image`, `txt` and `json`: `[n, 2]` int64 offset and size, offset -1 where there is none.
        suffixes: of the samples without image or txt, all suffixes that they have.
        notes: key (or member), name and detail of oddities that do not make a sample unusable.
        fault: what is wrong with the tar, if anything; the samples are then those before it.
    """

    size: int
    mtime_ns: int
    keys: list[str]
    places: dict[str, np.ndarray]
    suffixes: dict[str, list[str]]
    notes: list[tuple[str, str, str]]
    fault: TarFault | None

    def mark(self) -> str:
        """A hash of everything but the time: equal for a copy, other for nearly any change of content."""
        digest = hashlib.sha256(f"{self.size}\n".encode())
        digest.update(json.dumps(self.keys).encode())
        for part in _PARTS:
            digest.update(self.places[part].astype("<i8").tobytes())
        return digest.hexdigest()[:16]


def index_tar(path: Path, index_dir: Path | None = None) -> TarIndex:
    """The index of a tar: from the cache if size and time still fit, else by reading all headers.

    Args:
        path: the tar.
        index_dir: where indexes are kept; nothing is kept without it.

    Raises:
        OSError: the tar cannot be read.
        AcedError: the index cannot be written.
    """
    if index_dir is None:
        return _group(list_tar(path))
    name = hashlib.sha256(os.path.realpath(path).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    cache = index_dir / f"{path.stem}-{name}.json"
    state = os.stat(path)
    index = _load(cache)
    if index is None or (index.size, index.mtime_ns) != (state.st_size, state.st_mtime_ns):
        index = _group(list_tar(path))
        write_atomic(cache, json.dumps(_to_json(index)))
    return index


def _group(listing: TarListing) -> TarIndex:
    """Members to samples. A sample's members need not be neighbours."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    notes = [(name, "not_regular", "it is a link or a special file, which is not read") for name in listing.others]
    for member in listing.members:
        split = split_key(member.name)
        if split is None:
            notes.append((member.name, "no_key", "its name has no key or no suffix"))
            continue
        key, suffix = split
        parts = samples.setdefault(key, {})
        if suffix in parts:
            notes.append((key, "duplicate_member", f"it has {suffix} more than once; the first is used"))
        else:
            parts[suffix] = (member.offset, member.size)
    places = {part: np.full((len(samples), 2), -1, dtype=np.int64) for part in _PARTS}
    suffixes: dict[str, list[str]] = {}
    for row, (key, parts) in enumerate(samples.items()):
        images = [suffix for suffix in IMAGE_SUFFIXES if suffix in parts]
        if len(images) > 1:
            notes.append((key, "two_images", f"it has {' and '.join(images)}; {images[0]} is used"))
        if images:
            places["image"][row] = parts[images[0]]
        for part in ("txt", "json"):
            if part in parts:
                places[part][row] = parts[part]
        if not images or "txt" not in parts:
            suffixes[key] = list(parts)
    return TarIndex(listing.size, listing.mtime_ns, list(samples), places, suffixes, notes, listing.fault)


def _to_json(index: TarIndex) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "size": index.size,
        "mtime_ns": index.mtime_ns,
        "keys": index.keys,
        "places": {part: rows.ravel().tolist() for part, rows in index.places.items()},
        "suffixes": index.suffixes,
        "notes": index.notes,
        "fault": [index.fault.name, index.fault.detail] if index.fault else None,
    }


def _load(cache: Path) -> TarIndex | None:
    """An index from the cache; None if there is none or it is not what this version writes."""
    try:
        content = json.loads(cache.read_bytes())
        if content["version"] != _VERSION:
            return None
        places = {part: np.array(content["places"][part], dtype=np.int64).reshape(-1, 2) for part in _PARTS}
        if any(len(rows) != len(content["keys"]) for rows in places.values()):
            return None
        return TarIndex(
            content["size"],
            content["mtime_ns"],
            content["keys"],
            places,
            content["suffixes"],
            [(key, name, detail) for key, name, detail in content["notes"]],
            TarFault(*content["fault"]) if content["fault"] else None,
        )
    except (OSError, ValueError, KeyError, TypeError):
        # A cache that cannot be read is made again.
        return None
