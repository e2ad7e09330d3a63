"""Image-text pairs in webdataset tars, read where they lie, at random, by an index of their headers.

The layout is that of img2dataset and DataComp: `key.jpg` (or jpeg, png, webp), `key.txt`, `key.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from aced.data.images import ImageFault, decode_image
from aced.data.source import Candidates, Fault
from aced.data.tarfiles import TarFiles, TarKeys, TarSession
from aced.data.tarindex import TarIndex, index_tar
from aced.data.tarpaths import distinct_names, expand_tars
from aced.data.tars import TarFault
from aced.data.views import View
from aced.errors import AcedError

MAX_CAPTION = 8192
"""Characters of a caption that are kept; a tokenizer needs seconds for a megabyte, to keep 77 tokens."""

HARMLESS = frozenset({"not_regular", "no_key", "duplicate_member", "two_images"})
"""Names of those faults in `Shards.faults` that leave out no sample."""


class Shards:
    """A `Source` of the whole samples of some tars; make one with `open_shards`.

    Safe to use from threads, and after pickling or a fork in worker processes.

    Attributes:
        name: name of the folder that holds the tars.
        keys: `<tar name>/<key>` of each sample.
        fingerprint: hash of the tars' names, sizes and times and of the choice of caption.
        parts: for each tar name, a hash that a copy shares and a changed tar does not.
        part_sizes: samples of each part; part by part they are the samples in order.
        paths: the tars.
        faults: what was left out or odd already at indexing: tars cut or damaged (`tar_...`, with the tar's
            name as key), samples without image or caption or with an empty member, and what `HARMLESS` names.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        indexes: Sequence[TarIndex],
        caption: str,
        field: str,
    ) -> None:
        self.paths = list(paths)
        self.name = Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths])).name or "data"
        self._field = field
        self._states = [(index.size, index.mtime_ns) for index in indexes]
        faults: list[Fault] = []
        rows: list[np.ndarray] = []
        for name, index in zip(names, indexes, strict=True):
            rows.append(_usable(name, index, "json" if field else "txt", caption, faults))
        chosen = list(zip(indexes, rows, strict=True))
        self.faults = tuple(faults)
        self.keys: Sequence[str] = TarKeys(names, [[index.keys[row] for row in kept] for index, kept in chosen])
        self._tar = np.repeat(np.arange(len(paths)), [len(kept) for kept in rows])
        places = {
            part: np.concatenate([index.places[part][kept] for index, kept in chosen])
            for part in ("image", "txt", "json")
        }
        self._image, self._json = places["image"], places["json"]
        self._caption = places["json" if field else "txt"]
        states = [[name, *state] for name, state in zip(names, self._states, strict=True)]
        self.fingerprint = hashlib.sha256(json.dumps([states, caption]).encode()).hexdigest()
        self.parts = {name: f"{caption} {index.mark()}" for name, index in zip(names, indexes, strict=True)}
        self.part_sizes = [len(kept) for kept in rows]
        self._files = TarFiles(self.paths, self._states)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        """Load the samples at `indices` (in that order) in every view; faulty ones are left out, reported.

        Names of faults: those of `aced.data.images.decode_image`, `caption_empty`, `caption_no_field` and
        `caption_bad_json`.

        Raises:
            AcedError: a tar changed since it was indexed, or cannot be read.
            IndexError: an index is not in `range(len(self))`.
        """
        pixels = {view: np.empty((len(indices), 3, view.size, view.size), dtype=np.uint8) for view in views}
        good: list[int] = []
        texts: list[str] = []
        faults: list[Fault] = []
        session = self._files.session()
        for index in map(int, indices):
            if not 0 <= index < len(self):
                raise IndexError(f"sample {index} of {len(self)}")
            try:
                text, image = self._load(session, index)
                for view, rows in pixels.items():
                    rows[len(good)] = view.apply(image)
            except (ImageFault, _CaptionFault) as fault:
                faults.append(Fault(self.keys[index], fault.name, f"{self.keys[index]}: {fault}."))
                continue
            good.append(index)
            texts.append(text)
        return Candidates(
            indices=torch.tensor(good, dtype=torch.int64),
            texts=texts,
            images={view: torch.from_numpy(rows[: len(good)]) for view, rows in pixels.items()},
            faults=tuple(faults),
        )

    def _load(self, session: TarSession, index: int) -> tuple[str, np.ndarray]:
        tar = int(self._tar[index])
        text = self._text(session.read(tar, self._caption[index]))
        return text, decode_image(session.read(tar, self._image[index]))

    def _text(self, content: bytes) -> str:
        text = content.decode("utf-8", "replace")
        if self._field:
            text = _json_field(text, self._field)
        text = text.replace("\0", "").replace("\ufeff", "").strip()[:MAX_CAPTION]
        if not text:
            raise _CaptionFault("caption_empty", "the caption is empty")
        return text

    @cached_property
    def kinds(self) -> Sequence[str] | None:
        """How each sample was spoilt, for measuring only: `measure_kinds()`, read at the first use."""
        return self.measure_kinds()

    def measure_kinds(self) -> list[str] | None:
        """The field `kind` of each sample's json (`unknown` without one), or None if the data have none.

        Only the first sample of each tar is asked whether there is one: a large pool has millions of jsons.
        """
        _, firsts = np.unique(self._tar, return_index=True)
        session = self._files.session()
        if all(self._kind(session, int(index)) is None for index in firsts):
            return None
        return [self._kind(session, index) or "unknown" for index in range(len(self))]

    def _kind(self, session: TarSession, index: int) -> str | None:
        if self._json[index, 0] < 0:
            return None
        try:
            content = json.loads(session.read(int(self._tar[index]), self._json[index]))
        except ValueError:
            return None
        kind = content.get("kind") if isinstance(content, dict) else None
        return None if kind is None else str(kind)


