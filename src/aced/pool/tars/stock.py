"""Facts about a pool's tars before it is read: from a manifest and, where it lacks them, from tar headers.

A stored manifest vouches for a tar whose size and state are unchanged. So an unchanged pool costs one stat per file,
and a pool with three new tars the headers of three.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from aced.errors import AcedError, DataLost
from aced.files.remote import Remote, is_address
from aced.pool.captions import Captions
from aced.pool.fetch.fetching import Fetcher, one_by_one
from aced.pool.fetch.places import Places, TarPlaces, locate, located_at
from aced.pool.fetch.spool import Located, Spool, unspooled
from aced.pool.fetch.streamed import Streamed, own_folder, own_share
from aced.pool.packed import PackedStrings
from aced.pool.tars.hearsay import counts_beside
from aced.pool.tars.indexing import Reading, Unread, Wanted, read_tars
from aced.pool.tars.located import Named, Tell, source_of
from aced.pool.tars.losttars import TarLost
from aced.pool.tars.manifest import NONE_REPEATED, Manifest, Repeated, TarFacts, trimmed
from aced.pool.tars.manifestfile import one_at_a_time, read_kept, write_kept
from aced.pool.tars.repeating import Repeating
from aced.pool.tars.tarindex import KeptNote, TarIndex, index_tar, kept_text
from aced.pool.tars.tarrows import TarRows, check_tar, needs_check
from aced.runtime.counting import Progress

_KEEP = 30.0
"""Seconds between two saves of the facts found so far, while tars are fetched to be counted."""


@dataclass(frozen=True)
class Stock:
    """The tars of a pool as far as they are known.

    Attributes:
        manifest: facts about each, in order.
        places: where they are.
        held: by their numbers, samples of those whose index is not stored.
    """

    manifest: Manifest
    places: Places
    held: Mapping[int, TarRows]


class Streaming(NamedTuple):
    """When tars at addresses are fetched as needed instead of being kept.

    Attributes:
        always: whether they are in any case, and not only if they do not fit into the spool.
        patience: seconds for which a file is retried if its server fails.
    """

    always: bool
    patience: float


@dataclass(frozen=True)
class StockTaking:
    """How to take stock.

    Attributes:
        captions: whose samples are read; None if only the manifest is needed.
        strict: whether to refuse a damaged tar, and one without pairs.
        index_dir: folder of stored indexes, if any.
        kept: the file of the pool's manifest; without one it is made for this time only.
        whole: whether the tars are a whole pool, for which keys shared by several tars are reported.
        spool: folder where addresses are fetched and gzip files unpacked.
        workers: processes that read headers if there are many tars; 0 reads them in this one.
        progress: called with (tars indexed, all tars to index).
        fetching: called with (addresses fetched, all addresses to fetch).
        tell: receives a sentence about changes, and about an unusable index folder.
        hearsay: whether a file beside a tar at an address may replace reading it to count its pairs.
        streamed: the tars by their numbers, if those at addresses are fetched as needed.
    """

    captions: Captions | None = None
    strict: bool = False
    index_dir: Path | None = None
    kept: Path | None = None
    whole: bool = True
    spool: Spool | None = None
    workers: int = 0
    progress: Progress | None = None
    fetching: Progress | None = None
    tell: Tell = lambda _: None
    hearsay: bool = True
    streamed: Streamed | None = None

    def take(self, named: Sequence[Named], listed: Sequence[Repeated] = ()) -> Stock:
        """The facts about some tars; headers are read where they are missing.

        Args:
            named: the tars.
            listed: keys that the tars of each manifest among them share.

        Raises:
            AcedError: a tar is refused or cannot be fetched.
        """
        with self._alone():
            return self._take(named, listed)

    def _alone(self) -> contextlib.AbstractContextManager[object]:
        """Let one process fetch tars to count their pairs; the others find its stored result."""
        return one_at_a_time(self.kept) if self.streamed is not None and self.kept is not None else nullcontext()

    def _take(self, named: Sequence[Named], listed: Sequence[Repeated]) -> Stock:
        before = self._before()
        known = {facts.source: facts for facts in before.tars} if before else {}
        facts = self._heard(named, [_known(tar, known, hearsay=self.hearsay) for tar in named])
        self._check_known(named, facts)
        repeating = Repeating(self.kept, before, facts, listed) if self.whole else None
        far = [n for n, one in enumerate(facts) if one is None and self.streamed and self.streamed.is_remote(n)]
        passing = set(far)
        unread = [number for number, one in enumerate(facts) if one is None and number not in passing]
        tars = self._unread([named[number] for number in unread])
        found = {number: tar.located.path for number, tar in zip(unread, tars, strict=True)}
        held: dict[int, TarRows] = {}
        notes: list[KeptNote] = []
        keep = time.monotonic() + _KEEP
        wanted = Wanted(self.captions, self.strict, hashes=repeating is not None and repeating.reads)
        near = zip(unread, read_tars(tars, wanted, self.index_dir, self.workers, self.progress), strict=True)
        for number, reading in itertools.chain(near, self._passing(named, far, wanted)):
            facts[number] = reading.facts
            held |= {number: reading.rows} if reading.rows is not None else {}
            notes += [reading.note] if reading.note is not None else []
            if repeating is not None:
                repeating.add(number, reading.hashes)
            if far and time.monotonic() > keep:  # it may take hours
                self._keep_part(facts)
                keep = time.monotonic() + _KEEP
        whole = trimmed(one for one in facts if one is not None)
        places = self._places(whole, found)
        again = repeating.found(whole, lambda tar: self._keys(places, tar)) if repeating is not None else NONE_REPEATED
        manifest = Manifest(tuple(whole), again)
        if notes and self.index_dir is not None:
            self.tell(kept_text(self.index_dir, notes))
        if self.kept is not None and repeating is not None and manifest != before:
            self._tell_changes(before, manifest)
            if not any(note.name == "not_kept" for note in notes):
                self._keep(self.kept, manifest, repeating)
        return Stock(manifest, places, held)

    def _passing(self, named: Sequence[Named], far: Sequence[int], wanted: Wanted) -> Iterator[tuple[int, Reading]]:
        """Facts from the headers of tars that are fetched for this, one after the other, and not kept."""
        if not far or self.streamed is None:
            return
        self.tell(
            f"{len(far):,} tars are fetched once to count their pairs, which neither a manifest nor files beside them "
            "state; the result is kept."
        )
        with Fetcher(self.streamed, one_by_one(far), first=0, stop=len(far)) as fetcher:
            for done, number in enumerate(far):
                source, size, state = _state(named[number])
                try:
                    path = self.streamed.path(number)
                except TarLost as lost:
                    raise DataLost(f"{lost} Start again to leave it out.") from None
                unread = Unread(Located(source, path), source, size, state, packed=False)
                (reading,) = read_tars([unread], wanted)
                yield number, reading._replace(rows=None)
                fetcher.done(done)
                if self.fetching is not None:
                    self.fetching(done + 1, len(far))

    def _before(self) -> Manifest | None:
        """The stored manifest."""
        if self.kept is None:
            return None
        before, damage = read_kept(self.kept)
        if damage:
            self.tell(f"The manifest {self.kept} cannot be used ({damage}) and is made anew.")
        return before

    def _heard(self, named: Sequence[Named], facts: list[TarFacts | None]) -> list[TarFacts | None]:
        """The facts, with what files beside the tars state about unknown ones."""
        far = {number: tar for number, tar in enumerate(named) if isinstance(tar, Remote) and facts[number] is None}
        counts = counts_beside([tar.address for tar in far.values()], self.tell) if self.hearsay else {}
        for number, tar in far.items():
            if (count := counts.get(tar.address)) is not None:
                facts[number] = TarFacts(*_state(tar), "", count, count)
        if counts:
            self.tell(
                f"{len(counts):,} tars at addresses are not fetched to be counted: files beside them state how many "
                "pairs they hold, which is checked when a tar is read."
            )
        return facts

    def _check_known(self, named: Sequence[Named], facts: Sequence[TarFacts | None]) -> None:
        """Refuse what a fresh reading would refuse."""
        if not self.strict or self.captions is None:
            return
        for number, (tar, one) in enumerate(zip(named, facts, strict=True)):
            if one is not None and needs_check(one, self.captions.part):
                try:
                    index = self._index(number, tar)
                except OSError as error:
                    raise AcedError(f"{source_of(tar)} cannot be read: {error.strerror or error}.") from error
                check_tar(source_of(tar), index, self.captions)

    def _index(self, number: int, tar: Named) -> TarIndex:
        if self.streamed is not None and self.streamed.is_remote(number):
            return index_tar(self.streamed.path(number))[0]
        located = locate(_file(tar), self.spool)
        index, _ = index_tar(located.path, self.index_dir)
        return index if located.fault is None else replace(index, faults=[located.fault, *index.faults])

    def _unread(self, tars: Sequence[Named]) -> list[Unread]:
        """Tars whose headers must be read, on a local disk."""
        remotes = [tar for tar in tars if isinstance(tar, Remote)]
        if self.spool is None and remotes:
            raise unspooled(remotes[0].address)
        fetched = dict(zip(remotes, self.spool.fetch(remotes, self.fetching), strict=True)) if self.spool else {}
        return [self._unread_one(tar, fetched.get(tar) if isinstance(tar, Remote) else None) for tar in tars]

    def _unread_one(self, tar: Named, fetched: Path | None) -> Unread:
        located = located_at(source_of(tar), Path(fetched or source_of(tar)), self.spool)
        source, size, state = _state(tar)
        return Unread(located, source, size, state, packed=located.path != (fetched or Path(source_of(tar))))

    def _places(self, tars: Sequence[TarFacts], found: Mapping[int, Path]) -> Places:
        """Where tars are; `found` are those that were read now."""
        if self.spool is None and (remote := next(filter(_is_far, tars), None)):
            raise unspooled(remote.source)
        files = [file if _is_far(tar) and isinstance(file := _file(tar), Remote) else tar.source for tar in tars]
        elsewhere = {number: path for number, path in found.items() if str(path) != files[number]}
        packed = frozenset(number for number, tar in enumerate(tars) if tar.packed)
        places = TarPlaces(files, packed, elsewhere, self.spool)
        if self.streamed is None:
            return places
        self.streamed.settle(places, [max(tar.txt, tar.json) for tar in tars])
        return self.streamed

    def _keys(self, places: Places, tar: int) -> PackedStrings:
        try:
            return index_tar(places.path(tar), self.index_dir if places.stay else None)[0].keys
        except (OSError, AcedError, TarLost):
            return PackedStrings.of([])

    def _tell_changes(self, before: Manifest | None, now: Manifest) -> None:
        if before is None:
            return
        then = {facts.source: facts.content for facts in before.tars}
        today = {facts.source: facts.content for facts in now.tars}
        counts = {
            "new": sum(source not in then for source in today),
            "changed": sum(then.get(source, content) != content for source, content in today.items()),
            "gone": sum(source not in today for source in then),
        }
        words = [f"{count:,} {'is' if count == 1 else 'are'} {what}" for what, count in counts.items() if count]
        if words:
            self.tell(f"The pool has changed since it was indexed: of its {len(today):,} tars {', '.join(words)}.")

    def _keep_part(self, facts: Sequence[TarFacts | None]) -> None:
        """Store the facts known so far, in case this process is killed."""
        if self.kept is not None:
            with contextlib.suppress(AcedError):  # reported at the end
                write_kept(self.kept, Manifest(tuple(trimmed(one for one in facts if one is not None))))

    def _keep(self, path: Path, manifest: Manifest, repeating: Repeating) -> None:
        try:
            write_kept(path, manifest)
            repeating.save(manifest.tars)
        except AcedError as error:
            self.tell(f"{str(error).rstrip('.')}; the next run checks every tar again.")


def _known(tar: Named, known: Mapping[str, TarFacts], *, hearsay: bool) -> TarFacts | None:
    """A manifest's facts about a tar, if the file is unchanged and they are sufficient."""
    if isinstance(tar, TarFacts):
        return tar
    source, size, state = _state(tar)
    facts = known.get(source)
    if facts is None or (facts.size, facts.state) != (size, state) or not state or (facts.told and not hearsay):
        return None
    return facts


