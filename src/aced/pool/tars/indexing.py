"""Reading the headers of many tars, in several processes if that pays off."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aced.pool.captions import Captions
from aced.pool.fetch.spool import Located
from aced.pool.loader.loading import load
from aced.pool.tars.keysample import hash_keys
from aced.pool.tars.manifest import NO_STATE, TarFacts
from aced.pool.tars.tarindex import KeptNote, TarIndex, index_tar, no_index
from aced.pool.tars.tarrows import TarRows, check_tar, facts_of, rows_of
from aced.pool.tars.tars import TarFault
from aced.runtime.descriptors import is_out_of_files, out_of_files

_PARALLEL, _AT_ONCE = 16, 4
"""Minimum number of tars to index in several processes, and number that one process takes at a time."""


class Unread(NamedTuple):
    """A tar whose headers are to be read.

    Attributes:
        located: the user's name for it, and where it is.
        source: its full path, or its address.
        size, state: of the file there, see `TarFacts`.
        packed: whether that is a gzip file.
    """

    located: Located
    source: str
    size: int
    state: str
    packed: bool


class Reading(NamedTuple):
    """The result of reading a tar's headers.

    Attributes:
        facts: for a manifest.
        rows: its samples, if no file keeps them.
        hashes: of its keys, if requested.
        note: what was wrong with the stored index.
    """

    facts: TarFacts
    rows: TarRows | None
    hashes: np.ndarray | None
    note: KeptNote | None


class Wanted(NamedTuple):
    """What to find out about each tar.

    Attributes:
        captions: for which samples stay in memory if no file keeps them; None: for none.
        strict: whether to refuse a damaged tar, and one without pairs.
        hashes: whether keys are hashed.
    """

    captions: Captions | None
    strict: bool
    hashes: bool


def read_tars(
    tars: Sequence[Unread],
    wanted: Wanted,
    index_dir: Path | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Reading]:
    """The content of each tar by its headers, in order; for an unreadable one an index without samples.

    Args:
        tars: the tars.
        wanted: what to find out.
        index_dir: folder of stored indexes; without it they are made anew.
        workers: processes that read headers if there are many tars; 0 reads them in this one.
        progress: called with (tars done, all tars).

    Raises:
        AcedError: a tar is refused, the process may open no more files, or a process that reads headers dies.
    """
    work = partial(_read, wanted=wanted, index_dir=Path(index_dir) if index_dir is not None else None)
    if workers < 2 or len(tars) < _PARALLEL:
        found: Iterator[Reading] = map(work, tars)
    else:
        groups = [tars[at : at + _AT_ONCE] for at in range(0, len(tars), _AT_ONCE)]
        each = load(partial(_each, work), groups, count=len(groups), workers=min(workers, len(groups)))
        found = itertools.chain.from_iterable(each)
    for number, reading in enumerate(found, start=1):
        yield reading
        if progress is not None:
            progress(number, len(tars))


def _each(work: Callable[[Unread], Reading], tars: Sequence[Unread]) -> list[Reading]:
    return [work(tar) for tar in tars]


def _read(tar: Unread, wanted: Wanted, index_dir: Path | None) -> Reading:
    index, note, state = _index(tar, index_dir)
    if wanted.strict and wanted.captions is not None:
        check_tar(tar.located.source, index, wanted.captions)
    is_kept = index_dir is not None and not (note and note.name == "not_kept")
    return Reading(
        facts_of(index, tar.source, tar.size, state, packed=tar.packed),
        None if is_kept or wanted.captions is None else rows_of(index, wanted.captions.part),
        hash_keys(index) if wanted.hashes else None,
        note,
    )


def _index(tar: Unread, index_dir: Path | None) -> tuple[TarIndex, KeptNote | None, str]:
    try:
        index, note = index_tar(tar.located.path, index_dir)
    except OSError as error:
        if is_out_of_files(error):
            raise out_of_files() from error
        return no_index(TarFault("unreadable", f"it cannot be read ({error.strerror or error})")), None, NO_STATE
    if tar.located.fault is not None:
        index = replace(index, faults=[tar.located.fault, *index.faults])
    return index, note, tar.state
