"""One chunk of a batch, from positions to a table: read, checked, with every column filled.

This runs in the loading processes, so everything that it needs is picklable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aced.errors import AcedError
from aced.pool.source import Candidates, Column, Source
from aced.pool.views import View


@dataclass(frozen=True)
class FillJob:
    """The samples to load.

    Attributes:
        positions: `[m]` in the source.
        epochs: `[m]` of the samples.
    """

    positions: Tensor
    epochs: Tensor


@dataclass(frozen=True)
class Fill:
    """From a job to its table.

    Attributes:
        source: where pairs are read.
        views: views of the images.
        columns: further data of each pair; a pair for which a column has no value is left out.
    """

    source: Source
    views: Sequence[View]
    columns: Sequence[Column] = ()

    def __call__(self, job: FillJob) -> Candidates:
        """The table.

        Raises:
            AcedError: as the source or a column raises; or one of them returned the wrong number of rows.
        """
        found = with_values(self._read(job), self.columns)
        columns = {column.name: _checked(column, column.load(found), len(found)) for column in self.columns}
        return replace(found, columns=columns)

    def _read(self, job: FillJob) -> Candidates:
        indices, views = job.positions.tolist(), list(self.views)
        if self.source.captions_vary:
            found = self.source.read_in_epochs(indices, views, job.epochs.tolist())
        else:
            found = self.source.read(indices, views)
        rows = {len(found), len(found.texts), *map(len, found.images.values())}
        if found.asked != len(indices) or rows != {len(found)}:
            raise AcedError(
                f"{self.source.name}: read() was asked for {len(indices)} samples and returned {len(found)} positions, "
                f"{', '.join(f'{len(images)} images' for images in found.images.values())}, {len(found.texts)} "
                f"captions and {len(found.faults)} faults: every sample must be complete, or have a fault that "
                "says why it is not."
            )
        return found


def with_values(found: Candidates, columns: Sequence[Column]) -> Candidates:
    """The rows for which every column has a value; the faults and notes of all."""
    keep = torch.ones(len(found), dtype=torch.bool)
    for column in columns:
        if (valid := column.valid(found)) is not None:
            keep &= valid
    if keep.all():
        return found
    kept = found[keep.nonzero().flatten()]
    return replace(kept, faults=found.faults, notes=found.notes, dropped=len(found) - len(kept))


def _checked(column: Column, values: Tensor, rows: int) -> Tensor:
    if values.dtype != column.dtype or tuple(values.shape) != (rows, *column.shape):
        raise AcedError(
            f"The column '{column.name}' returned {values.dtype} {list(values.shape)} for {rows} pairs but declares "
            f"{column.dtype} {[rows, *column.shape]}: correct its load(), or its dtype and shape."
        )
    return values