def _state(tar: Named) -> tuple[str, int, str]:
    """Full path or address of a tar, and size and state of the file there."""
    if isinstance(tar, TarFacts):
        return tar.source, tar.size, tar.state
    if isinstance(tar, Remote):
        return tar.address, -1 if tar.size is None else tar.size, tar.state
    source = os.path.abspath(tar)
    try:
        there = os.stat(source)
    except OSError:
        return source, -1, ""
    return source, there.st_size, str(there.st_mtime_ns)


def _is_far(tar: TarFacts) -> bool:
    return tar.source[:1] != "/" and is_address(tar.source)


def _file(tar: Named) -> Path | Remote:
    """What must be opened of a tar."""
    if not isinstance(tar, TarFacts):
        return tar
    if not _is_far(tar):
        return Path(tar.source)
    return Remote(tar.source, None if tar.size < 0 else tar.size, tar.state)


def streamed_of(named: Sequence[Named], spool: Spool, streaming: Streaming) -> Streamed | None:
    """The tars by their numbers, if those at addresses are to be fetched as needed; then this process's.

    Raises:
        AcedError: another run streams into that spool, or a store does not report a size.
    """
    remotes = [file if isinstance(file := _file(tar), Remote) else None for tar in named]
    far = [remote.size or 0 for remote in remotes if remote is not None]
    if not far or not (streaming.always or sum(far) > spool.limit):
        return None
    room = own_share(spool.folder, spool.limit)
    streamed = Streamed(own_folder(spool.folder), remotes, room, patience=streaming.patience)
    streamed.open()
    return streamed
