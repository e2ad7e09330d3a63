"""The contract between data and everything that reads it: `Source` and `Candidates`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from aced.data.views import View

SOUND_KINDS = frozenset({"clean", "duplicate"})
"""Kinds of samples whose picture and caption are both right, where a source tells kinds at all."""


@dataclass(frozen=True)
class Fault:
    """A sample that could not be used or is odd: its key, a short name of the fault for counting, and one sentence.

    `count` is more than 1 where one fault stands for many, of which this is an example.
    """

    key: str
    name: str
    detail: str
    count: int = 1


@dataclass(frozen=True)
class Candidates:
    """Raw pairs as they were loaded; B of them, faulty ones already left out.

    Attributes:
        indices: `[B]` int64 positions in the source.
        texts: B captions.
        images: for each `View` that was asked for, `[B, 3, size, size]` uint8.
        faults: the samples that were asked for and could not be used.
        notes: what is odd about the samples that are there; see `aced.data.faults.HARMLESS`.
        crops: `[B]` int64, which crop of its image each pair was read in; None for whole images.
        coarse: `[B]` bool, which images a student in training sees at a lower resolution; None: none of them.
    """

    indices: Tensor
    texts: list[str]
    images: dict[View, Tensor]
    faults: tuple[Fault, ...] = field(default=())
    notes: tuple[Fault, ...] = field(default=())
    crops: Tensor | None = None
    coarse: Tensor | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: Tensor) -> Candidates:
        """The chosen rows only, in the order given."""
        rows = rows.to("cpu", torch.int64)
        # Rows as a whole; plain indexing goes byte by byte.
        images = {view: pixels.index_select(0, rows) for view, pixels in self.images.items()}
        return self._part(rows, [self.texts[i] for i in rows.tolist()], images)

    def split(self, size: int) -> list[Candidates]:
        """Consecutive parts of `size` rows, the last of fewer; their images are not copied."""
        pieces = [slice(start, start + size) for start in range(0, len(self), size)]
        return [
            self._part(piece, self.texts[piece], {view: pixels[piece] for view, pixels in self.images.items()})
            for piece in pieces
        ]

    def _part(self, rows: Tensor | slice, texts: list[str], images: dict[View, Tensor]) -> Candidates:
        return Candidates(
            indices=self.indices[rows],
            texts=texts,
            images=images,
            crops=None if self.crops is None else self.crops[rows],
            coarse=None if self.coarse is None else self.coarse[rows],
        )


class Source(Protocol):
    """A finite, indexable collection of image-text pairs.

    `keys[i]` identifies sample i for good (for tars: `tar name/key`); `fingerprint` changes when the data do.
    `kinds`, where it is known, says how each sample was spoilt. It is for measuring only: nothing that trains
    or selects may read it.
    """

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """A lasting identity of each sample."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the data do."""
        ...

    @property
    def kinds(self) -> Sequence[str] | None:
        """How each sample was spoilt, where that is known."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        """Load the samples at `indices` (in that order) in every view; faulty ones are left out and reported."""
        ...
