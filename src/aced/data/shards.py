"""Image-text pairs in webdataset tars, read where they lie, at random, by an index of their headers.

The layout is that of img2dataset and DataComp: `key.jpg` (or jpeg, png, webp), `key.txt`, `key.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from aced.data.captions import CaptionFault, Captions, Note
from aced.data.decoding import FAST, Decoding, find_decoding
from aced.data.faults import FaultList
from aced.data.images import ImageFault, decode_noted
from aced.data.indexing import read_indexes
from aced.data.located import Tell, locate_tars
from aced.data.losttars import CHANGED, GONE, KnownTars, TarLost, hole, lost_key, still_there
from aced.data.source import Candidates, Fault
from aced.data.spool import Located, Spool
from aced.data.summary import Found
from aced.data.tarfiles import TarFiles, TarKeys, TarSession
from aced.data.tarindex import IMAGE_SUFFIXES, TarIndex
from aced.data.tarpaths import distinct_names
from aced.data.views import View
from aced.errors import AcedError

_FAULTS = 1000
"""Faults of each name that are kept one by one when tars are indexed; the others are counted."""


class Shards:
    """A `Source` of the whole samples of some tars; make one with `open_shards`.

    Safe to use from threads, and after pickling or a fork in worker processes.

    Attributes:
        name: name of the folder that holds the tars.
        keys: `<tar name>/<key>` of each sample.
        fingerprint: hash of the tars' names, sizes and times, of the choice of caption and of the decoding.
        parts: for each tar name, a hash that a copy shares and a changed tar does not.
        part_sizes: samples of each part; part by part they are the samples in order.
        sources: what the user named, each with its tars and samples.
        mixture: with sources apart, samples of each; part by part they are the samples in order. Else empty.
        paths: the tars.
        faults: what was left out or odd already at indexing: tars cut or damaged (`tar_...`, with the tar's
            name as key), samples without image or caption or with an empty member, and what
            `aced.data.faults.HARMLESS` names.
        lost: names of the tars whose places are kept though they are lost, with the fault of their samples.
        captions_vary: whether the caption of a sample changes from epoch to epoch.
    """

    def __init__(
        self,
        located: Sequence[Located],
        names: Sequence[str],
        indexes: Sequence[TarIndex],
        captions: Captions,
        groups: Sequence[tuple[str, int]],
        apart: bool = False,
        decoding: Decoding = FAST,
        lost: Mapping[str, str] | None = None,
        *,
        skip: bool = False,
    ) -> None:
        self.lost = dict(lost or {})
        self.paths = [tar.path for tar in located]
        there = [tar for tar, name in zip(located, names, strict=True) if name not in self.lost]
        folders = [os.path.dirname(os.path.abspath(tar.source)) for tar in there]
        self.name = Path(os.path.commonpath(folders)).name or "data"
        self._captions = captions
        self.captions_vary = captions.choice == "random"
        self._decoding = decoding
        states = [(index.size, index.mtime_ns) for index in indexes]
        faults = FaultList(_FAULTS)
        rows = [_usable(name, index, captions, faults) for name, index in zip(names, indexes, strict=True)]
        chosen = list(zip(indexes, rows, strict=True))
        keys = TarKeys(names, [index.keys.take(kept) for index, kept in chosen])
        self.keys: Sequence[str] = keys
        self._keys = keys
        self._tar_of = keys.tar_of
        _tell_repeated(keys, faults)
        self.faults = tuple(faults)
        places = {
            part: np.concatenate([index.places[part][kept] for index, kept in chosen])
            for part in ("image", "txt", "json")
        }
        self._image, self._json = places["image"], places["json"]
        self._caption = places[captions.part]
        how = f"{captions}{decoding.mark}"
        marks = [[name, *state] for name, state in zip(names, states, strict=True)]
        self.fingerprint = hashlib.sha256(json.dumps([marks, how]).encode()).hexdigest()
        self.parts = {name: f"{how} {index.mark()}" for name, index in zip(names, indexes, strict=True)}
        self.part_sizes = [len(kept) for kept in rows]
        ends = np.cumsum([0, *(tars for _, tars in groups)])
        sizes = [sum(self.part_sizes[a:b]) for a, b in pairwise(ends)]
        self.sources = tuple(Found(*group, size) for group, size in zip(groups, sizes, strict=True))
        self.mixture = tuple(sizes) if apart else ()
        numbers = {number: self.lost[name] for number, name in enumerate(names) if name in self.lost}
        self._files = TarFiles(self.paths, states, [index.mark() for index in indexes], numbers, skip=skip)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Sequence[int], views: Sequence[View], epochs: Sequence[int] | None = None) -> Candidates:
        """Load the samples at `indices` (in that order) in every view; faulty ones are left out, reported.

        Names of faults: those of `aced.data.images.decode_image` and of `aced.data.captions.Captions.read`, and where
        tars may be lost `tar_gone` and `tar_changed`; what is odd about the others is in `notes`.

        Args:
            indices: positions.
            views: in which the images are wanted.
            epochs: the epoch of each sample, for captions that vary; epoch 0 for all without it.

        Raises:
            AcedError: a tar changed since it was indexed, or cannot be read.
            IndexError: an index is not in `range(len(self))`.
        """
        pixels = {view: np.empty((len(indices), 3, view.size, view.size), dtype=np.uint8) for view in views}
        good: list[int] = []
        texts: list[str] = []
        faults: list[Fault] = []
        odd: list[Fault] = []
        session = self._files.session()
        for index, epoch in zip(map(int, indices), epochs or [0] * len(indices), strict=True):
            if not 0 <= index < len(self):
                raise IndexError(f"sample {index} of {len(self)}")
            notes: list[Note] = []
            try:
                text = self._text(session, index, int(epoch), notes)
                content = session.read(self._tar_of(index), self._image[index])
                for view, image in self._decoded(content, views, notes):
                    pixels[view][len(good)] = view.apply(image, self._decoding.resize)
            except (ImageFault, CaptionFault) as fault:
                faults.append(Fault(self.keys[index], fault.name, f"{self.keys[index]}: {fault}."))
                continue
            except TarLost as lost:
                faults.append(Fault(self._place_of(index), lost.name, str(lost)))
                continue
            good.append(index)
            texts.append(text)
            odd += [
                Fault(self.keys[index], name, f"{self.keys[index]}: {detail}.") for name, detail in dict(notes).items()
            ]
        return Candidates(
            indices=torch.tensor(good, dtype=torch.int64),
            texts=texts,
            images={view: torch.from_numpy(rows[: len(good)]) for view, rows in pixels.items()},
            faults=tuple(faults),
            notes=tuple(odd),
        )

    def _place_of(self, index: int) -> str:
        return lost_key(self._keys.tars[self._tar_of(index)], self._keys.row_in_tar(index))

    def _text(self, session: TarSession, index: int, epoch: int, notes: list[Note]) -> str:
        content = session.read(self._tar_of(index), self._caption[index])
        key = self.keys[index] if self.captions_vary else ""
        return self._captions.read(content, key, epoch, notes)

    def _decoded(self, content: bytes, views: Sequence[View], notes: list[Note]) -> Iterator[tuple[View, np.ndarray]]:
        """The image for each view: one for all, or with scaled decoding what suits that view alone."""
        if not self._decoding.scaled or not views:
            image, odd = decode_noted(content)
            notes += odd
            yield from ((view, image) for view in dict.fromkeys(views))
            return
        for view in dict.fromkeys(views):
            image, odd = decode_noted(content, least=view.least)
            notes += odd
            yield view, image

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index takes."""
        return sum(rows.nbytes for rows in {id(r): r for r in (self._image, self._caption, self._json)}.values()) + (
            self._keys.nbytes
        )

    @cached_property
    def kinds(self) -> Sequence[str] | None:
        """How each sample was spoilt, for measuring only: `measure_kinds()`, read at the first use."""
        return self.measure_kinds()

    def measure_kinds(self) -> list[str] | None:
        """The field `kind` of each sample's json (`unknown` without one), or None if the data have none.

        Only the first sample of each tar is asked whether there is one: a large pool has millions of jsons.
        """
        firsts = [end - size for end, size in zip(np.cumsum(self.part_sizes), self.part_sizes, strict=True) if size]
        session = self._files.session()
        if all(self._kind(session, int(index)) is None for index in firsts):
            return None
        return [self._kind(session, index) or "unknown" for index in range(len(self))]

    def _kind(self, session: TarSession, index: int) -> str | None:
        kind = self._field(session, index, "kind")
        return None if kind is None else str(kind)

    def fields(self, name: str) -> Iterator[object]:
        """The value of one field of each sample's json, in order; None where there is none."""
        session = self._files.session()
        return (self._field(session, index, name) for index in range(len(self)))

    def _field(self, session: TarSession, index: int, name: str) -> object:
        if self._json[index, 0] < 0:
            return None
        try:
            content = json.loads(session.read(self._tar_of(index), self._json[index]))
        except (ValueError, RecursionError, TarLost):
            return None
        return content.get(name) if isinstance(content, dict) else None


