"""Cached embeddings: a frozen tower's embeddings of every sample of a source, computed once, kept in side-cars.

A cache folder holds, for each model, one side-car per tar (`aced.cache.sidecar`). A `Store` combines those of one model
and one source, and is indexed by positions in the source. Nothing is held per sample: a binary search leads from a
position to its part, whose side-car is opened on first use, and from there to a row of a memory map.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aced.cache.caches import Cache, cache_at
from aced.cache.costs import check_space
from aced.cache.home import Files
from aced.cache.making import EmbeddingTower, EmbedSettings, PartEmbedder
from aced.cache.rowcodec import decode, layout
from aced.cache.sidecar import (
    Damaged,
    Part,
    SideCar,
    open_sidecar,
    overhead_bytes,
    parts_of,
    sidecar_name,
)
from aced.cache.sidecarlist import LIST
from aced.cache.survey import Survey
from aced.core.embeddings import Embeddings
from aced.errors import AcedError
from aced.files.atomic import sweep_leftovers
from aced.files.opened import Opened
from aced.pool.fetch.streamed import streams
from aced.pool.packed import PackedStrings
from aced.pool.source import Source
from aced.runtime.counting import Progress

_HASHED_BYTES = 1 << 29


class Store:
    """Embeddings of one tower, addressed by positions in the source it was opened for.

    It holds about 100 bytes per part, and keeps the side-cars used last open, as many as a process may open.

    Args:
        survey: the side-cars, with none missing.
        files: where they are read.
        rows: for parts whose samples differ from those of their side-car: its row for each sample.

    Attributes:
        name: its name in messages: the folder or address of the side-cars.
        files: where they are read.
        info: tower, shape and costs.
        mark: of every byte of the side-cars.
        part_sizes: samples of each non-empty part of the source, in order.
    """

    def __init__(self, survey: Survey, files: Files, rows: Mapping[int, np.ndarray]) -> None:
        self.name, self.files, self.info, self.mark = survey.home.named(""), files, survey.info(), survey.mark()
        parts = survey.parts
        self._names = PackedStrings.of(part.name for part in parts)
        self._marks = PackedStrings.of(part.mark for part in parts)
        self._starts = np.array([part.start for part in parts], dtype=np.int64)
        self.part_sizes = [len(part) for part in parts]
        self._holes = survey.usable < survey.rows
        self._hashes = survey.hashes.astype("S16")  # the first characters distinguish them
        self._rows = dict(rows)
        self._held = Opened[SideCar]()

    def __len__(self) -> int:
        """Number of samples in the source."""
        return self.info.n

    def valid(self, indices: Tensor) -> Tensor:
        """Which samples have embeddings: `[B]` source positions to `[B]` bool."""
        valid = torch.ones(len(indices), dtype=torch.bool)
        if self._holes.any():
            order, pieces = self._pieces(indices)
            for number, piece, rows in pieces:
                if self._holes[number]:
                    valid[torch.from_numpy(order[piece])] = torch.from_numpy(
                        self._held.get(number, self._open).valid(rows)
                    )
        return valid

    def lookup(self, indices: Tensor, crops: Tensor | None = None) -> Embeddings:
        """Embeddings of the samples at B source positions: `[B, d]` float32, CPU, rows of unit length.

        Side-cars are read one after the other, each in the order of its rows.

        Args:
            indices: `[B]` positions.
            crops: `[B]` the view of each sample's image; None for the whole image.

        Raises:
            AcedError: a sample was faulty when its side-car was made and so has no embedding; or a side-car can no
                longer be read, or has changed.
        """
        found, valid = self.found(indices, crops)
        if not bool(valid.all()):
            raise AcedError(
                f"{int((~valid).sum())} of {len(indices)} samples have no embedding in {self.name}, because they "
                "were faulty when it was made; if the data has been repaired since, delete the side-cars of those "
                "tars and run 'aced embed' again."
            )
        return found

    def found(self, indices: Tensor, crops: Tensor | None = None) -> tuple[Embeddings, Tensor]:
        """As `lookup`, with `[B]` bool that marks valid embeddings; the others are arbitrary."""
        valid = torch.ones(len(indices), dtype=torch.bool)
        order, pieces = self._pieces(indices)
        views = None if crops is None else crops.cpu().numpy()[order]
        stored = {side: self._empty(side, len(order)) for side in ("image", "text")}
        for number, piece, rows in pieces:
            sidecar = self._held.get(number, self._open)
            if self._holes[number]:
                valid[torch.from_numpy(order[piece])] = torch.from_numpy(sidecar.valid(rows))
            of_image = (rows, 0 if views is None else views[piece])
            for side, index in (("image", of_image), ("text", (rows,))):
                for name, values in stored[side].items():
                    values[piece] = sidecar.stored(name)[index]
        back = torch.from_numpy(order)
        image, text = (torch.empty(len(order), self.info.d) for _ in stored)
        for into, (side, written) in zip((image, text), stored.items(), strict=True):
            into[back] = decode(side, written, self.info.dtype)
        return Embeddings(image, text, scale=self.info.scale, bias=self.info.bias), valid

    def _empty(self, side: str, count: int) -> dict[str, np.ndarray]:
        tensors = layout(side, (count,), self.info.d, self.info.dtype)
        return {name: np.empty(shape, dtype) for name, (dtype, shape) in tensors.items()}

    def _pieces(self, indices: Tensor) -> tuple[np.ndarray, Iterator[tuple[int, slice, np.ndarray]]]:
        """Sorted positions, cut where another part begins.

        Returns:
            `[B]` the places in `indices` of the sorted positions; and for each part needed its number, the slice of the
            sorted positions in it, and its side-car's rows for them.
        """
        positions = indices.cpu().numpy().astype(np.int64)
        order = np.argsort(positions, kind="stable")
        return order, self._cut(positions[order])

    def _cut(self, positions: np.ndarray) -> Iterator[tuple[int, slice, np.ndarray]]:
        part = np.searchsorted(self._starts, positions, side="right") - 1
        ends = [*(np.flatnonzero(np.diff(part)) + 1).tolist(), len(part)] if len(part) else []
        for first, end in pairwise([0, *ends]):
            number = int(part[first])
            rows = positions[first:end] - self._starts[number]
            yield number, slice(first, end), self._rows[number][rows] if number in self._rows else rows

    @contextlib.contextmanager
    def lent(self) -> Iterator[Store]:
        """The same, for pairs whose tars need not be there: travelling side-cars are fetched one by one."""
        with self.files.lent() as files:
            if files is self.files:
                yield self
            else:
                apart = copy.copy(self)
                apart.files, apart._held = files, Opened[SideCar](most=1)
                yield apart

    def _open(self, number: int) -> SideCar:
        """Open a side-car, which must be unchanged since the start.

        Raises:
            AcedError: it has changed, or cannot be read.
        """
        part = Part(self._names[number], self._marks[number], 0, 0)
        path = self.files.path(number, sidecar_name(part))
        sidecar = open_sidecar(path, self.info.identity, part)
        if sidecar.info.sha256[:16].encode() != self._hashes[number]:
            raise AcedError(
                f"The side-car {path} has changed since this run started, or differs from {LIST} beside it: delete "
                f"{LIST}, which is then made anew, and start again."
            )
        return sidecar.slim()


def build_store(
    cache: Path | str,
    source: Source,
    tower: EmbeddingTower,
    settings: EmbedSettings,
    progress: Progress | None = None,
) -> Store:
    """The embeddings of a source by a tower: existing side-cars are used, the others are made.

    Args:
        cache: the cache folder.
        source: the samples.
        tower: the frozen model.
        settings: type, views, micro-batch and workers.
        progress: called with (samples done, samples that were missing).

    Raises:
        AcedError: a side-car is damaged or of something else, no sample is usable, an embedding is not finite, or
            there is no room.
    """
    identity, parts = tower.identity(), parts_of(source)
    own = cache_at(cache, identity["tower"])
    survey = look(own, identity, parts, settings)
    if survey.missing:
        embed_missing(own, survey, source, tower, settings, progress)
        survey = look(own, identity, parts, settings)
    return surveyed(own, survey, source)


def open_store(cache: Path | str, identity: Mapping[str, str], source: Source, settings: EmbedSettings) -> Store:
    """Open the side-cars of a tower for a source, or refuse.

    Raises:
        AcedError: as `look` and `surveyed`.
    """
    own = cache_at(cache, identity["tower"])
    return surveyed(own, look(own, identity, parts_of(source), settings), source)


def look(cache: Cache, identity: Mapping[str, str], parts: Sequence[Part], settings: EmbedSettings) -> Survey:
    """The existing side-cars of some parts; headers read for this are stored in the list beside them.

    Raises:
        AcedError: a tar was never read; or a side-car is damaged, or has other weights, preprocessing, tokenizer, tar
            or type.
    """
    if told := next((part for part in parts if part.told), None):
        raise AcedError(
            f"{told.name} was never read, so its side-car cannot be identified: make the "
            "manifest of the pool with 'aced index', which reads every tar."
        )
    cache.again()
    survey = Survey(cache.home, identity, parts, settings)
    survey.listed.save()
    return survey


def others_there(cache: Cache, survey: Survey, tower: str) -> str:
    """A sentence about side-cars that resemble missing ones but belong to something else; empty without any."""
    if not survey.missing:
        return ""
    first = survey.parts[survey.missing[0]]
    why = cache.home.why_missing(survey.identity, first)
    return why and (
        f"{len(survey.missing)} of {len(survey.parts)} parts of the data have no side-car by {tower} in {cache.place} "
        f"and are embedded now; as for {first.name}, {why}."
    )


def embed_missing(
    cache: Cache,
    survey: Survey,
    source: Source,
    tower: EmbeddingTower,
    settings: EmbedSettings,
    progress: Progress | None = None,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Make the missing side-cars, or this process's share of them: every n-th.

    Args:
        cache: where they are made.
        survey: of the side-cars.
        source, tower, settings: as of `build_store`.
        progress: called with (samples done, samples of the share).
        share: number of this process, and how many there are.

    Raises:
        AcedError: as `build_store`.
    """
    missing = [survey.parts[number] for number in survey.missing]
    if lost := next((part for part in missing if part.lost), None):
        raise AcedError(
            f"{lost.name} is lost and has no side-car in {cache.place}: name the cache that the run used, which "
            "has one."
        )
    # Side-cars that are uploaded at once need room only for as many as are made at a time.
    largest = sorted(missing, key=len, reverse=True)[: share[1] if cache.far else None]
    # A tar that does not stay would be fetched for its keys: one of them represents all.
    looked = largest[:1] if streams(source) else largest
    overhead = sum(overhead_bytes(part, source) for part in looked) * len(largest) // max(1, len(looked))
    check_space(cache.work, sum(map(len, largest)), tower.width, settings, overhead)
    sweep_leftovers(cache.work)
    for part in PartEmbedder(cache.work, source, tower, settings, progress).make(missing[share[0] :: share[1]]):
        cache.keep(cache.work / sidecar_name(part))


