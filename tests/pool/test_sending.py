"""Batches on their way to a device: one step ahead, in order, from memory that nobody writes to before it is gone.

The line is a fake that sends nothing before somebody waits for its mark, as late as a device may.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_handing import same, table

from aced.errors import AcedError
from aced.pool.loader.assembly import Place, Size, assembled
from aced.pool.loader.sending import Line, Sent
from aced.pool.source import Candidates, Column


class Late:
    """A line whose copies are made when their mark is waited for, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Candidates, Candidates]] = []
        self.done = 0
        self.waits: list[Any] = []
        self.rooms = 0

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        self.rooms += 1
        return torch.empty(shape, dtype=dtype)

    def send(self, batch: Candidates) -> tuple[Candidates, int]:
        there = batch.each(torch.empty_like)
        self.asked.append((batch, there))
        return there, len(self.asked)

    def receive(self, batch: Candidates, mark: int) -> None:
        assert batch is self.asked[mark - 1][1]
        self._copy(mark)

    def mark(self) -> str:
        return f"step {len(self.waits)}"

    def wait(self, mark: Any) -> None:
        if isinstance(mark, int):
            self._copy(mark)
        else:
            self.waits.append(mark)

    def _copy(self, mark: int) -> None:
        for here, there in self.asked[self.done : mark]:
            for key, values in here.tensors().items():
                there.tensors()[key].copy_(values)
        self.done = max(self.done, mark)


class Wide(Column):
    """Values of which a device needs two columns only."""

    def __init__(self) -> None:
        super().__init__("ids", torch.int32, (9,))

    def sent(self, values: torch.Tensor) -> torch.Tensor:
        return values[:, :2]


def sent(
    tables: list[Candidates], line: Line, columns: list[Column] | None = None, last: Exception | None = None
) -> Sent:
    stream: Iterator[Candidates] = iter(tables)

    def take(place: Place) -> Candidates | None:
        chunk = next(stream, None)
        if chunk is None and last is not None:
            raise last
        return None if chunk is None else assembled(iter([chunk]), deque([Size(1, len(chunk) + 2)]), place)

    return Sent(take, columns or [Column("ids", torch.int32, (9,)), Column("rows", torch.float32, (2, 7))], line)


def test_batches_arrive_whole_and_in_order_however_late_they_are_sent() -> None:
    tables, line = [table(count) for count in (4, 6, 5, 6, 3, 1)], Late()
    got = list(sent(tables, line))
    assert len(got) == len(tables)
    for one, other in zip(tables, got, strict=True):
        assert all(same(values, other.tensors()[key]) for key, values in one.tensors().items())
        assert (one.faults, one.dropped, list(one.texts)) == (other.faults, other.dropped, list(other.texts))


def test_the_next_batch_is_under_way_before_a_step_begins_and_memory_is_used_again() -> None:
    line = Late()
    batches = sent([table(5) for _ in range(8)], line)
    for step in range(1, 8):
        next(batches)
        assert len(line.asked) == step + 1
    fields = len(table(5).tensors())
    assert line.rooms == 2 * fields
    assert len(line.waits) == 7 - 2  # the host is at most two steps ahead of the device


def test_a_device_gets_no_more_of_a_column_than_it_needs() -> None:
    tables, line = [table(4), table(3)], Late()
    first, second = sent(tables, line, [Wide(), Column("rows", torch.float32, (2, 7))])
    for one, other in zip(tables, (first, second), strict=True):
        assert same(one.columns["ids"][:, :2], other.columns["ids"])
        assert same(one.columns["rows"], other.columns["rows"])


def test_what_goes_wrong_with_a_batch_is_told_when_it_is_its_turn() -> None:
    batches = sent([table(4)], Late(), last=AcedError("The tar has changed."))
    assert len(next(batches)) == 4
    for _ in range(2):
        with pytest.raises(AcedError, match=r"^The tar has changed\.$"):
            next(batches)


def test_nothing_at_all() -> None:
    assert list(sent([], Late())) == []