def open_shards(
    patterns: Sequence[str],
    *,
    caption: str = "txt",
    caption_choice: str = "whole",
    seed: int = 0,
    bad_tars: Literal["stop", "skip"] = "stop",
    index_dir: Path | None = None,
    spool: Spool | None = None,
    apart: bool = False,
    decoding: str = FAST.name,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    fetching: Callable[[int, int], None] | None = None,
    tell: Tell | None = None,
    known: KnownTars | None = None,
) -> Shards:
    """Index the tars that patterns name.

    Args:
        patterns: files, folders (all tars in them), globs, brace ranges `{00000..00010}`, and with a spool addresses.
        caption: `txt`, or `json:<field>` for a field of the sample's json.
        caption_choice: of several captions (lines of the txt, entries of the json's list) the `first` or a `random`
            one; `whole` takes the txt as it is, and of a list the first.
        seed: of the random choice.
        bad_tars: at a damaged tar, `stop`, or `skip` what is damaged and tell it in `faults`.
        index_dir: where indexes are kept for the next time; without it they are made anew.
        spool: where addresses are fetched to and gzip files unpacked.
        apart: whether each pattern is a source of its own; see `Shards.mixture`.
        decoding: `exact`, `fast` or `scaled`; see `aced.data.decoding`.
        workers: processes that read headers, where there are many tars; 0 does so in this one.
        progress: called with (tars done, all tars).
        fetching: called with (addresses fetched, all addresses).
        tell: gets a sentence about what the patterns may have missed, and about an index folder that is of no use.
        known: the tars of a run that is gone on with: those that are lost keep their places, those that are new are
            left out, and `apart` is as it was.

    Raises:
        AcedError: no such tars, a damaged tar (`stop`), a tar without pairs, or an unknown choice.
    """
    if bad_tars not in ("stop", "skip"):
        raise AcedError(f'data.bad_tars must be "stop" or "skip", not "{bad_tars}".')
    captions, way = Captions.parse(caption, caption_choice, seed), find_decoding(decoding)
    if known is not None:
        patterns, apart = list(still_there(patterns)), False
    groups = locate_tars(patterns, spool, apart=apart, progress=fetching, tell=tell)
    located = [tar for group in groups for tar in group]
    check = partial(_check, captions=captions) if bad_tars == "stop" and known is None else None
    indexes = read_indexes(located, index_dir, workers, check=check, progress=progress, tell=tell)
    names = distinct_names([Path(tar.source) for tar in located])
    skip = bad_tars == "skip"
    if known is None:
        counts = [(pattern, len(group)) for pattern, group in zip(patterns, groups, strict=True)]
        shards = Shards(located, names, indexes, captions, counts, apart, way, skip=skip)
    else:
        shards = _as_known(known, located, names, indexes, captions, way, skip=skip)
    if not len(shards):
        raise AcedError(f"None of the {len(located)} tars holds a whole pair of image and caption{_why_none(shards)}")
    return shards


