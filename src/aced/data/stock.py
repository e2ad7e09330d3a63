"""What is known of a pool's tars before it is read: from a manifest, and for what that lacks from their headers.

A manifest that was kept vouches for a tar whose size and state are still what they were; so a pool that has not changed
costs a look at each file, and one of which three tars are new the headers of three.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aced.data.captions import Captions
from aced.data.hearsay import counts_beside
from aced.data.indexing import Unread, Wanted, read_tars
from aced.data.located import Named, Progress, Tell, source_of
from aced.data.manifest import NONE_REPEATED, Manifest, Repeated, TarFacts, trimmed
from aced.data.manifestfile import read_kept, write_kept
from aced.data.packed import PackedStrings
from aced.data.places import TarPlaces, locate, located_at
from aced.data.remote import Remote, is_address
from aced.data.repeating import Repeating
from aced.data.spool import Spool
from aced.data.tarindex import KeptNote, TarIndex, index_tar, kept_text
from aced.data.tarrows import TarRows, check_tar, needs_check
from aced.errors import AcedError


@dataclass(frozen=True)
class Stock:
    """The tars of a pool as far as they are known.

    Attributes:
        manifest: facts about each, in order.
        places: where they lie.
        held: by their numbers, samples of those whose index no file keeps.
    """

    manifest: Manifest
    places: TarPlaces
    held: Mapping[int, TarRows]


@dataclass(frozen=True)
class StockTaking:
    """How stock is taken.

    Attributes:
        captions: whose samples are read; None where none are, and the manifest alone is wanted.
        strict: whether a damaged tar and one without pairs are refused.
        index_dir: where indexes are kept; without it none are.
        kept: the file of the pool's manifest; without one it is made for this time.
        whole: whether the tars are a whole pool, of which it is told which keys several tars share.
        spool: where addresses are fetched to and gzip files unpacked.
        workers: processes that read headers, where there are many tars; 0 does so in this one.
        progress: called with (tars indexed, all tars that must be).
        fetching: called with (addresses fetched, all addresses that must be).
        tell: gets a sentence about what has changed, and about an index folder that is of no use.
        hearsay: whether a tar at an address need not be read where a file beside it says how many pairs it holds.
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

    def take(self, named: Sequence[Named], listed: Sequence[Repeated] = ()) -> Stock:
        """What is known of some tars; headers are read of those of which too little is.

        Args:
            named: the tars.
            listed: which keys the tars of each manifest among them share.

        Raises:
            AcedError: a tar is refused or cannot be fetched.
        """
        before = self._before()
        known = {facts.source: facts for facts in before.tars} if before else {}
        facts = self._heard(named, [_known(tar, known, hearsay=self.hearsay) for tar in named])
        self._check_known(named, facts)
        repeating = Repeating(self.kept, before, facts, listed) if self.whole else None
        unread = [number for number, one in enumerate(facts) if one is None]
        tars = self._unread([named[number] for number in unread])
        found = {number: tar.located.path for number, tar in zip(unread, tars, strict=True)}
        held: dict[int, TarRows] = {}
        notes: list[KeptNote] = []
        wanted = Wanted(self.captions, self.strict, hashes=repeating is not None and repeating.reads)
        readings = read_tars(tars, wanted, self.index_dir, self.workers, self.progress)
        for number, reading in zip(unread, readings, strict=True):
            facts[number] = reading.facts
            held |= {number: reading.rows} if reading.rows is not None else {}
            notes += [reading.note] if reading.note is not None else []
            if repeating is not None:
                repeating.add(number, reading.hashes)
        whole = trimmed(one for one in facts if one is not None)
        places = _places(whole, found, self.spool)
        again = repeating.found(whole, lambda tar: self._keys(places, tar)) if repeating is not None else NONE_REPEATED
        manifest = Manifest(tuple(whole), again)
        if notes and self.index_dir is not None:
            self.tell(kept_text(self.index_dir, notes))
        if self.kept is not None and repeating is not None and manifest != before:
            self._tell_changes(before, manifest)
            if not any(note.name == "not_kept" for note in notes):
                self._keep(self.kept, manifest, repeating)
        return Stock(manifest, places, held)

    def _before(self) -> Manifest | None:
        """The manifest that was kept."""
        if self.kept is None:
            return None
        before, damage = read_kept(self.kept)
        if damage:
            self.tell(f"The manifest {self.kept} is of no use ({damage}) and is made anew.")
        return before

    def _heard(self, named: Sequence[Named], facts: list[TarFacts | None]) -> list[TarFacts | None]:
        """The facts, with what files beside the tars say of those that are not known."""
        far = {number: tar for number, tar in enumerate(named) if isinstance(tar, Remote) and facts[number] is None}
        counts = counts_beside([tar.address for tar in far.values()], self.tell) if self.hearsay else {}
        for number, tar in far.items():
            if (count := counts.get(tar.address)) is not None:
                facts[number] = TarFacts(*_state(tar), "", count, count)
        if counts:
            self.tell(
                f"{len(counts):,} tars at addresses are not fetched to be counted: files beside them tell how many "
                "pairs they hold, which is compared when a tar is read."
            )
        return facts

    def _check_known(self, named: Sequence[Named], facts: Sequence[TarFacts | None]) -> None:
        """Refuse what would be refused if it were read now."""
        if not self.strict or self.captions is None:
            return
        for tar, one in zip(named, facts, strict=True):
            if one is not None and needs_check(one, self.captions.part):
                try:
                    index = self._index(tar)
                except OSError as error:
                    raise AcedError(f"{source_of(tar)} cannot be read: {error.strerror or error}.") from error
                check_tar(source_of(tar), index, self.captions)

    def _index(self, tar: Named) -> TarIndex:
        located = locate(_file(tar), self.spool)
        index, _ = index_tar(located.path, self.index_dir)
        return index if located.fault is None else replace(index, faults=[located.fault, *index.faults])

    def _unread(self, tars: Sequence[Named]) -> list[Unread]:
        """What must be read, on a local disk."""
        remotes = [tar for tar in tars if isinstance(tar, Remote)]
        fetched = dict(zip(remotes, self.spool.fetch(remotes, self.fetching), strict=True)) if self.spool else {}
        return [self._unread_one(tar, fetched.get(tar) if isinstance(tar, Remote) else None) for tar in tars]

    def _unread_one(self, tar: Named, fetched: Path | None) -> Unread:
        located = located_at(source_of(tar), Path(fetched or source_of(tar)), self.spool)
        source, size, state = _state(tar)
        return Unread(located, source, size, state, packed=located.path != (fetched or Path(source_of(tar))))

    def _keys(self, places: TarPlaces, tar: int) -> PackedStrings:
        try:
            return index_tar(places.path(tar), self.index_dir)[0].keys
        except (OSError, AcedError):
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
            self.tell(f"The pool is not as it was indexed before: of its {len(today):,} tars {', '.join(words)}.")

    def _keep(self, path: Path, manifest: Manifest, repeating: Repeating) -> None:
        try:
            write_kept(path, manifest)
            repeating.save(manifest.tars)
        except AcedError as error:
            self.tell(f"{str(error).rstrip('.')}: the next run looks at every tar again.")


