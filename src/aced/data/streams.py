"""The tars of a pool as streams: each stream walks tars of its own, a few at a time, whose pairs it mixes.

A pass is one walk through all tars. Pass p deals them to C streams anew and follows from (words, p) alone. Its deal is
even: tars are sorted by size, and of C neighbours each stream gets one, so that streams differ by no more than the
largest tar differs from the smallest. The `N % C` tars that are left over sit the pass out; they are others in every
pass, and so is what a stream has more than the shortest one.

Time and memory for any pass are O(tars), and O(the pairs of one block) for each stream that is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aced.data.order import permutation
from aced.errors import AcedError


class Block(NamedTuple):
    """Tars that a stream reads together: their numbers, and where in the stream its pairs begin and end."""

    tars: np.ndarray
    start: int
    end: int


class Deal:
    """One pass: which tars each stream walks, and in what order.

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
        tars = self._table[number * self._locality : (number + 1) * self._locality, stream]
        start = int(self._ends[number - 1, stream]) if number else 0
        return Block(tars, start, int(self._ends[number, stream]))

    def blocks(self, stream: int, start: int, end: int) -> Iterator[Block]:
        """Those that hold pairs number `start` to `end - 1` of a stream."""
        number = self.find(stream, start)
        while start < end:
            block = self.block(stream, number)
            yield block
            start, number = block.end, number + 1


class Streams:
    """C streams over tars that lie one after the other.

    Args:
        sizes: usable pairs of each tar; one without any is never read, and a source among others has 0 for theirs.
        streams: C.
        locality: K, how many tars a stream reads at a time; their pairs are permuted together.
        words: what the order follows from, beside the pass.

    Attributes:
        streams: C.
        length: pairs of a pass that every stream has, whatever the pass.

    Raises:
        AcedError: there are fewer tars than streams.
    """

    def __init__(self, sizes: Sequence[int] | np.ndarray, streams: int, locality: int, words: str) -> None:
        if streams < 1 or locality < 1:
            raise AcedError(f"data.streams and data.locality must be at least 1, not {streams} and {locality}.")
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._starts = self._sizes.cumsum() - self._sizes
        self._there = np.flatnonzero(self._sizes)
        if len(self._there) < streams:
            raise AcedError(
                f"data.streams = {streams} is more than there are tars with pairs ({len(self._there)}), and each "
                "stream reads tars of its own: lower data.streams, or set data.locality=0."
            )
        self.streams, self._locality, self._words = streams, locality, words
        self._rest = len(self._there) % streams
        # The smallest of each round where the tars that sit out are the largest: less a stream never gets.
        sizes_down = np.sort(self._sizes[self._there])[::-1]
        self.length = int(sizes_down[self._rest + streams - 1 :: streams].sum())
        self._dealt: tuple[int, Deal] | None = None
        self._mixed: dict[int, tuple[int, int, Tensor]] = {}

    def deal(self, number: int) -> Deal:
        """Pass `number`; the last one asked for is kept."""
        dealt = self._dealt
        if dealt is None or dealt[0] != number:
            dealt = self._dealt = (number, self.dealt(number))
        return dealt[1]

    def dealt(self, number: int) -> Deal:
        """Pass `number`, made anew: for one who reads on in another thread."""
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
        """Positions of pairs number `start` to `start + count - 1` of a stream in pass `number`: `[count]` int64."""
        deal, end = self.deal(number), start + count
        parts = [torch.empty(0, dtype=torch.int64)]
        at = deal.find(stream, start)
        while start < end:
            block = deal.block(stream, at)
            rows = self._permutation(number, stream, at, block)[start - block.start : end - block.start].numpy()
            ends = self._sizes[block.tars].cumsum()
            which = np.searchsorted(ends, rows, side="right")
            firsts = self._starts[block.tars] - ends + self._sizes[block.tars]
            parts.append(torch.from_numpy(firsts[which] + rows))
            start, at = block.end, at + 1
        return torch.cat(parts)

    def _permutation(self, number: int, stream: int, at: int, block: Block) -> Tensor:
        """How the pairs of a block are mixed; of each stream the last one asked for is kept."""
        kept = self._mixed.get(stream)
        if kept is None or kept[:2] != (number, at):
            mixed = permutation(block.end - block.start, f"{self._words} {number} stream {stream} block {at}")
            kept = self._mixed[stream] = (number, at, mixed)
        return kept[2]
