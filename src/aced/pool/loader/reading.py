"""Reading a whole source once, in order, optionally with worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from aced.pool.loader.loading import load
from aced.pool.source import Candidates, Source
from aced.pool.views import View, image_bytes

_CHUNK_BYTES = 1 << 25


def chunk_size(views: Sequence[View], multiple: int = 1) -> int:
    """Number of samples to read at once: about 32 MiB of pixels, at most 1024, a multiple of `multiple`."""
    per_sample = image_bytes(views) or 1
    chunk = max(1, min(1024, _CHUNK_BYTES // per_sample))
    return max(1, chunk // multiple) * multiple


def bytes_at_once(source: Source, views: Sequence[View], multiple: int = 1) -> int:
    """Bytes of the images in the largest chunk of a source."""
    return min(len(source), chunk_size(views, multiple)) * image_bytes(views)


def read_all(
    source: Source, views: Sequence[View], *, chunk: int, workers: int = 0
) -> Iterator[tuple[int, Candidates]]:
    """All samples once, `chunk` at a time: pairs of (samples requested so far, candidates).

    Args:
        source: any source; with workers it must be picklable or the platform must fork.
        views: views of the images.
        chunk: number of samples read at once.
        workers: processes that read ahead; 0 reads in this one.

    Raises:
        AcedError: as the source raises, from a worker too, and as `aced.pool.loader.loading.load`.
    """
    spans = [range(at, min(len(source), at + chunk)) for at in range(0, len(source), chunk)]
    contents = read_spans(source, views, spans, longest=min(chunk, len(source)), count=len(spans), workers=workers)
    for span, content in zip(spans, contents, strict=True):
        yield span.stop, content


def read_spans(
    source: Source,
    views: Sequence[View],
    spans: Iterable[range],
    *,
    longest: int,
    count: int,
    workers: int = 0,
    helped: Callable[[], int] | None = None,
) -> Iterator[Candidates]:
    """The samples of each range of positions, one after the other; see `read_all`.

    Args:
        source, views, workers: as in `read_all`.
        spans: the ranges, each taken shortly before it is read.
        longest: samples in the longest one.
        count: maximum number of ranges.
        helped: see `aced.pool.loader.loading.load`.
    """
    return load(
        partial(source.read, views=list(views)),
        spans,
        count=count,
        workers=workers,
        item=longest * image_bytes(views),
        helped=helped,
    )