def open_shards(
    patterns: Sequence[str],
    *,
    caption: str = "txt",
    bad_tars: Literal["stop", "skip"] = "stop",
    index_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Shards:
    """Index the tars that patterns name.

    Args:
        patterns: files, folders (all `*.tar` in them), globs, brace ranges `{00000..00010}`.
        caption: `txt`, or `json:<field>` for a field of the sample's json (of a list, the first entry).
        bad_tars: at a damaged tar, `stop`, or `skip` what comes after the damage and tell it in `faults`.
        index_dir: where indexes are kept for the next time; without it they are made anew.
        progress: called with (tars done, all tars).

    Raises:
        AcedError: no such tars, a damaged tar (`stop`), a tar without pairs, or an unknown choice.
    """
    if bad_tars not in ("stop", "skip"):
        raise AcedError(f'data.bad_tars must be "stop" or "skip", not "{bad_tars}".')
    kind, colon, field = caption.partition(":")
    if not (caption == "txt" or (kind == "json" and colon and field)):
        raise AcedError(f'The caption is "txt" or "json:<field>", not "{caption}".')
    paths = expand_tars(patterns)
    indexes: list[TarIndex] = []
    for path in paths:
        try:
            index = index_tar(path, Path(index_dir) if index_dir is not None else None)
        except OSError as error:
            fault = TarFault("unreadable", f"it cannot be read ({error.strerror or error})")
            index = _nothing(fault)
        if bad_tars == "stop":
            _check(path, index, "json" if field else "txt", caption)
        indexes.append(index)
        if progress is not None:
            progress(len(indexes), len(paths))
    shards = Shards(paths, distinct_names(paths), indexes, caption, field)
    if not len(shards):
        first = f"; the first fault: {shards.faults[0].detail}" if shards.faults else "."
        raise AcedError(f"None of the {len(paths)} tars holds a whole pair of image and caption{first}")
    return shards


def _nothing(fault: TarFault) -> TarIndex:
    none = np.empty((0, 2), dtype=np.int64)
    return TarIndex(-1, -1, [], {"image": none, "txt": none, "json": none}, {}, [], fault)


def _check(path: Path, index: TarIndex, part: str, caption: str) -> None:
    """Refuse a damaged tar and one without pairs."""
    whole = int(((index.places["image"][:, 1] > 0) & (index.places[part][:, 1] > 0)).sum())
    if index.fault is not None:
        raise AcedError(
            f'{path} cannot be used: {index.fault.detail}. Replace the file, or set data.bad_tars = "skip" '
            f"to go on with the {whole} whole samples before the fault."
        )
    if whole == 0:
        found = sorted({suffix for has in index.suffixes.values() for suffix in has})[:6]
        what = f"; its samples have {', '.join(found)}" if found else ""
        raise AcedError(f"{path} holds no pair of an image (jpg, jpeg, png, webp) and a caption ({caption}){what}.")


def _usable(tar: str, index: TarIndex, part: str, caption: str, faults: list[Fault]) -> np.ndarray:
    """The rows of a tar's whole samples; everything else goes to `faults`."""
    if index.fault is not None:
        sentence = f"{tar}: {index.fault.detail}; {len(index.keys)} samples before that were found."
        faults.append(Fault(tar, f"tar_{index.fault.name}", sentence))
    for key, name, detail in index.notes:
        faults.append(Fault(f"{tar}/{key}", name, f"{tar}/{key}: {detail}."))
    image, text = index.places["image"], index.places[part]
    good = (image[:, 1] > 0) & (text[:, 1] > 0)
    for row in np.flatnonzero(~good):
        key = index.keys[row]
        has = ", ".join(index.suffixes.get(key, []))
        if image[row, 0] < 0:
            name, detail = "no_image", f"it has no jpg, jpeg, png or webp (only {has})"
        elif text[row, 0] < 0:
            name, detail = "no_caption", f"it has no {part} for the caption {caption} (only {has})"
        else:
            empty = "image" if image[row, 1] == 0 else part
            name, detail = "empty_member", f"its {empty} has no bytes"
        faults.append(Fault(f"{tar}/{key}", name, f"{tar}/{key}: {detail}."))
    return np.flatnonzero(good)


class _CaptionFault(Exception):
    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


def _json_field(text: str, field: str) -> str:
    try:
        content: Any = json.loads(text)
    except ValueError as error:
        raise _CaptionFault("caption_bad_json", "its json cannot be read") from error
    value = content.get(field) if isinstance(content, dict) else None
    if isinstance(value, list):
        value = value[0] if value else ""
    if value is None:
        raise _CaptionFault("caption_no_field", f"its json has no field {field}")
    return str(value)
