"""`/dev/shm`, the file system in memory through which processes pass tensors: its size and the room they need."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from aced.errors import AcedError

_PLACE = "/dev/shm"
_AHEAD = 2
"""Results that each loading process has in progress or ready, as in torch's loader."""


class MemoryRoom(NamedTuple):
    """Bytes of `/dev/shm`: total, and free."""

    total: int
    free: int


def measure() -> MemoryRoom | None:
    """The room available; None if the system has no such place."""
    try:
        found = os.statvfs(_PLACE)
    except OSError:
        return None
    return MemoryRoom(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def check_room(item: int, workers: int, count: int) -> int:
    """How many results each loading process may prepare ahead: 2, or 1 if there is no room for 2.

    It holds at most as many ready results as the loading processes have ahead, plus the one being received. The
    processes of a job request their data in step, so all of them have 2 ahead.

    Args:
        item: bytes of the tensors in a result.
        workers: loading processes.
        count: total number of results.

    Raises:
        AcedError: there is too little room.
    """
    room = measure()
    if room is None:
        return _AHEAD
    # Each process of a job on this machine counts what the others already hold as taken.
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    least = 1 if int(os.environ.get("WORLD_SIZE", "1")) == 1 else _AHEAD
    for ahead in range(_AHEAD, least - 1, -1):
        items = min(ahead * workers + 1, count)
        if items * item <= min(room.free, room.total // sharing):
            return ahead
    fitting = (min(room.free, room.total // sharing) // item - 1) // least
    fewer = f"data.workers={fitting} fits; or " if 0 < fitting < workers else ""
    many = f" in each of {sharing} processes" if sharing > 1 else ""
    raise AcedError(
        f"{workers} processes that load data hand over up to {items} chunks of {size_text(item)}{many} through "
        f"{_PLACE}, which has {size_text(room.total)}, {size_text(room.free)} of it free: {fewer}{_REMEDY}."
    )


def workers_that_fit(item: int, workers: int) -> int:
    """Maximum number of loading processes, at most `workers`, with room for any number of results; 0 for none."""
    for fewer in range(workers, 0, -1):
        try:
            check_room(item, fewer, _AHEAD * fewer + 1)
        except AcedError:
            continue
        return fewer
    return 0


def room_text(error: BaseException) -> str:
    """What an error in passing a tensor says about too little room; empty if it is about something else."""
    if not (getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)):
        return ""
    room = measure()
    has = f", which has {size_text(room.total)}, {size_text(room.free)} of it free" if room else ""
    return f"A chunk from a process that loads data has no room in {_PLACE}{has}: lower data.workers; or {_REMEDY}."


_REMEDY = (
    "set data.workers=0 (aced embed, aced eval: --workers 0), which needs none of it; or enlarge it "
    "(docker run --shm-size=8g)"
)


def size_text(size: int) -> str:
    """A number of bytes in the unit of Docker's `--shm-size`."""
    return f"{size / 2**20:,.1f} MB" if size < 10 * 2**20 else f"{size / 2**20:,.0f} MB"
