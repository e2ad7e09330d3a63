"""The tars of a source as they are opened: names, facts and places; those of a run that is gone on with keep theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aced.data.losttars import CHANGED, GONE, KnownTars, lost_facts
from aced.data.manifest import NONE_REPEATED, Repeated, TarFacts
from aced.data.places import Moved, Places
from aced.data.tarrows import TarRows


@dataclass(frozen=True)
class Tars:
    """The tars of a source, in the order of its samples.

    Attributes:
        names: of each in the source.
        facts: about each.
        places: where they lie.
        groups: what the user named, each with its number of tars.
        apart: whether these are sources of their own.
        repeated: keys that several tars have.
        index_dir: where their indexes are kept.
        held: by number, samples of tars whose index no file keeps.
        lost: by name, the fault of tars that are lost and keep their places.
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


def as_known(known: KnownTars, now: Tars) -> Tars:
    """The tars of a run that is gone on with, with holes where they are lost."""
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
