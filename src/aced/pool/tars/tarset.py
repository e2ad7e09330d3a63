"""The tars of a source and their common properties: name, fingerprint, faults."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aced.pool.captions import Captions
from aced.pool.faults import FaultList
from aced.pool.fetch.places import Moved, Places
from aced.pool.source import Fault
from aced.pool.tars.losttars import CHANGED, GONE, KnownTars, lost_facts
from aced.pool.tars.manifest import EXAMPLES, NONE_REPEATED, Repeated, TarFacts
from aced.pool.tars.tarrows import TarRows, faults_of


@dataclass(frozen=True)
class Tars:
    """The tars of a source, in the order of its samples.

    Attributes:
        names: of each in the source.
        facts: about each.
        places: where they are.
        groups: the user's entries, each with its number of tars.
        apart: whether these are separate sources.
        repeated: keys that several tars share.
        index_dir: folder of their stored indexes.
        held: by number, samples of tars whose index is not stored.
        lost: by name, the fault of lost tars that keep their positions.
    """

    names: Sequence[str]
    facts: Sequence[TarFacts]
    places: Places
    groups: Sequence[tuple[str, int]]
    apart: bool = False
    repeated: Repeated = NONE_REPEATED
    index_dir: Path | None = None
    held: Mapping[int, TarRows] | None = None
    lost: Mapping[str, str] | None = None


def folder_of(sources: Iterable[str]) -> str:
    """The folder that holds some tars."""
    folders = {os.path.abspath(folder) for folder in {os.path.dirname(source) for source in sources}}
    return (Path(os.path.commonpath(folders)).name if folders else "") or "data"


def fingerprint_of(names: Sequence[str], facts: Sequence[TarFacts], how: str) -> str:
    """Hash of their names, sizes and states, and of how their samples are read."""
    # Modification times are numbers, as before: files stored under an older fingerprint stay valid.
    states = [int(one.state) if one.state.isdecimal() else one.state for one in facts]
    marks = [[name, one.size, state] for name, one, state in zip(names, facts, states, strict=True)]
    return hashlib.sha256(json.dumps([marks, how]).encode()).hexdigest()


def faults_found(tars: Tars, captions: Captions) -> tuple[Fault, ...]:
    """Faults found when the tars were indexed."""
    found = FaultList(EXAMPLES)
    for name, facts in zip(tars.names, tars.facts, strict=True):
        for fault in faults_of(name, facts, captions) if facts.faults else ():
            found.add(fault)
    again = tars.repeated
    if again.times:
        names = {facts.source: name for name, facts in zip(tars.names, tars.facts, strict=True)}
        key = f"{names.get(again.source, again.source)}/{again.key}"
        about = "" if again.exact else " (the number is an estimate)"
        detail = f"{key}: another tar has this key too; samples are identified by tar and key{about}."
        found.add(Fault(key, "key_in_two_tars", detail, again.times))
    return tuple(found)


def as_known(known: KnownTars, now: Tars) -> Tars:
    """The tars of the run that is being resumed, with holes for lost ones."""
    places = known.match([facts.content for facts in now.facts])
    lost: dict[str, str] = {}
    facts = []
    for tar, place in zip(known.tars, places, strict=True):
        if place < 0:
            lost[tar.name] = CHANGED if tar.name in now.names else GONE
        facts.append(now.facts[place] if place >= 0 else lost_facts(tar))
    apart = bool(known.mixture)
    groups = [(f"source {i}", n) for i, n in enumerate(known.groups, 1)] if apart else [("the run's", len(facts))]
    held = {number: now.held[place] for number, place in enumerate(places) if now.held and place in now.held}
    names = [tar.name for tar in known.tars]
    return Tars(names, facts, Moved(now.places, places), groups, apart, NONE_REPEATED, now.index_dir, held, lost)