def _known(tar: Named, known: Mapping[str, TarFacts], *, hearsay: bool) -> TarFacts | None:
    """What a manifest says of a tar, if that is still the file that it is about, and what it says is good enough."""
    if isinstance(tar, TarFacts):
        return tar
    source, size, state = _state(tar)
    facts = known.get(source)
    if facts is None or (facts.size, facts.state) != (size, state) or not state or (facts.told and not hearsay):
        return None
    return facts


def _state(tar: Named) -> tuple[str, int, str]:
    """Whole path or address of a tar, and size and state of the file there."""
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


def _file(tar: Named) -> Path | Remote:
    """What is to be opened of a tar."""
    if not isinstance(tar, TarFacts):
        return tar
    if not is_address(tar.source):
        return Path(tar.source)
    return Remote(tar.source, None if tar.size < 0 else tar.size, tar.state)


def _places(tars: Sequence[TarFacts], found: Mapping[int, Path], spool: Spool | None) -> TarPlaces:
    """Where tars lie; `found` are those that were read now."""
    if spool is None and (remote := next((tar for tar in tars if is_address(tar.source)), None)):
        raise AcedError(
            f"{remote.source} is an address: set data.spool_dir to a folder to fetch its tars to, or name a path."
        )
    files = [file if isinstance(file := _file(tar), Remote) else tar.source for tar in tars]
    elsewhere = {number: path for number, path in found.items() if str(path) != files[number]}
    packed = frozenset(number for number, tar in enumerate(tars) if tar.packed)
    return TarPlaces(files, packed, elsewhere, spool)
