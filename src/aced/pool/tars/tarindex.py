"""The index of a tar: its samples and where their parts are, stored in a cache folder if there is one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aced.errors import AcedError
from aced.files.atomic import write_cache
from aced.pool.faults import FaultList
from aced.pool.packed import PackedStrings
from aced.pool.source import Fault
from aced.pool.tars.tars import Member, TarFault, TarListing, list_tar, split_key

# In order of preference if a sample has more than one.
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
_PARTS = ("image", "txt", "json")
_VERSION = 2
_NOTES = 100
_NOWHERE = (-1, -1)
MemberParts = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar by key, in the order in which the keys first appear; n of them.

    Attributes:
        size: bytes of the file.
        mtime_ns: its modification time.
        keys: the n keys.
        places: for `image`, `txt` and `json`: `[n, 2]` int64 offset and size, offset -1 if absent.
        suffixes: of the samples without image or txt, all suffixes that they have.
        notes: irregularities that leave a sample usable; their key is the sample's or the name of the member.
        faults: what is wrong with the tar; its whole samples are listed all the same.
        content_mark: see `mark`.
    """

    size: int
    mtime_ns: int
    keys: PackedStrings
    places: dict[str, np.ndarray]
    suffixes: dict[str, list[str]]
    notes: list[Fault]
    faults: list[TarFault]
    content_mark: str

    @property
    def fault(self) -> TarFault | None:
        """The first fault of the tar, if there is any."""
        return self.faults[0] if self.faults else None

    def mark(self) -> str:
        """A hash of everything but the time: equal for a copy, different for nearly any change of content."""
        return self.content_mark


def index_tar(path: Path, index_dir: Path | None = None) -> tuple[TarIndex, KeptNote | None]:
    """The index of a tar: from the cache if size and time still match, otherwise from all headers.

    Args:
        path: the tar.
        index_dir: folder of stored indexes; nothing is stored without it.

    Returns:
        The index, and what was wrong with the stored one: a faulty cache stops nothing.

    Raises:
        OSError: the tar cannot be read.
    """
    if index_dir is None:
        return _group(list_tar(path)), None
    cache = kept_index(path, index_dir)
    state = os.stat(path)
    index, note = _load(cache)
    if index is not None and (index.size, index.mtime_ns) == (state.st_size, state.st_mtime_ns):
        return index, None
    if index is not None:
        note = KeptNote("stale", str(cache))
    index = _group(list_tar(path))
    try:
        write_cache(cache, _packed(index))
    except AcedError as error:
        note = KeptNote("not_kept", str(error).rstrip("."))
    return index, note