def _as_known(
    known: KnownTars,
    located: Sequence[Located],
    names: Sequence[str],
    indexes: Sequence[TarIndex],
    captions: Captions,
    decoding: Decoding,
    *,
    skip: bool,
) -> Shards:
    """The source of a run that is gone on with, with holes where its tars are lost."""
    places = known.match([index.mark() for index in indexes])
    lost: dict[str, str] = {}
    tars, contents = [], []
    for tar, place in zip(known.tars, places, strict=True):
        if place < 0:
            lost[tar.name] = CHANGED if tar.name in names else GONE
        tars.append(located[place] if place >= 0 else Located(tar.name, Path(tar.name)))
        contents.append(indexes[place] if place >= 0 else hole(tar))
    their_names = [tar.name for tar in known.tars]
    apart = bool(known.mixture)
    groups = [(f"source {i}", n) for i, n in enumerate(known.groups, 1)] if apart else [("the run's", len(tars))]
    return Shards(tars, their_names, contents, captions, groups, apart, decoding, lost, skip=skip)


def _why_none(shards: Shards) -> str:
    """The end of a sentence: the first fault of each sort, of three sorts at most."""
    found: dict[str, Fault] = {}
    for fault in shards.faults:
        found.setdefault(fault.name, fault)
    reasons = "; ".join(f"{fault.name}: {fault.detail.rstrip('.')}" for fault in list(found.values())[:3])
    return f"; {reasons}." if reasons else "."


