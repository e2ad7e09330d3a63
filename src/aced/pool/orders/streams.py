"""The tars of a pool as streams: each stream walks through its own tars, a few at a time, and mixes their pairs.

A pass is one walk through all tars. Pass p deals them to C streams anew and depends only on (words, p). The deal is
even: tars are sorted by size, and each stream gets one of C neighbours, so streams differ by at most the difference
between the largest and the smallest tar. The `N % C` remaining tars sit the pass out, different ones in every pass, and
so do the pairs by which a stream exceeds the shortest one.

Time and memory for any pass are O(tars), plus O(pairs of one block) for each stream that is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from aced.errors import AcedError
from aced.pool.orders.order import permutation


class Block(NamedTuple):
    """Tars that a stream reads together: their numbers, and where in the stream their pairs begin and end."""

    tars: list[int]
    start: int
    end: int


class Deal:
    """One pass: the tars of each stream, and their order.

    Args:
        table: `[tars of a stream, C]` numbers of tars, stream by stream in the order in which they are read.
        sizes: of all tars.
        locality: K.
    """

    def __init__(self, table: np.ndarray, sizes: np.ndarray, locality: int) -> None:
        self._table, self._locality = table, locality
        ends = sizes[table].cumsum(axis=0)
        last = ends[-1:] if len(table) % locality else ends[:0]
        self._ends = np.concatenate([ends[locality - 1 :: locality], last])  # [blocks, C]

    def find(self, stream: int, place: int) -> int:
        """The number of the block that holds pair number `place` of a stream."""
        return int(np.searchsorted(self._ends[:, stream], place, side="right"))

    def block(self, stream: int, number: int) -> Block:
        """A block of a stream."""
        tars = self._table[number * self._locality : (number + 1) * self._locality, stream].tolist()
        start = int(self._ends[number - 1, stream]) if number else 0
        return Block(tars, start, int(self._ends[number, stream]))

    def blocks(self, stream: int, start: int, end: int) -> Iterator[Block]:
        """The blocks that hold pairs number `start` to `end - 1` of a stream."""
        number = self.find(stream, start)
        while start < end:
            block = self.block(stream, number)
            yield block
            start, number = block.end, number + 1


class Deals(Protocol):
    """One pass of a walk."""

    def blocks(self, stream: int, start: int, end: int) -> Iterator[Block]:
        """The blocks that hold pairs number `start` to `end - 1` of a stream."""
        ...


class Walk(Protocol):
    """A path through a source in streams, a different one in every pass.

    Attributes:
        n: pairs of the source.
        length: number of pairs that every stream has in every pass.
        shared: numbers of tars that every stream reads all the time; they are in no block.
    """

    n: int
    length: int
    shared: Sequence[int]

    def deal(self, number: int) -> Deals:
        """Pass `number`; the latest one may be kept."""
        ...

    def dealt(self, number: int) -> Deals:
        """Pass `number`, made anew: for a reader in another thread."""
        ...

    def read(self, number: int, stream: int, start: int, count: int) -> Tensor:
        """Positions of pairs number `start` to `start + count - 1` of a stream in pass `number`: `[count]` int64."""
        ...


class Streams:
    """C streams over tars.

    Args:
        sizes: usable pairs of each tar; a tar without any is never read. Tars of other sources count 0.
        starts: position of each tar's first pair; `starts_of(sizes)` if all are of this source.
        streams: C.
        locality: K, number of tars that a stream reads at a time; their pairs are permuted together.
        words: seed of the order, together with the pass.

    Attributes:
        n: pairs of all tars.
        streams: C.
        length, shared: as of `Walk`.

    Raises:
        AcedError: there are fewer tars than streams.
    """

    def __init__(self, sizes: np.ndarray, starts: np.ndarray, streams: int, locality: int, words: str) -> None:
        if streams < 1 or locality < 1:
            raise AcedError(f"data.streams and data.locality must be at least 1, not {streams} and {locality}.")
        self._sizes, self._starts = sizes, starts
        self.n = int(sizes.sum())
        self._there = np.flatnonzero(self._sizes)
        if len(self._there) < streams:
            raise AcedError(
                f"data.streams = {streams} exceeds the number of tars with pairs ({len(self._there)}), and each "
                "stream reads its own tars: lower data.streams, or set data.locality=0."
            )
        self.streams = streams
        self.shared: Sequence[int] = ()
        self._locality, self._words = locality, words
        self._rest = len(self._there) % streams
        # The smallest of each round if the largest tars sit out: a stream never gets less.
        sizes_down = np.sort(self._sizes[self._there])[::-1]
        self.length = int(sizes_down[self._rest + streams - 1 :: streams].sum())
        self._dealt: tuple[int, Deal] | None = None
        self._mixed: dict[int, tuple[int, int, Tensor]] = {}

    def deal(self, number: int) -> Deal:
        """As in `Walk`."""
        dealt = self._dealt
        if dealt is None or dealt[0] != number:
            dealt = self._dealt = (number, self.dealt(number))
        return dealt[1]

    def dealt(self, number: int) -> Deal:
        """As in `Walk`."""
        words, rounds = f"{self._words} {number}", len(self._there) // self.streams
        order = permutation(len(self._there), words).numpy()
        taken = self._there[order[: rounds * self.streams]]
        place = np.empty(len(self._sizes), np.int64)
        place[taken] = np.arange(len(taken))
        by_size = taken[np.argsort(-self._sizes[taken], kind="stable")].reshape(rounds, self.streams)
        keys = permutation(by_size.size, f"{words} streams").numpy().reshape(by_size.shape)
        table = np.take_along_axis(by_size, keys.argsort(axis=1), axis=1)
        table = np.take_along_axis(table, place[table].argsort(axis=0), axis=0)
        return Deal(table, self._sizes, self._locality)

    def read(self, number: int, stream: int, start: int, count: int) -> Tensor:
        """As in `Walk`."""
        deal, end = self.deal(number), start + count
        parts = [torch.empty(0, dtype=torch.int64)]
        at = deal.find(stream, start)
        while start < end:
            block = deal.block(stream, at)
            rows = self._permutation(number, stream, at, block)[start - block.start : end - block.start].numpy()
            parts.append(_positions(rows, self._sizes[block.tars], self._starts[block.tars]))
            start, at = block.end, at + 1
        return torch.cat(parts)

    def _permutation(self, number: int, stream: int, at: int, block: Block) -> Tensor:
        """The permutation within a block; the latest one of each stream is kept."""
        kept = self._mixed.get(stream)
        if kept is None or kept[:2] != (number, at):
            mixed = permutation(block.end - block.start, f"{self._words} {number} stream {stream} block {at}")
            kept = self._mixed[stream] = (number, at, mixed)
        return kept[2]


class SharedTars:
    """A source of few tars that every stream reads: each has its part of one permutation of all pairs.

    Args:
        sizes, starts, streams, words: as of `Streams`.

    Attributes:
        n, length, shared: as of `Walk`.
    """

    def __init__(self, sizes: np.ndarray, starts: np.ndarray, streams: int, words: str) -> None:
        self.shared: Sequence[int] = np.flatnonzero(sizes).tolist()
        self._sizes, self._starts = sizes[self.shared], starts[self.shared]
        self.n, self._words = int(sizes.sum()), words
        self.length = self.n // streams
        self._mixed: tuple[int, Tensor] | None = None

    def deal(self, number: int) -> SharedTars:
        """As in `Walk`: every pass is alike."""
        return self

    dealt = deal

    def blocks(self, stream: int, start: int, end: int) -> Iterator[Block]:
        """As in `Deals`: none, because all tars are shared."""
        return iter(())

    def read(self, number: int, stream: int, start: int, count: int) -> Tensor:
        """As in `Walk`."""
        mixed = self._mixed
        if mixed is None or mixed[0] != number:
            mixed = self._mixed = (number, permutation(self.n, f"{self._words} {number}"))
        begin = stream * self.length + start
        return _positions(mixed[1][begin : begin + count].numpy(), self._sizes, self._starts)


def starts_of(sizes: np.ndarray) -> np.ndarray:
    """`[n]` positions of the first pairs of n consecutive tars."""
    return sizes.cumsum() - sizes


def _positions(rows: np.ndarray, sizes: np.ndarray, starts: np.ndarray) -> Tensor:
    """The pool positions of the rows of some consecutive tars, if tars begin at `starts` in the pool."""
    ends = sizes.cumsum()
    return torch.from_numpy((starts - ends + sizes)[np.searchsorted(ends, rows, side="right")] + rows)