def kept_index(path: Path, index_dir: Path) -> Path:
    """The file for a tar in a folder of indexes."""
    name = hashlib.sha256(os.path.realpath(path).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return index_dir / f"{path.stem}-{name}.npz"


class KeptNote(NamedTuple):
    """What is wrong with a stored index: `stale`, `damaged`, or (it cannot be written) `not_kept`; and a sentence."""

    name: str
    detail: str


def kept_text(index_dir: Path, notes: Sequence[KeptNote]) -> str:
    """A sentence about what was wrong with some stored indexes, none of which is used."""
    counts = Counter(note.name for note in notes)
    example = {note.name: note.detail for note in reversed(notes)}
    parts = [f"{words}: {counts[name]:,} ({example[name]})" for name, words in _NOT_USED.items() if counts[name]]
    return f"Indexes of tars in {index_dir}: {'; '.join(parts)}. These tars' headers were read instead."


_NOT_USED = {
    "not_kept": "cannot be stored",
    "stale": "out of date, made anew",
    "damaged": "damaged, made anew",
}


def no_index(fault: TarFault) -> TarIndex:
    """The index of a tar without usable content."""
    places = {part: np.empty((0, 2), dtype=np.int64) for part in _PARTS}
    return TarIndex(-1, -1, PackedStrings.of([]), places, {}, [], [fault], "")


def _group(listing: TarListing) -> TarIndex:
    """Members to samples. A sample's members need not be neighbours."""
    notes = FaultList(_NOTES)
    for name in listing.others:
        notes.add(Fault(name, "not_regular", "it is a link or a special file, which is not read"))
    for name in listing.folders:
        notes.add(Fault(name, "folder", "it is an entry for a folder"))
    samples = _samples(listing.members, notes)
    found: dict[str, list[tuple[int, int]]] = {part: [] for part in _PARTS}
    suffixes: dict[str, list[str]] = {}
    for key, parts in samples.items():
        images = [suffix for suffix in IMAGE_SUFFIXES if suffix in parts]
        if len(images) > 1:
            notes.add(Fault(key, "two_images", f"it has {' and '.join(images)}; {images[0]} is used"))
        found["image"].append(parts[images[0]] if images else _NOWHERE)
        found["txt"].append(parts.get("txt", _NOWHERE))
        found["json"].append(parts.get("json", _NOWHERE))
        if not images or "txt" not in parts:
            suffixes[key] = list(parts)
    places = {part: np.array(rows, dtype=np.int64).reshape(-1, 2) for part, rows in found.items()}
    keys = PackedStrings.of(samples)
    mark = _mark(listing.size, list(samples), places)
    return TarIndex(listing.size, listing.mtime_ns, keys, places, suffixes, list(notes), listing.faults, mark)


def _samples(members: Iterable[Member], notes: FaultList) -> dict[str, MemberParts]:
    """Offset and size by key and suffix.

    A name that occurs twice in a row is a mistake, and the first counts. A key that starts again elsewhere (tars that
    were joined) is another sample: `KEY#2`.
    """
    samples: dict[str, MemberParts] = {}
    newest: dict[str, str] = {}  # only for repeated keys: the name of their last sample
    before = None
    for member in members:
        split = split_key(member.name)
        if split is None:
            notes.add(Fault(member.name, "no_key", "its name has no key or no suffix"))
            continue
        key, suffix = split
        name = newest.get(key, key) if newest else key
        parts = samples.get(name)
        if parts is None:
            parts = samples[name] = {}
        if suffix in parts and before == key:
            notes.add(Fault(name, "duplicate_member", f"it has {suffix} more than once; the first is used"))
        elif suffix in parts:
            number = 2
            while (name := f"{key}#{number}") in samples:
                number += 1
            newest[key], samples[name] = name, {suffix: (member.offset, member.size)}
            notes.add(Fault(name, "duplicate_key", f"the key {key} occurs again and counts as another sample"))
        else:
            parts[suffix] = (member.offset, member.size)
        before = key
    return samples


def _mark(size: int, keys: list[str], places: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(f"{size}\n".encode())
    digest.update(json.dumps(keys).encode())
    for part in _PARTS:
        digest.update(places[part].astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _packed(index: TarIndex) -> bytes:
    """The content of a cache file: arrays, and the rest as JSON in one of them."""
    facts = {
        "version": _VERSION,
        "size": index.size,
        "mtime_ns": index.mtime_ns,
        "suffixes": index.suffixes,
        "notes": [asdict(note) for note in index.notes],
        "faults": [asdict(fault) for fault in index.faults],
        "mark": index.content_mark,
    }
    arrays = {part: index.places[part] for part in _PARTS}
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    arrays["keys"] = np.frombuffer(index.keys.content, dtype=np.uint8)
    arrays["ends"] = index.keys.ends
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def _load(cache: Path) -> tuple[TarIndex | None, KeptNote | None]:
    """An index from the cache; None if there is none, or (with a note) if this version did not write it like that."""
    try:
        with np.load(cache, allow_pickle=False) as file:
            facts = json.loads(file["facts"].tobytes())
            if facts["version"] != _VERSION:
                return None, None
            return _unpacked(file, facts), None
    except FileNotFoundError:
        return None, None
    except NotADirectoryError:
        return None, None  # writing will report it
    except _UNREADABLE as error:
        words = error.strerror if isinstance(error, OSError) else str(error)
        return None, KeptNote("damaged", f"{cache}: {words or type(error).__name__}")


# Exceptions of numpy, zipfile and json for a file with flipped bytes; NotImplementedError is a RuntimeError.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)


def _unpacked(file: Mapping[str, np.ndarray], facts: dict[str, Any]) -> TarIndex:
    """The index in a cache file; raises ValueError, KeyError or TypeError if it is inconsistent."""
    keys = PackedStrings(file["keys"].tobytes(), file["ends"])
    places = {part: file[part] for part in _PARTS}
    if any(rows.shape != (len(keys), 2) or rows.dtype != np.int64 for rows in places.values()):
        raise ValueError("its places do not match its keys")
    if keys.ends.dtype != np.int64 or keys.ends[0] != 0 or keys.ends[-1] != len(keys.content):
        raise ValueError("its keys end at the wrong place")
    return TarIndex(
        facts["size"],
        facts["mtime_ns"],
        keys,
        places,
        facts["suffixes"],
        [Fault(**note) for note in facts["notes"]],
        [TarFault(**fault) for fault in facts["faults"]],
        facts["mark"],
    )
