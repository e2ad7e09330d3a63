"""Several views of each image; a sample's view is a pure function of (seed, epoch, position).

With K views a sample is seen as the whole image or as one of K - 1 fixed crops (`aced.pool.views.crop_box`), drawn anew
in each epoch. Student, live reference and cached reference all use the same view, so a cached score belongs to the
image that is trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from aced.pool.orders.order import Orders
from aced.pool.source import Candidates, Source
from aced.pool.views import View


def crops_of(positions: Tensor, seed: int, epochs: Tensor | int, views: int) -> Tensor:
    """The view of each sample in its epoch: `[B]` source positions to `[B]` int64 in `range(views)`.

    Uniform and independent over samples and epochs: the 64-bit finaliser of SplitMix64 (Steele,
    Lea and Flood, OOPSLA 2014) of the position, started from a hash of seed and epoch.

    Args:
        positions: `[B]` in the source.
        seed: of the run.
        epochs: `[B]`, or one for all.
        views: K.
    """
    each = torch.as_tensor(epochs).expand(len(positions)).tolist()
    starts = {epoch: hashlib.sha256(f"aced crops {seed} {epoch}".encode()).digest()[:8] for epoch in set(each)}
    start = np.frombuffer(b"".join(starts[epoch] for epoch in each), "<u8")
    with np.errstate(over="ignore"):
        x = positions.cpu().numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return torch.from_numpy(((x >> np.uint64(32)) * np.uint64(views) >> np.uint64(32)).astype(np.int64))


class ViewedOrder(Orders):
    """An order that also chooses the view: it returns `position + n * view`, which `ManyViews` decodes.

    Attributes:
        order: of the samples.
        views: K.
    """

    def __init__(self, order: Orders, views: int) -> None:
        self.n, self.batch, self.seed, self.steps_per_epoch = order.n, order.batch, order.seed, order.steps_per_epoch
        self.order, self.views = order, views

    def indices(self, step: int) -> Tensor:
        """Positions and views of super-batch `step`: `[batch]` int64 `position + n * view`, no position twice."""
        positions = self.order.indices(step)
        return positions + self.n * crops_of(positions, self.seed, self.order.epochs(step), self.views)


class ManyViews(Source):
    """A `Source` that reads sample i in view k when asked for `i + n * k`.

    The candidates' `indices` are plain positions again and their `crops` the views. Their images are stored under the
    requested view, whichever part of the image they show.

    Args:
        source: n samples.
    """

    def __init__(self, source: Source) -> None:
        self.within: Source = source

    def __len__(self) -> int:
        return len(self.within)

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        """Load the samples at `indices` modulo n, each in its view, in that order; faulty ones are left out."""
        return self._read(indices, views, lambda rows, _, cropped: self.within.read(rows, cropped))

    def read_in_epochs(self, indices: Sequence[int], views: Sequence[View], epochs: Sequence[int]) -> Candidates:
        """As `read`, each with the caption of its epoch."""

        def read(rows: list[int], places: list[int], cropped: list[View]) -> Candidates:
            return self.within.read_in_epochs(rows, cropped, [epochs[place] for place in places])

        return self._read(indices, views, read)

    def _read(
        self,
        indices: Sequence[int],
        views: Sequence[View],
        read: Callable[[list[int], list[int], list[View]], Candidates],
    ) -> Candidates:
        """The result of `read` for each view's positions, with their places in `indices`, in the order of `indices`."""
        n = len(self)
        asked = np.asarray(indices, dtype=np.int64)
        groups = []
        for crop in np.unique(asked // n).tolist():
            cropped = {view: view.cropped(crop) for view in views}
            places = np.flatnonzero(asked // n == crop)
            rows = (asked[places] % n).tolist()
            groups.append((crop, cropped, read(rows, places.tolist(), list(cropped.values()))))
        found = Candidates(
            indices=torch.cat([torch.empty(0, dtype=torch.int64), *(part.indices for _, _, part in groups)]),
            texts=[text for _, _, part in groups for text in part.texts],
            images={view: _cat([part.images[cropped[view]] for _, cropped, part in groups], view) for view in views},
            faults=tuple(fault for _, _, part in groups for fault in part.faults),
            notes=tuple(note for _, _, part in groups for note in part.notes),
            crops=torch.tensor([crop for crop, _, part in groups for _ in part.texts], dtype=torch.int64),
        )
        # Back into the requested order; missing ones were faulty.
        place = {index: at for at, index in enumerate(asked.tolist())}
        assert found.crops is not None
        back = torch.tensor([place[index] for index in (found.indices + n * found.crops).tolist()], dtype=torch.int64)
        ordered = found[back.argsort()]
        return replace(ordered, faults=found.faults, notes=found.notes)


def _cat(parts: Sequence[Tensor], view: View) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.empty(0, 3, view.size, view.size, dtype=torch.uint8)
