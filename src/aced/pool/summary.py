"""The pool as found, in one sentence for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from aced.pool.faults import LEFT_OUT
from aced.pool.source import Fault

_SHOWN = 4
"""Number of sources that a sentence names one by one."""


class Found(NamedTuple):
    """The result for one entry of `data.shards`: its name as the user wrote it, tars, and whole samples in them."""

    name: str
    tars: int
    samples: int


def found_text(sources: Sequence[Found], faults: Iterable[Fault] = ()) -> str:
    """How many samples and tars there are, from which sources, and how many samples are incomplete.

    >>> found_text([Found("a", 2, 3000), Found("b/*.tar", 1, 10)])
    'Data: 3,010 samples in 3 tars (a: 3,000 in 2; b/*.tar: 10 in 1).'
    >>> found_text([Found("a", 1, 1)])
    'Data: 1 sample in 1 tar (a).'
    """
    samples, tars = sum(one.samples for one in sources), sum(one.tars for one in sources)
    names = _few([f"{one.name}: {one.samples:,} in {one.tars:,}" for one in sources])
    if len(sources) == 1:
        names = sources[0].name
    lost = sum(fault.count for fault in faults if fault.name in LEFT_OUT and not fault.name.startswith("tar_"))
    left_out = f"; {lost:,} more {'is' if lost == 1 else 'are'} incomplete and left out" if lost else ""
    return f"Data: {_many(samples, 'sample')} in {_many(tars, 'tar')} ({names}){left_out}."


def tars_text(names: Sequence[str], tars: Sequence[int]) -> str:
    """How many tars each source has, before any is opened.

    >>> tars_text(["a", "b"], [12, 1])
    'Tars: 13 (a: 12; b: 1).'
    """
    return f"Tars: {sum(tars):,} ({_few([f'{name}: {count:,}' for name, count in zip(names, tars, strict=True)])})."


def _few(texts: Sequence[str]) -> str:
    more = [f"{_many(len(texts) - _SHOWN, 'more source')}"] if len(texts) > _SHOWN else []
    return "; ".join([*texts[:_SHOWN], *more])


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
