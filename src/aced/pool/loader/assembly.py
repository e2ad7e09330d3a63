"""Assembly of a batch from the chunks that loading processes deliver."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from aced.pool.source import Candidates, Fault, Key

Place = Callable[[Key, tuple[int, ...], torch.dtype], Tensor]
"""Provides memory for a tensor of a batch, of this shape and type."""


class Size(NamedTuple):
    """Of a batch: its number of chunks, and the number of rows requested."""

    chunks: int
    rows: int


def anew(key: Key, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Ordinary memory for each tensor."""
    return torch.empty(shape, dtype=dtype)


def assembled(chunks: Iterator[Candidates], sizes: deque[Size], place: Place | None = None) -> Candidates | None:
    """The next chunks as one batch; None if there are no more.

    A chunk is copied as soon as it arrives and then released, so that at most one chunk of shared memory is held. The
    only chunk of a batch is the batch itself unless a place is given; its positions, which observers of a run may
    keep, are a copy, because they would otherwise keep all of it.

    Args:
        chunks: of all batches.
        sizes: of the batches whose first chunk has arrived; this batch's entry is removed.
        place: where tensors are allocated; default: ordinary memory.
    """
    chunk = next(chunks, None)
    if chunk is None:
        return None
    size = sizes.popleft()
    if place is None:
        if size.chunks == 1:
            return replace(chunk, indices=chunk.indices.clone())
        place = anew
    shapes = {key: ((size.rows, *values.shape[1:]), values.dtype) for key, values in chunk.tensors().items()}
    room = {key: place(key, *shape) for key, shape in shapes.items()}
    whole, texts, end = chunk.with_tensors(room, ()), list[str](), 0
    faults, notes, dropped = list[Fault](), list[Fault](), 0
    for left in reversed(range(size.chunks)):
        start, end = end, end + len(chunk)
        for key, values in chunk.tensors().items():
            room[key][start:end].copy_(values)
        texts += chunk.texts
        faults += chunk.faults
        notes += chunk.notes
        dropped += chunk.dropped
        if left:
            del chunk, values  # otherwise their memory would be held while waiting for the next one
            chunk = next(chunks)
    whole = whole.with_tensors({key: values[:end] for key, values in room.items()}, texts)
    return replace(whole, faults=tuple(faults), notes=tuple(notes), dropped=dropped)
