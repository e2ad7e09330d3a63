"""An order of training that reads few tars at a time, as a pure function of (seed, step).

A super-batch is made of C streams, one after the other, each of which gives B/C pairs and walks tars of its own, K at a
time (`aced.data.streams`). Rank r of W reads streams r C/W to (r + 1) C/W - 1, which are its equal part of every
super-batch: it touches its own tars only, and super-batches are the same for every W that divides C.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from aced.data.order import Orders
from aced.data.streams import Deal, Streams
from aced.errors import AcedError


class Visit(NamedTuple):
    """A tar's number, and the first and the last step that need it before it is read no more in this pass."""

    tar: int
    first: int
    last: int


class Plans(Orders, Protocol):
    """An order that tells which tars it reads when."""

    def tars(self, step: int, rank: int, world: int) -> list[int]:
        """Numbers of the tars that this rank's part of super-batch `step` needs, ascending."""
        ...

    def visits(self, rank: int, world: int, first_step: int) -> Iterator[Visit]:
        """This rank's visits to tars, without end, in the order in which they begin; those over before are left out."""
        ...


class Plan:
    """An endless sequence of epochs over the pairs of some tars.

    Epoch e gives `steps_per_epoch` super-batches, and every pair at most once. What the shortest possible stream cannot
    fill sits the epoch out: others in every epoch.

    Args:
        sizes: usable pairs of each tar, in the order of the pool.
        batch: size of a super-batch.
        seed: seed of the order; any int.
        locality: K, tars that a stream reads at a time.
        streams: C.

    Attributes:
        n: number of pairs.
        batch, seed, streams: as given.
        steps_per_epoch: super-batches of every epoch.

    Raises:
        AcedError: streams do not divide the super-batch, there are fewer tars than streams, or the tars of a stream
            hold less than it has to give to one super-batch.
    """

    def __init__(self, sizes: Sequence[int], batch: int, seed: int, locality: int, streams: int) -> None:
        check_streams(batch, streams)
        self.n, self.batch, self.seed, self.streams = int(sum(sizes)), batch, seed, streams
        self._walk = Streams(sizes, streams, locality, f"aced plan {seed}")
        self._rows = batch // streams
        self.steps_per_epoch = self._walk.length // self._rows
        if not self.steps_per_epoch:
            raise AcedError(
                f"Each of {streams} streams has to give {self._rows} pairs to a super-batch of {batch}, and its tars "
                f"may hold as few as {self._walk.length} in an epoch: lower data.streams or train.batch, or set "
                "data.locality=0."
            )

    @property
    def left_out(self) -> float:
        """The share of the pairs that sit an epoch out."""
        return 1 - self.steps_per_epoch * self.batch / self.n

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) that super-batch `step` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def indices(self, step: int) -> Tensor:
        """Positions of super-batch `step` (from 0) in the source: `[batch]` int64, all different."""
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        epoch, place = divmod(step, self.steps_per_epoch)
        rows = self._rows
        return torch.cat([self._walk.read(epoch, stream, place * rows, rows) for stream in range(self.streams)])

    def epochs(self, step: int) -> Tensor:
        """The epoch of each pair of super-batch `step`: `[batch]` int64, all alike."""
        return torch.full((self.batch,), self.epoch_of(step), dtype=torch.int64)

    def tars(self, step: int, rank: int, world: int) -> list[int]:
        """As in `Plans`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        deal, start = self._walk.deal(epoch), place * self._rows
        blocks = (deal.blocks(stream, start, start + self._rows) for stream in own_streams(self.streams, rank, world))
        return sorted(int(tar) for block in itertools.chain.from_iterable(blocks) for tar in block.tars)

    def visits(self, rank: int, world: int, first_step: int) -> Iterator[Visit]:
        """As in `Plans`; may be read in another thread than the rest."""
        mine = own_streams(self.streams, rank, world)
        for epoch in itertools.count(self.epoch_of(first_step)):
            deal, begin = self._walk.dealt(epoch), epoch * self.steps_per_epoch
            found = (self._of(deal, stream, begin, max(0, first_step - begin)) for stream in mine)
            yield from heapq.merge(*found, key=lambda visit: visit.first)

    def _of(self, deal: Deal, stream: int, begin: int, place: int) -> Iterator[Visit]:
        """A stream's visits in the epoch that begins at step `begin`, from its super-batch number `place`."""
        rows, end = self._rows, self.steps_per_epoch * self._rows
        for block in deal.blocks(stream, place * rows, end):
            first, last = block.start // rows, (min(block.end, end) - 1) // rows
            for tar in block.tars:
                yield Visit(int(tar), begin + first, begin + last)


def check_streams(batch: int, streams: int) -> None:
    """Raise an AcedError where so many streams cannot have equal parts of a super-batch."""
    if streams < 1 or batch % streams:
        fit = [count for count in range(1, min(batch, 4 * max(streams, 1)) + 1) if batch % count == 0]
        near = sorted(sorted(fit, key=lambda count: abs(count - streams))[:4])
        raise AcedError(
            f"data.streams = {streams} does not divide the super-batch of {batch}: choose one that does, such as "
            f"{', '.join(map(str, near))}."
        )


def own_streams(streams: int, rank: int, world: int) -> range:
    """The streams that rank `rank` of `world` reads."""
    if streams % world:
        raise ValueError(f"{streams} streams cannot be shared by {world} processes")
    each = streams // world
    return range(rank * each, (rank + 1) * each)