def surveyed(cache: Cache, survey: Survey, source: Source, progress: Progress | None = None) -> Store:
    """The store of surveyed side-cars.

    Side-cars of up to 512 MiB in total are checked by their hashes, larger ones by their sizes and times if the list
    beside them has these, otherwise by their headers; and each by its header on lookup.

    Args:
        cache: where they are.
        survey: of them.
        source: their source.
        progress: called with (side-cars fetched, all side-cars to fetch), for a cache at an address.

    Raises:
        AcedError: a side-car is missing (it names similar ones) or damaged, or no sample has an embedding.
    """
    if survey.missing:
        part = survey.parts[survey.missing[0]]
        why = cache.home.why_missing(survey.identity, part) or f"there is none in {cache.home.named('')}"
        raise AcedError(f"{part.name} has no side-car of this model: {why}; run 'aced embed'.")
    files = cache.files(survey.parts, source, progress)
    store = Store(survey, files, dict(_other_rows(survey, files, source)))
    if files.stay and store.info.bytes <= _HASHED_BYTES:
        for number, part in enumerate(survey.parts):
            _check_content(files.path(number, sidecar_name(part)))
    if store.info.usable == 0:
        why = ", ".join(f"{name} {count}" for name, count in store.info.faults.items())
        raise AcedError(f"No sample of {source.name} has an embedding: none was usable ({why}).")
    return store


def _other_rows(survey: Survey, files: Files, source: Source) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of the samples of parts whose side-car has other samples, by part number.

    A tar's mark covers its keys, and for a lost tar guarantees their order.
    """
    alone = not source.parts
    for number, part in enumerate(survey.parts):
        if not part.lost and (alone or len(part) != survey.rows[number]):
            rows = open_sidecar(files.path(number, sidecar_name(part))).rows_of(part.keys(source))
            if rows is not None:
                yield number, rows


def _check_content(path: Path) -> None:
    """Refuse a side-car whose bytes are not as written; reads the whole file."""
    if not open_sidecar(path).intact():
        raise Damaged(
            f"The side-car of embeddings {path} is damaged (its content has changed): delete the file and "
            "run 'aced embed' again, which makes only what is missing."
        )
