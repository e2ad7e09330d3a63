"""Claims on files that take long to make: the first process makes one, and the others turn to another file.

A claim is an empty file beside it that names its process, like a temporary file of `aced.files.atomic`. It ends with
the process and needs no file locks; if it becomes visible too late, two processes make the same file.
"""

from __future__ import annotations

import contextlib
import glob
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from aced.files.atomic import sweep_leftovers, temporaries, temporary_name, writing

ClaimState = tuple[int, int] | None
_STALLED = 300.0
"""Seconds without a change after which a file claimed by another process is made here."""
_PAUSE = 0.25


def claim(path: Path, *, force: bool = False) -> bool:
    """Claim `path` for this process, unless another one is making it; with `force` even then.

    Raises:
        AcedError: nothing can be written there.
    """
    if not force and next(_others(path), None):
        return False
    own = _claim(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        own.touch()
        time_of_own = own.stat().st_mtime_ns
    # Of two at the same moment the first keeps it.
    if not force and any((time_of, name) < (time_of_own, own.name) for name, time_of, _ in _others(path)):
        release(path)
        return False
    return True


def release(path: Path) -> None:
    """Give up a claim, or end it once the file is made."""
    _claim(path).unlink(missing_ok=True)


def state(path: Path) -> ClaimState:
    """A value that changes when a file appears or is replaced; None while there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def await_others(paths: Sequence[Path]) -> None:
    """Wait until no other process makes any of some files, or until their files have not changed for long."""
    seen: tuple[object, ...] = ()
    changed = time.monotonic()
    while now := tuple(other for path in paths for other in _others(path)):
        if now != seen:
            seen, changed = now, time.monotonic()
        elif time.monotonic() - changed > _STALLED:
            break
        time.sleep(_PAUSE)
    for path in paths:
        sweep_leftovers(path.parent, _prefix(path))  # of processes that died meanwhile


def _others(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, time and size of other processes' temporaries for `path`.

    Whether a process on another machine lives is unknown; one that has written nothing for long counts as dead.
    """
    own = (_claim(path), temporary_name(path))
    for temporary, living in temporaries(path.parent, _prefix(path)):
        with contextlib.suppress(FileNotFoundError):
            facts = temporary.stat()
            recent = time.time() - facts.st_mtime < _STALLED
            if temporary not in own and (living or (living is None and recent)):
                yield temporary.name, facts.st_mtime_ns, facts.st_size


def _claim(path: Path) -> Path:
    return temporary_name(path.with_name(f"{path.name}.claim"))


def _prefix(path: Path) -> str:
    return f".{glob.escape(path.name)}."
