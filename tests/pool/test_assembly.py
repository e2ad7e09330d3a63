"""Chunks of a batch put together: every row, fault and value once, and no chunk held longer than it is copied."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Iterator

import pytest
import torch
from test_handing import same, table

from aced.pool.loader.assembly import Size, assembled
from aced.pool.source import Candidates, Key


def chunks(*counts: int) -> list[Candidates]:
    return [table(count) for count in counts]


@pytest.mark.parametrize("counts", [(4,), (4, 3, 5), (0, 2, 0), (0, 0)])
def test_a_batch_has_the_rows_of_its_chunks_in_order(counts: tuple[int, ...]) -> None:
    parts = chunks(*counts)
    batch = assembled(iter(parts), deque([Size(len(parts), 20)]))
    assert batch is not None
    assert len(batch) == sum(counts)
    assert list(batch.texts) == [text for part in parts for text in part.texts]
    for key, values in batch.tensors().items():
        assert same(values, torch.cat([part.tensors()[key] for part in parts])), key
    assert len(batch.faults) == len(parts)
    assert batch.asked == len(batch) + 3 * len(parts)  # a fault and two dropped rows in each


def test_batches_follow_each_other_and_end() -> None:
    stream, sizes = iter(chunks(1, 2, 3)), deque([Size(2, 3), Size(1, 3)])
    lengths = [len(batch) for batch in iter(lambda: assembled(stream, sizes), None)]
    assert lengths == [3, 3]


def test_the_only_chunk_is_not_copied_and_a_place_is_used() -> None:
    (part,) = chunks(4)
    alone = assembled(iter([part]), deque([Size(1, 4)]))
    assert alone is not None
    for key, values in alone.tensors().items():
        assert same(values, part.tensors()[key])
        # Positions are kept by whoever watches a run, and must not keep the block of memory that a chunk is.
        assert (values.data_ptr() == part.tensors()[key].data_ptr()) == (key != "indices")
    rooms: dict[Key, torch.Tensor] = {}

    def place(key: Key, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        rooms[key] = torch.empty(shape, dtype=dtype)
        return rooms[key]

    placed = assembled(iter([part]), deque([Size(1, 9)]), place)
    assert placed is not None
    for key, values in placed.tensors().items():
        assert values.data_ptr() == rooms[key].data_ptr()
        assert len(rooms[key]) == 9
        assert same(values, part.tensors()[key])


def test_no_more_than_one_chunk_is_held() -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def stream() -> Iterator[Candidates]:
        nonlocal most
        for count in (3, 4, 5):
            gc.collect()
            most = max(most, sum(block() is not None for block in held))
            chunk = table(count)
            held.append(weakref.ref(chunk.indices))
            yield chunk
            del chunk

    assembled(stream(), deque([Size(3, 12)]))
    assert most == 0
