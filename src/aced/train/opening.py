"""The exchange of numbers when a step's candidates are there, one per step.

Each process sends how many of which pairs it has, how wide its columns are, what was unreadable, and what is unusual.
The numbers are on the host: nothing waits for a GPU.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from aced.pool.faults import HARMLESS
from aced.pool.source import Candidates, Fault, Key
from aced.train.distributed import World
from aced.train.feed import Faults

_ODD = sorted(HARMLESS)


@dataclass(frozen=True)
class Opening:
    """Facts about a super-batch that all processes know.

    Attributes:
        positions: for each process `[B_r]` source positions, on the CPU.
        widths: for each multi-valued column, by its key in `Candidates.tensors`, the maximum over processes.
        read: number of samples read.
        faulty: number of unusable ones among them.
        faults: those that are new to the run; in a single process all of them.
        notes: what is unusual about the others: one example per kind, which counts for all that were distinguished.
    """

    positions: list[Tensor]
    widths: dict[Key, int]
    read: int
    faulty: int
    faults: Sequence[Fault]
    notes: Sequence[Fault]


def open_step(world: World, own: Candidates, most: int, known: Faults) -> Opening:
    """Exchange this process's facts about its candidates with the others.

    Args:
        world: the processes.
        own: this process's candidates.
        most: maximum number of candidates of a process.
        known: the faults of the run so far, the same in every process.
    """
    listed = own.indices if own.listed is None else own.listed
    tables = [("column", name) for name, values in own.columns.items() if values.ndim == 2]
    wide: dict[Key, int] = {key: own.columns[key[1]].shape[1] for key in tables}
    if world.size == 1:
        return Opening([listed], wide, own.asked, len(own.faults), own.faults, own.notes)
    new, odd = _news(own, known)
    told = json.dumps([[asdict(fault) for fault in part] for part in new]).encode() if any(new) else b""
    facts = [own.asked, len(own.faults), len(told), *(odd[name] for name in _ODD), *wide.values()]
    each = world.lists(torch.cat([torch.tensor(facts), listed]), len(facts) + most)
    sums = torch.stack([numbers[: len(facts)] for numbers in each])
    read, faulty, _, *found = sums.sum(0)[: 3 + len(_ODD)].tolist()
    lengths = sums[:, 2].tolist()
    faults, examples = _told(world, told, lengths) if any(lengths) else ([], [])
    widest = sums.amax(0)[3 + len(_ODD) :].tolist()
    positions = [numbers[len(facts) :] for numbers in each]
    notes = [*examples, *_counted(dict(zip(_ODD, found, strict=True)), known, examples)]
    return Opening(positions, dict(zip(wide, widest, strict=True)), read, faulty, faults, notes)


def _news(own: Candidates, known: Faults) -> tuple[tuple[list[Fault], list[Fault]], Counter[str]]:
    """This process's faults and notes that need more than a number, and the count of each other kind."""
    faults = [fault for fault in own.faults if known.is_new(fault)]
    examples: list[Fault] = []
    odd: Counter[str] = Counter()
    shown = {*known.examples}
    for note in own.notes if known.counts_notes else ():
        if note.name in HARMLESS and note.name in shown:
            odd[note.name] += note.count
        else:
            shown.add(note.name)
            examples.append(note)
    return (faults, examples), odd


def _told(world: World, own: bytes, lengths: list[int]) -> tuple[list[Fault], list[Fault]]:
    """The faults and examples of all processes, in their order."""
    came = world.gather(torch.frombuffer(bytearray(own), dtype=torch.uint8) if own else _nothing(), lengths)
    faults: list[Fault] = []
    examples: list[Fault] = []
    for part in came.split(lengths):
        if len(part):
            for target, found in zip((faults, examples), json.loads(bytes(part.tolist())), strict=True):
                target.extend(Fault(**fault) for fault in found)
    return faults, examples


def _nothing() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)


def _counted(odd: dict[str, int], known: Faults, examples: Sequence[Fault]) -> list[Fault]:
    """A representative of each kind that was only counted."""
    shown = {note.name: note for note in examples} | known.examples
    return [Fault(shown[name].key, name, shown[name].detail, count) for name, count in odd.items() if count]
