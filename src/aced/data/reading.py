"""Reading a whole source once, in order, with worker processes if wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from aced.data.source import Candidates, Source
from aced.data.views import View
from aced.data.workers import quiet_end
from aced.errors import AcedError

_CHUNK_BYTES = 1 << 25


def chunk_size(views: Sequence[View], multiple: int = 1) -> int:
    """Samples to read at once: about 32 MiB of pixels, at most 1024, a multiple of `multiple`."""
    per_sample = sum(3 * view.size**2 for view in views) or 1
    chunk = max(1, min(1024, _CHUNK_BYTES // per_sample))
    return max(1, chunk // multiple) * multiple


def read_all(
    source: Source, views: Sequence[View], *, chunk: int, workers: int = 0
) -> Iterator[tuple[int, Candidates]]:
    """All samples once, `chunk` at a time: pairs of (samples asked for so far, candidates).

    Args:
        source: any source; with workers it must be picklable or the platform must fork.
        views: in which the images are wanted.
        chunk: samples that are read at once.
        workers: processes that read ahead; 0 reads in this one.

    Raises:
        AcedError: what the source raises, from a worker too.
    """
    spans = [range(at, min(len(source), at + chunk)) for at in range(0, len(source), chunk)]
    for span, content in zip(spans, read_spans(source, views, spans, workers=workers), strict=True):
        yield span.stop, content


def read_spans(
    source: Source, views: Sequence[View], spans: Sequence[range], *, workers: int = 0
) -> Iterator[Candidates]:
    """The samples of each range of positions, one after the other; `read_all` documents the rest."""
    # Its own generator, because a loader draws a seed, and the global one belongs to the user.
    loader = DataLoader(
        _Spans(source, views, spans),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=quiet_end,
        generator=torch.Generator(),
    )
    for content in loader:
        if isinstance(content, AcedError):
            raise content
        yield content


class _Spans(Dataset["Candidates | AcedError"]):
    def __init__(self, source: Source, views: Sequence[View], spans: Sequence[range]) -> None:
        self.source, self.views, self.spans = source, list(views), list(spans)

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, number: int) -> Candidates | AcedError:
        try:
            return self.source.read(self.spans[number], self.views)
        except AcedError as error:
            # A loader would wrap a worker's exception into a page of traceback; a value stays as it is.
            return error
