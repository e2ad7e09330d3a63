"""The interface to several processes (ranks) for mathematics; `core` knows no more about a job than this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Ranks(Protocol):
    """The communication between the processes of a job; each makes the same calls in the same order."""

    @property
    def rank(self) -> int:
        """This process, from 0."""
        ...

    @property
    def size(self) -> int:
        """W, the number of processes."""
        ...

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of every rank, `[sum(counts), ...]`; rank r contributes `counts[r]`, and its own are `rows`."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every rank's `values`, which have one shape."""
        ...

    def sum_rows(self, values: Tensor, counts: Sequence[int]) -> Tensor:
        """The sum of every rank's `values` `[sum(counts), ...]`, of which rank r gets its `counts[r]` rows."""
        ...


class Alone:
    """The world of one process, where every exchange returns its input."""

    rank = 0
    size = 1

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """As in `Ranks`."""
        return rows

    def sum(self, values: Tensor) -> Tensor:
        """As in `Ranks`."""
        return values

    def sum_rows(self, values: Tensor, counts: Sequence[int]) -> Tensor:
        """As in `Ranks`."""
        return values
