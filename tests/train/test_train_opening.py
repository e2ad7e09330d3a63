"""What ranks tell each other of a super-batch, and that what is odd about its samples does not travel one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from aced.errors import AcedError
from aced.pool.source import Candidates, Fault
from aced.train.distributed import World
from aced.train.feed import Faults
from aced.train.met import Met
from aced.train.opening import open_step
from rank_fakes import ThreadRanks, on_ranks

T = TypeVar("T")


class Threads(World):
    """A job whose ranks are threads."""

    def __init__(self, ranks: ThreadRanks) -> None:
        self.rank, self.size, self.ranks = ranks.rank, ranks.size, ranks

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        return self.ranks.gather(rows, counts)


def on_worlds(size: int, work: Callable[[Threads], T]) -> list[T]:
    return on_ranks(size, lambda ranks: work(Threads(ranks)))


def candidates(positions: list[int], notes: Sequence[Fault] = (), faults: Sequence[Fault] = ()) -> Candidates:
    return Candidates(
        torch.tensor(positions, dtype=torch.int64), [""] * len(positions), {}, tuple(faults), tuple(notes)
    )


def note(position: int) -> Fault:
    """What is odd about a sample, two sorts of it by turns."""
    return Fault(f"key {position}", ("image_alpha", "caption_cleaned")[position % 2], f"about {position}")


def broken(position: int) -> Fault:
    return Fault(f"key {position}", "image_unreadable", f"cannot read {position}")


def batch(step: int, rank: int, ranks: int, *, every: int = 1000) -> Candidates:
    """Rank `rank`'s part of 24 samples, of which each has a note and every `every`-th cannot be read."""
    own = torch.arange(24 * step, 24 * step + 24).tensor_split(ranks)[rank].tolist()
    good, bad = ([p for p in own if (p % every == every - 1) == which] for which in (False, True))
    return candidates(good, [note(p) for p in good], [broken(p) for p in bad])


def run(world: World, steps: int, *, every: int = 1000, total: int = 96, most: int = 1000) -> Faults:
    faults = Faults(1.0, total, met=Met(most))
    for step in range(steps):
        told = open_step(world, batch(step, world.rank, world.size, every=every), 24, faults)
        faults.add(told.faults, told.read, told.notes, met=told.faulty)
    return faults


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("every", [1000, 7])
@pytest.mark.parametrize("most", [1000, 4])
def test_ranks_count_what_one_process_counts(ranks: int, every: int, most: int) -> None:
    one = run(World(), 6, every=every, most=most)
    for faults in on_worlds(ranks, lambda world: run(world, 6, every=every, most=most)):
        assert faults == one


def test_notes_are_counted_and_not_sent() -> None:
    def gathered(world: Threads) -> list[int]:
        return [len(world.ranks.exchanges) for steps in (1, 3) if run(world, steps)]

    # One of numbers a step, and once one of the first example of each sort.
    assert on_worlds(2, gathered) == [[2, 2 + 4]] * 2


def test_what_cannot_be_read_is_told_once() -> None:
    def work(world: Threads) -> list[int]:
        faults, exchanges = Faults(1.0, 48), []
        for step in (0, 1, 0, 1):
            own = candidates([], faults=[broken(2 * step + world.rank)])
            told = open_step(world, own, 1, faults)
            faults.add(told.faults, told.read, told.notes, met=told.faulty)
            assert (told.read, told.faulty) == (2, 2)
            exchanges.append(len(world.ranks.exchanges))
        assert faults.counts == {"image_unreadable": 4}
        return exchanges

    assert on_worlds(2, work) == [[2, 4, 5, 6]] * 2


def test_samples_that_were_met_before_count_against_the_limit() -> None:
    """A run that goes on with a lower limit ends at the first of them."""
    faults = Faults(1.0, 400)
    faults.add([broken(p) for p in range(150)], 300)
    faults.max_share = 0.1
    faults.add((), 1)
    with pytest.raises(AcedError, match="150 of 302"):
        faults.add((), 1, met=1)


def test_positions_and_the_widest_columns_are_known_to_all() -> None:
    def work(world: Threads) -> tuple[list[list[int]], dict[object, int]]:
        own = candidates([[5, 3], [], [9]][world.rank])
        own.columns["ids"] = torch.zeros(len(own), 4 + world.rank)
        own.columns["flat"] = torch.zeros(len(own))
        told = open_step(world, own, 2, Faults(1.0, 10))
        return [p.tolist() for p in told.positions], {**told.widths}

    assert on_worlds(3, work) == [([[5, 3], [], [9]], {("column", "ids"): 6})] * 3
