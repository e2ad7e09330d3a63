"""An order of training that reads only a few tars at a time, as a pure function of (seed, step).

A super-batch consists of C streams, one after the other. Each yields B/C pairs and walks through its own tars, K at a
time (`aced.pool.orders.streams`). Rank r of W reads streams r C/W to (r + 1) C/W - 1, its equal part of every
super-batch. So it reads only its own tars, and super-batches are the same for every W that divides C.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from aced.errors import AcedError
from aced.pool.orders.order import Orders
from aced.pool.orders.sharing import check_streams, own_streams
from aced.pool.orders.streams import Deals, Streams, Walk, starts_of


class Visit(NamedTuple):
    """A tar's number, and the first and last step that need it in this pass."""

    tar: int
    first: int
    last: int


class Takes(Protocol):
    """How many pairs of each source each stream takes, step by step."""

    def before(self, source: int, stream: int, step: int) -> int:
        """The number taken before a step."""
        ...

    def step_of(self, source: int, stream: int, pair: int) -> int:
        """The step that takes pair number `pair`."""
        ...


class Plans(Orders):
    """An order by streams, which says which tars it reads when.

    Args:
        walks: of each source; a source is read in passes, each another walk.
        passes: steps of a pass of each source.
        takes: what each step takes of them.

    Attributes:
        streams: C.
        left_out: average share of a source's pairs that sit a pass out; the largest over sources.
    """

    left_out: float

    def __init__(
        self, walks: Sequence[Walk], passes: Sequence[int], takes: Takes, batch: int, seed: int, streams: int
    ) -> None:
        self.n, self.batch, self.seed, self.streams = sum(walk.n for walk in walks), batch, seed, streams
        self.steps_per_epoch = max(passes)
        self._walks, self._passes, self._takes = list(walks), list(passes), takes

    def indices(self, step: int) -> Tensor:
        """Positions of super-batch `step` (from 0) in the source: `[batch]` int64, all different."""
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        return torch.cat([self._read(stream, step) for stream in range(self.streams)])

    def tars(self, step: int, rank: int, world: int) -> list[int]:
        """Numbers of the tars that this rank's part of super-batch `step` needs, ascending."""
        mine, found = own_streams(self.streams, rank, world), set[int]()
        for source, walk in enumerate(self._walks):
            found.update(walk.shared)
            for stream in mine:
                number, start, count = self._place(source, stream, step)
                for block in walk.deal(number).blocks(stream, start, start + count):
                    found.update(block.tars)
        return sorted(found)

    def visits(self, rank: int, world: int, first_step: int) -> Iterator[Visit]:
        """This rank's visits to tars, without end, in the order in which they begin; those that ended are left out.

        Another thread than that of the other methods may read them.
        """
        mine = own_streams(self.streams, rank, world)
        return _merged(self._visits(source, mine, first_step) for source in range(len(self._walks)))

    def _read(self, stream: int, step: int) -> Tensor:
        """A stream's part of a super-batch."""
        places = (self._place(source, stream, step) for source in range(len(self._walks)))
        parts = zip(self._walks, places, strict=True)
        return torch.cat([walk.read(number, stream, start, count) for walk, (number, start, count) in parts])

    def _place(self, source: int, stream: int, step: int) -> tuple[int, int, int]:
        """What a step takes of a source: the number of its pass, and the first and the number of the stream's pairs."""
        number = step // self._passes[source]
        done = self._takes.before(source, stream, number * self._passes[source])
        start, end = (self._takes.before(source, stream, at) for at in (step, step + 1))
        return number, start - done, end - start

    def _visits(self, source: int, streams: range, first_step: int) -> Iterator[Visit]:
        """The visits to the tars of one source."""
        length, walk = self._passes[source], self._walks[source]
        for number in itertools.count(first_step // length):
            deal, steps = walk.dealt(number), range(number * length, (number + 1) * length)
            yield from (Visit(tar, steps[0], steps[-1]) for tar in walk.shared)
            left = steps[max(0, first_step - steps[0]) :]
            yield from _merged(self._of(deal, source, stream, steps[0], left) for stream in streams)

    def _of(self, deal: Deals, source: int, stream: int, begin: int, left: range) -> Iterator[Visit]:
        """A stream's visits in the rest of the pass that begins at step `begin`."""
        done, start, end = (self._takes.before(source, stream, step) for step in (begin, left[0], left[-1] + 1))
        for block in deal.blocks(stream, start - done, end - done):
            first = self._takes.step_of(source, stream, done + block.start)
            last = self._takes.step_of(source, stream, min(done + block.end, end) - 1)
            yield from (Visit(tar, first, last) for tar in block.tars)


def _merged(visits: Iterable[Iterator[Visit]]) -> Iterator[Visit]:
    return heapq.merge(*visits, key=lambda visit: visit.first)


class Plan(Plans):
    """An endless sequence of epochs over the pairs of some tars.

    Epoch e has `steps_per_epoch` super-batches, with every pair at most once. Pairs beyond the length of the shortest
    possible stream sit the epoch out, different ones in every epoch.

    Args:
        sizes: usable pairs of each tar, in the order of the pool.
        batch: size of a super-batch.
        seed: seed of the order; any int.
        locality: K, number of tars that a stream reads at a time.
        streams: C.

    Attributes:
        n: number of pairs.
        batch, seed, streams: as given.
        left_out: the share of the pairs that sit an epoch out.
        steps_per_epoch: super-batches of every epoch.

    Raises:
        AcedError: streams do not divide the super-batch, there are fewer tars than streams, or a stream's tars hold
            fewer pairs than it contributes to one super-batch.
    """

    def __init__(self, sizes: Sequence[int], batch: int, seed: int, locality: int, streams: int) -> None:
        check_streams(batch, streams)
        each, rows = np.asarray(sizes, dtype=np.int64), batch // streams
        walk = Streams(each, starts_of(each), streams, locality, f"aced plan {seed}")
        steps = walk.length // rows
        if not steps:
            raise AcedError(
                f"Each of {streams} streams contributes {rows} pairs to a super-batch of {batch}, but its tars may "
                f"hold as few as {walk.length} in an epoch: lower data.streams or train.batch, or set data.locality=0."
            )
        super().__init__([walk], [steps], _Alike(rows), batch, seed, streams)
        self.left_out = 1 - steps * batch / self.n


class _Alike:
    """Each stream takes the same number from the only source at every step."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def before(self, source: int, stream: int, step: int) -> int:
        """As in `Takes`."""
        return step * self._rows

    def step_of(self, source: int, stream: int, pair: int) -> int:
        """As in `Takes`."""
        return pair // self._rows
