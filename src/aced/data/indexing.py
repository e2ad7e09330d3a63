"""The indexes of many tars, in several processes where that is worth while."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from aced.data.descriptors import is_out_of_files, out_of_files
from aced.data.loading import load
from aced.data.located import Tell
from aced.data.spool import Located
from aced.data.tarindex import KeptNote, TarIndex, index_tar, kept_text, no_index
from aced.data.tars import TarFault

_PARALLEL, _AT_ONCE = 16, 4
"""Tars from which on it is worth while to index them in several processes, and those that one takes at a time."""
_Noted = tuple[TarIndex, KeptNote | None]


def read_indexes(
    located: Sequence[Located],
    index_dir: Path | None = None,
    workers: int = 0,
    *,
    check: Callable[[str, TarIndex], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    tell: Tell | None = None,
) -> list[TarIndex]:
    """The index of each tar, in order; of one that cannot be read an index without samples.

    Args:
        located: the tars.
        index_dir: where indexes are kept for the next time; without it they are made anew.
        workers: processes that read headers, where there are many tars; 0 does so in this one.
        check: called with the name of a tar as the user gave it and its index, to refuse it.
        progress: called with (tars done, all tars).
        tell: gets a sentence about kept indexes that are of no use.

    Raises:
        AcedError: what `check` raises, the process may open no more files, or one that reads headers dies.
    """
    indexes: list[TarIndex] = []
    kept: list[KeptNote] = []
    for tar, (index, note) in zip(located, _indexes(located, index_dir, workers), strict=True):
        kept += [note] if note is not None else []
        if check is not None:
            check(tar.source, index)
        indexes.append(index)
        if progress is not None:
            progress(len(indexes), len(located))
    if kept and tell is not None and index_dir is not None:
        tell(kept_text(index_dir, kept))
    return indexes


def _indexes(located: Sequence[Located], index_dir: Path | None, workers: int) -> Iterator[_Noted]:
    """The index of each tar, with what was wrong with the kept one."""
    work = partial(_index, index_dir=Path(index_dir) if index_dir is not None else None)
    if workers < 2 or len(located) < _PARALLEL:
        return map(work, located)
    groups = [located[at : at + _AT_ONCE] for at in range(0, len(located), _AT_ONCE)]
    found = load(partial(_each, work), groups, count=len(groups), workers=min(workers, len(groups)))
    return itertools.chain.from_iterable(found)


def _each(work: Callable[[Located], _Noted], located: Sequence[Located]) -> list[_Noted]:
    return [work(tar) for tar in located]


def _index(tar: Located, index_dir: Path | None) -> _Noted:
    try:
        index, note = index_tar(tar.path, index_dir)
    except OSError as error:
        if is_out_of_files(error):
            raise out_of_files() from error
        return no_index(TarFault("unreadable", f"it cannot be read ({error.strerror or error})")), None
    return (index if tar.fault is None else replace(index, faults=[tar.fault, *index.faults])), note
