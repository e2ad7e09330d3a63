"""The table of places in the memory; its size depends on the samples in it and not on the data."""

from __future__ import annotations

import torch
from torch import Tensor


class Held:
    """A table from samples to places, both int64 on the CPU: samples in ascending order, with the place of each.

    16 bytes an entry. Looking up m of n takes m binary searches, and a change copies the n entries.
    """

    def __init__(self) -> None:
        self._samples, self._places = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._samples)

    def of(self, samples: Tensor) -> Tensor:
        """`[m]` samples to `[m]` places; -1 for those without one."""
        if not len(self):
            return torch.full_like(samples, -1)
        row = torch.searchsorted(self._samples, samples).clamp_(max=len(self) - 1)
        return self._places[row].masked_fill_(self._samples[row] != samples, -1)

    def put(self, samples: Tensor, places: Tensor) -> None:
        """Assign places `[m]` to samples without one; no sample may occur twice."""
        samples, order = samples.sort()
        row = torch.searchsorted(self._samples, samples) + torch.arange(len(samples))
        new = torch.zeros(len(self) + len(samples), dtype=torch.bool)
        new[row] = True
        self._samples = _merged(new, self._samples, samples)
        self._places = _merged(new, self._places, places[order])

    def drop(self, samples: Tensor) -> None:
        """Remove the places of samples `[m]`, each of which has one."""
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[torch.searchsorted(self._samples, samples)] = False
        self._samples, self._places = self._samples[kept], self._places[kept]


def _merged(new: Tensor, old_values: Tensor, new_values: Tensor) -> Tensor:
    merged = torch.empty(len(new), dtype=torch.int64)
    merged[new], merged[~new] = new_values, old_values
    return merged