def _check(source: str, index: TarIndex, captions: Captions) -> None:
    """Refuse a damaged tar and one without pairs."""
    whole = int(((index.places["image"][:, 1] > 0) & (index.places[captions.part][:, 1] > 0)).sum())
    if index.fault is not None:
        what = f"go on with the {whole} whole samples in it" if whole else "leave it out"
        raise AcedError(
            f'{source} cannot be used: {index.fault.detail}. Replace the file, or set data.bad_tars = "skip" to {what}.'
        )
    if whole == 0:
        found = sorted({suffix for has in index.suffixes.values() for suffix in has})[:6]
        what = f"; its samples have {', '.join(found)}" if found else ""
        raise AcedError(f"{source} holds no pair of an image (jpg, jpeg, png, webp) and a caption ({captions}){what}.")


def _usable(tar: str, index: TarIndex, captions: Captions, faults: FaultList) -> np.ndarray:
    """The rows of a tar's whole samples; everything else goes to `faults`."""
    image, text = index.places["image"], index.places[captions.part]
    good = (image[:, 1] > 0) & (text[:, 1] > 0)
    for damage in index.faults:
        sentence = f"{tar}: {damage.detail}; {int(good.sum())} whole samples of it are used."
        faults.add(Fault(tar, f"tar_{damage.name}", sentence))
    for note in index.notes:
        faults.add(Fault(f"{tar}/{note.key}", note.name, f"{tar}/{note.key}: {note.detail}.", note.count))
    for row in map(int, np.flatnonzero(~good)):
        key = index.keys[row]
        name, detail, count = _why(index.suffixes.get(key, []), image[row], text[row], captions)
        faults.add(Fault(f"{tar}/{key}", name, f"{tar}/{key}: {detail}.", count))
    return np.flatnonzero(good)


def _why(suffixes: list[str], image: np.ndarray, text: np.ndarray, captions: Captions) -> tuple[str, str, int]:
    """Name, detail and count of what an incomplete sample lacks."""
    has = ", ".join(suffixes[:8])
    dotted = [suffix for suffix in suffixes if suffix.rpartition(".")[2] in IMAGE_SUFFIXES and "." in suffix]
    if image[0] < 0 and dotted:
        detail = f"it has no jpg, jpeg, png or webp (only {has}), because a key ends at the first dot of a file name"
        return "dotted_key", detail, len(dotted)
    if image[0] < 0:
        return "no_image", f"it has no jpg, jpeg, png or webp (only {has})", 1
    if text[0] < 0:
        return "no_caption", f"it has no {captions.part} for the caption {captions} (only {has})", 1
    empty = "image" if image[1] == 0 else captions.part
    return "empty_member", f"its {empty} has no bytes", 1


def _tell_repeated(keys: TarKeys, faults: FaultList) -> None:
    if len(keys.tars) < 2:
        return
    count, example = keys.repeated()
    if example is not None:
        detail = f"{example}: another tar has this key too; samples are told apart by tar and key."
        faults.add(Fault(example, "key_in_two_tars", detail, count))
