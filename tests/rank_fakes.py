"""Ranks that are threads of one process, for tests of what several processes do together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class ThreadRanks:
    """One of `size` ranks; it counts the exchanges, and the elements that it `moved`: gave to the others."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, board: list[Any]) -> None:
        self.rank, self.size, self._barrier, self._board = rank, size, barrier, board
        self.moved = 0
        self.exchanges: list[str] = []

    def _all(self, value: Tensor) -> list[Tensor]:
        self._board[self.rank] = value
        self._barrier.wait(300)
        values = list(self._board)
        self._barrier.wait(300)
        self.moved += value.numel()
        return values

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        assert len(rows) == counts[self.rank]
        self.exchanges.append("gather")
        parts = self._all(rows)
        assert [len(part) for part in parts] == list(counts)
        return torch.cat(parts)

    def sum(self, values: Tensor) -> Tensor:
        self.exchanges.append("sum")
        return torch.stack(self._all(values)).sum(0)

    def sum_rows(self, values: Tensor, counts: Sequence[int]) -> Tensor:
        assert len(values) == sum(counts)
        return self.sum(values).split(list(counts))[self.rank]


def on_ranks(size: int, work: Callable[[ThreadRanks], T]) -> list[T]:
    """What `work` returns on each of `size` ranks; the first exception is raised here."""
    barrier = threading.Barrier(size)
    board: list[Any] = [None] * size
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadRanks(rank, size, barrier, board))
        except threading.BrokenBarrierError:
            pass  # another rank's error broke it
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
