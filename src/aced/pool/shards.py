"""Image-text pairs in webdataset tars, read in place and at random, through an index of their headers.

The layout is that of img2dataset and DataComp: `key.jpg` (or jpeg, png, webp), `key.txt`, `key.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
import torch

from aced.errors import AcedError
from aced.files.patterns import distinct_names
from aced.pool.captions import CaptionFault, CaptionNote, Captions
from aced.pool.decoding import FAST, Decoding, find_decoding
from aced.pool.fetch.places import Places
from aced.pool.images import ImageFault, decode_noted
from aced.pool.shard_options import ShardOptions, ShardWords
from aced.pool.source import Candidates, Fault, Source
from aced.pool.summary import Found
from aced.pool.tars.located import Tell, group_tars, may_be_there, remember, source_of
from aced.pool.tars.losttars import TarLost, lost_key, still_there
from aced.pool.tars.manifest import TarFacts
from aced.pool.tars.manifestfile import kept_path
from aced.pool.tars.stock import StockTaking, streamed_of
from aced.pool.tars.tarfiles import TarFiles, TarSession
from aced.pool.tars.tarindexes import TarIndexes, TarKeys
from aced.pool.tars.tarset import Tars, as_known, faults_found, fingerprint_of, folder_of
from aced.pool.views import View
from aced.runtime.counting import Progress


class _Found(NamedTuple):
    """One sample as read: its caption, what is unusual about it, and the reason if it cannot be used."""

    text: str
    notes: Sequence[Fault]
    fault: Fault | None = None


class Shards(Source):
    """A `Source` of the whole samples of some tars; make one with `open_shards`.

    It holds a few facts about each tar, and none about single samples: a tar's index is opened when a read needs it.
    Safe to use from threads, and after pickling or a fork in worker processes.

    Args:
        tars: the tars.
        captions: where captions are, and which one is used.
        decoding: how images are decoded.
        skip: whether to leave out the samples of a lost tar and read on.
        kind_field: field of the samples' json that names how they were corrupted; empty: none.

    Attributes:
        name: name of the folder that holds the tars.
        keys: `<tar name>/<key>` of each sample.
        fingerprint: hash of the tars' names, sizes and times, the choice of caption and the decoding.
        parts: for each tar name, a hash that a copy shares and a changed tar does not.
        part_sizes: samples of each part; part by part they are the samples in order.
        sources: the user's entries, each with its tars and samples.
        mixture: with separate sources, samples of each; part by part they are the samples in order. Otherwise empty.
        faults: found at indexing, left out or unusual: tars cut or damaged (`tar_...`, with the tar's name as key),
            samples without image or caption or with an empty member, and the names in `aced.pool.faults.HARMLESS`.
        lost: names of lost tars whose positions are kept, with the fault of their samples.
        captions_vary: whether the caption of a sample changes from epoch to epoch.
        places: where the tars are.
    """

    name: str
    keys: Sequence[str]
    fingerprint: str
    parts: Mapping[str, str]
    part_sizes: Sequence[int]
    mixture: Sequence[int]
    faults: Sequence[Fault]
    lost: Mapping[str, str]
    captions_vary: bool
    places: Places

    def __init__(
        self, tars: Tars, captions: Captions, decoding: Decoding = FAST, *, skip: bool = False, kind_field: str = ""
    ) -> None:
        names, facts, places = tars.names, tars.facts, tars.places
        self.lost = dict(tars.lost or {})
        self.name = folder_of(facts[number].source for number, name in enumerate(names) if name not in self.lost)
        self._captions, self._decoding, self._kind_field = captions, decoding, kind_field
        self.captions_vary = captions.choice == "random"
        how = f"{captions}{decoding.mark}"
        self.fingerprint = fingerprint_of(names, facts, how)
        self.parts = {name: f"{how} {one.content}" for name, one in zip(names, facts, strict=True)}
        self.part_sizes = [one.usable(captions.part) for one in facts]
        self._starts = np.cumsum([0, *self.part_sizes], dtype=np.int64)
        self.faults = faults_found(tars, captions)
        ends = np.cumsum([0, *(count for _, count in tars.groups)])
        sizes = [sum(self.part_sizes[a:b]) for a, b in pairwise(ends)]
        self.sources = tuple(Found(*group, size) for group, size in zip(tars.groups, sizes, strict=True))
        self.mixture = tuple(sizes) if tars.apart else ()
        self._names, self.places = list(names), places
        lost = {number: self.lost[name] for number, name in enumerate(names) if name in self.lost}
        self._files = TarFiles(places, [one.source for one in facts], lost, skip=skip)
        self._indexes = TarIndexes(
            self._files,
            facts,
            captions,
            tars.index_dir,
            {number: self.part_sizes[number] for number in lost},
            tars.held,
        )
        self.keys = TarKeys(self._names, self._starts, self._indexes)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def paths(self) -> list[Path]:
        """The tars on a local disk; fetches those that are not there."""
        return [self.places.path(tar) for tar in range(len(self._names))]

    def read(self, indices: Sequence[int], views: Sequence[View], epochs: Sequence[int] | None = None) -> Candidates:
        """Load the samples at `indices` (in that order) in every view; faulty ones are left out and reported.

        Names of faults: those of `aced.pool.images.decode_image` and of `aced.pool.captions.Captions.read` and, if tars
        may be lost, `tar_gone` and `tar_changed`; `notes` has what is unusual about the others.

        Args:
            indices: positions.
            views: views of the images.
            epochs: the epoch of each sample, for captions that vary; default: epoch 0 for all.

        Raises:
            AcedError: a tar changed since it was indexed, or cannot be read.
            IndexError: an index is not in `range(len(self))`.
        """
        pixels = {view: np.empty((len(indices), 3, view.size, view.size), dtype=np.uint8) for view in views}
        positions = np.asarray(indices, dtype=np.int64)
        # In the order of the file, so that each tar is opened once and read in one direction.
        order = np.argsort(positions, kind="stable").tolist()
        session, found = self._files.session(), dict[int, _Found]()
        for place, sample in zip(order, self._found(positions[order]), strict=True):
            epoch = int(epochs[place]) if epochs else 0
            found[place] = self._sample(session, *sample, epoch, pixels, place)
        samples = [found[place] for place in range(len(order))]
        good = [place for place, sample in enumerate(samples) if sample.fault is None]
        return Candidates(
            indices=torch.from_numpy(positions[good]),
            texts=[samples[place].text for place in good],
            images={
                view: torch.from_numpy(rows if len(good) == len(rows) else rows[good]) for view, rows in pixels.items()
            },
            faults=tuple(sample.fault for sample in samples if sample.fault is not None),
            notes=tuple(note for sample in samples for note in sample.notes),
        )

    def read_in_epochs(self, indices: Sequence[int], views: Sequence[View], epochs: Sequence[int]) -> Candidates:
        """As `read`, with the caption of each sample's epoch."""
        return self.read(indices, views, epochs)

    def _sample(
        self,
        session: TarSession,
        index: int,
        tar: int,
        row: int,
        epoch: int,
        pixels: Mapping[View, np.ndarray],
        place: int,
    ) -> _Found:
        """One sample; its image goes to its row in the `pixels` of each view."""
        odd: Sequence[Fault] = ()
        notes: list[CaptionNote] = []
        try:
            rows = self._indexes.rows(tar)
            if row == 0:
                odd = [Fault(self._names[tar], *self._said(tar, *about)) for about in rows.odd]
            if row >= len(rows.image):
                return _Found("", odd, self._missing(tar, row, len(rows)))
            caption, content = session.read(tar, rows.caption[row], rows.image[row])
            key = f"{self._names[tar]}/{rows.keys[row]}" if self.captions_vary else ""
            text = self._captions.read(caption, key, epoch, notes)
            for view, image in self._decoded(content, pixels, notes):
                pixels[view][place] = view.apply(image, self._decoding.resize)
        except (ImageFault, CaptionFault) as fault:
            return _Found("", odd, Fault(self.keys[index], fault.name, f"{self.keys[index]}: {fault}."))
        except TarLost as lost:
            return _Found("", odd, Fault(lost_key(self._names[tar], row), lost.name, str(lost)))
        if notes:
            key = self.keys[index]
            odd = [*odd, *(Fault(key, name, f"{key}: {detail}.") for name, detail in dict(notes).items())]
        return _Found(text, odd)

    def _found(self, positions: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Each position, with the number of its tar and its row there."""
        if (wrong := positions[(positions < 0) | (positions >= len(self))]).size:
            raise IndexError(f"sample {wrong[0]} of {len(self)}")
        tars = np.searchsorted(self._starts, positions, side="right") - 1
        rows = positions - self._starts[tars]
        return zip(positions.tolist(), tars.tolist(), rows.tolist(), strict=True)

    def _said(self, tar: int, name: str, detail: str, count: int) -> tuple[str, str, int]:
        return name, f"{self._names[tar]}: {detail}.", count

    def _missing(self, tar: int, row: int, there: int) -> Fault:
        """A sample that a file beside the tar lists and the tar lacks."""
        key, told = lost_key(self._names[tar], row), self.part_sizes[tar]
        return Fault(key, "count_wrong", f"{key}: the tar holds {there} whole pairs, a file beside it says {told}.")

    def _decoded(
        self, content: bytes, views: Iterable[View], notes: list[CaptionNote]
    ) -> Iterator[tuple[View, np.ndarray]]:
        """The image for each view: one for all or, with scaled decoding, one that suits that view."""
        if not self._decoding.scaled or not views:
            image, odd = decode_noted(content)
            notes += odd
            yield from ((view, image) for view in views)
            return
        for view in views:
            image, odd = decode_noted(content, least=view.least)
            notes += odd
            yield view, image

    @property
    def nbytes(self) -> int:
        """Bytes of memory that open indexes take."""
        return self._indexes.nbytes

    @cached_property
    def kinds(self) -> Sequence[str] | None:
        """How each sample was corrupted, for measurements only: `measure_kinds()`, read on first use."""
        return self.measure_kinds() if self._kind_field else None

    def measure_kinds(self) -> list[str] | None:
        """The field of each sample's json that names its kind (`unknown` without one), or None if the data have none.

        Only the first sample of each tar is checked for the field.
        """
        session = self._files.session()
        firsts = ((tar, 0) for tar, size in enumerate(self.part_sizes) if size)
        if all(self._kind(session, tar, row) is None for tar, row in firsts):
            return None
        return [self._kind(session, tar, row) or "unknown" for tar, row in self._all()]

    def _kind(self, session: TarSession, tar: int, row: int) -> str | None:
        kind = self._field(session, tar, row, self._kind_field)
        return None if kind is None else str(kind)

    def fields(self, name: str) -> Iterator[object]:
        """The value of one field of each sample's json, in order; None if it has none."""
        session = self._files.session()
        return (self._field(session, tar, row, name) for tar, row in self._all())

    def fields_at(self, name: str, positions: Sequence[int]) -> list[object]:
        """The value of one field of the json of some samples, in the order given; None if it has none.

        Raises:
            IndexError: a position is not in `range(len(self))`.
        """
        asked = np.asarray(positions, dtype=np.int64)
        order, session = np.argsort(asked, kind="stable"), self._files.session()
        values: list[object] = [None] * len(asked)
        for place, (_, tar, row) in zip(order.tolist(), self._found(asked[order]), strict=True):
            values[place] = self._field(session, tar, row, name)
        return values

    def _all(self) -> Iterator[tuple[int, int]]:
        return ((tar, row) for tar, size in enumerate(self.part_sizes) for row in range(size))

    def _field(self, session: TarSession, tar: int, row: int, name: str) -> object:
        try:
            rows = self._indexes.rows(tar)
            if row >= len(rows) or rows.json[row, 0] < 0:
                return None
            content = json.loads(session.read(tar, rows.json[row])[0])
        except (ValueError, RecursionError, TarLost):
            return None
        return content.get(name) if isinstance(content, dict) else None


def open_shards(
    patterns: Sequence[str],
    *,
    progress: Progress | None = None,
    fetching: Progress | None = None,
    tell: Tell | None = None,
    **options: Unpack[ShardWords],
) -> Shards:
    """The samples of the tars that patterns name; the headers of tars that no manifest lists are read.

    Args:
        patterns: files, folders (all tars in them), globs, brace ranges `{00000..00010}`, and with a spool addresses.
        progress: called with (tars indexed, all tars to index).
        fetching: called with (addresses fetched, all addresses to fetch).
        tell: receives a sentence about tars that the patterns may have missed, and about an unusable index folder.
        caption: `txt`, or `json:<field>` for a field of the sample's json.
        caption_choice: of several captions (lines of the txt, entries of the json's list) the `first` or a `random`
            one; `whole` uses the whole txt, and the first entry of a list.
        seed: of the random choice.
        bad_tars: for a damaged tar `stop`, or `skip` the damaged part and report it in `faults`.
        index_dir: folder for the pool's manifest and the indexes of its tars; without it they are made anew and stay in
            memory.
        spool: folder where addresses are fetched and gzip files unpacked.
        apart: whether each pattern is a separate source; see `Shards.mixture`.
        decoding: `exact`, `fast` or `scaled`; see `aced.pool.decoding`.
        kind_field: field of the samples' json that names how they were corrupted, see `Shards.kinds`.
        whole: whether the patterns name a whole pool; no manifest is made for part of one.
        workers: processes that read headers if there are many tars; 0 reads them in this one.
        known: the tars of the run that is being resumed: lost ones keep their positions, new ones are left out, and
            `apart` is as it was.
        streaming: when tars at addresses are fetched as a plan needs them, and not kept; None: never.
        hearsay: whether a file beside a tar at an address may state its number of samples; side-cars are found by the
            content of the tar itself.

    Raises:
        AcedError: no such tars, a damaged tar (`stop`), a tar without pairs, or an unknown choice.
    """
    asked = ShardOptions(**options)
    skip, known = asked.bad_tars == "skip", asked.known
    if asked.bad_tars not in ("stop", "skip"):
        raise AcedError(f'data.bad_tars must be "stop" or "skip", not "{asked.bad_tars}".')
    captions = Captions.parse(asked.caption, asked.caption_choice, asked.seed)
    decoding = find_decoding(asked.decoding)
    tars = _tars_of(patterns, captions, asked, Told(progress, fetching, tell))
    shards = Shards(
        tars if known is None else as_known(known, tars), captions, decoding, skip=skip, kind_field=asked.kind_field
    )
    if not len(shards):
        why = _why_none(shards)
        raise AcedError(f"None of the {len(tars.facts)} tars holds a whole pair of image and caption{why}")
    return shards


class Told(NamedTuple):
    """Listeners to progress: bars for tars indexed and fetched, and sentences."""

    progress: Progress | None
    fetching: Progress | None
    tell: Tell | None


def _tars_of(patterns: Sequence[str], captions: Captions, asked: ShardOptions, told: Told) -> Tars:
    """The tars that patterns name, with what is known about each; raises AcedError as `open_shards`."""
    known, spool, apart = asked.known, asked.spool, asked.apart
    if known is not None:
        patterns, apart = list(still_there(patterns)), False
    groups, listed, found = group_tars(patterns, spool, apart=apart, tell=told.tell)
    if known is not None:  # a manifest vouches for tars without checking them
        groups = [list(filter(may_be_there, group)) for group in groups]
    named = [tar for group in groups for tar in group]
    listed_all = all(isinstance(tar, TarFacts) for tar in named)
    streamed = streamed_of(named, spool, asked.streaming) if asked.streaming is not None and spool is not None else None
    taking = StockTaking(
        captions=captions,
        strict=asked.bad_tars == "stop" and known is None,
        index_dir=asked.index_dir,
        kept=kept_path(asked.index_dir, patterns) if asked.index_dir and asked.whole and not listed_all else None,
        whole=asked.whole,
        spool=spool,
        workers=asked.workers,
        progress=told.progress,
        fetching=told.fetching,
        tell=told.tell or (lambda _: None),
        streamed=streamed,
        hearsay=asked.hearsay,
    )
    stock = taking.take(named, listed)
    if spool is not None:
        remember(found, spool, told.tell)
    names = distinct_names([source_of(tar) for tar in named])
    counts = [(pattern, len(group)) for pattern, group in zip(patterns, groups, strict=True)]
    kept = asked.index_dir if streamed is None else streamed.index_dir
    facts, again = stock.manifest.tars, stock.manifest.repeated
    return Tars(names, facts, stock.places, counts, apart, again, kept, stock.held)


def _why_none(shards: Shards) -> str:
    """The end of a sentence: the first fault of each kind, at most three kinds."""
    found: dict[str, Fault] = {}
    for fault in shards.faults:
        found.setdefault(fault.name, fault)
    reasons = "; ".join(f"{fault.name}: {fault.detail.rstrip('.')}" for fault in list(found.values())[:3])
    return f"; {reasons}." if reasons else "."
