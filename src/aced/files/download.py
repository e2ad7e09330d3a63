"""Download of one whole file: retried if its server fails, counted, and stopped on request."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.files.atomic import is_disk_full, writing
from aced.files.remote import (
    Changed,
    FetchStopped,
    Remote,
    as_remote,
    lacks_credentials,
    open_url,
    reached,
    says_not_there,
)

PATIENCE = 20.0
"""Default time in seconds for which a file is retried if its server fails."""
_PAUSES = (0.2, 15.0)
"""Seconds before the second attempt, and at most before a later one; each is twice the one before."""
AT_ONCE = 8
"""Number of files that one process fetches at a time."""


class Watched:
    """Whether files being fetched are still wanted, and the number of bytes received.

    Attributes:
        stop: set when the files are no longer wanted.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._done, self._told, self._coming = 0, 0, dict[Path, int]()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def coming(self, target: Path) -> Iterator[Callable[[], int]]:
        """A file while it is fetched; counts received bytes, including those of failed attempts."""
        with self._lock:
            self._coming[target] = 0
        try:
            yield partial(self._grown, target)
        finally:
            with self._lock:
                self._done += 1 + self._coming.pop(target)

    def come(self, count: int) -> None:
        """Callback of a file system that may write a file from several ends: some bytes have arrived.

        Raises:
            Stopped: they are no longer wanted.
        """
        if self.stop.is_set():
            raise FetchStopped
        with self._lock:
            self._told += count

    def moved(self) -> int:
        """Grows as long as anything arrives."""
        with self._lock:
            return self._done + self._told + sum(map(self._grown, list(self._coming)))

    def _grown(self, target: Path) -> int:
        with contextlib.suppress(OSError):
            self._coming[target] = max(self._coming[target], target.stat().st_size)
        return self._coming[target]


def fetch(
    remote: Remote,
    target: Path,
    watched: Watched | None = None,
    patience: float = PATIENCE,
    *,
    same: bool = False,
) -> None:
    """Fetch a whole file; if its server fails, retry after longer and longer pauses.

    Args:
        remote: the file.
        target: is overwritten.
        watched: receives progress, and may stop it.
        patience: total seconds of pauses, and of silence, before an error.
        same: whether to check with the server at the end that the file still matches `remote`; not on the hub.

    Raises:
        NotThere: the server says that there is no such file.
        Changed: the file has changed; with `same`.
        AcedError: it does not arrive completely in that time, or access is denied.
        Stopped: `watched` stopped it.
    """
    watched = watched or Watched()
    paused, pause = 0.0, _PAUSES[0]
    with watched.coming(target) as come:
        most, since = 0, time.monotonic()
        while (lost := _attempt(remote, target, watched, same=same)) is not None:
            if come() > most:
                most, since = come(), time.monotonic()
            if paused + pause > patience or time.monotonic() > since + patience:
                with reached(remote.address):
                    raise lost
            if watched.stop.wait(pause):
                raise FetchStopped
            paused, pause = paused + pause, min(_PAUSES[1], 2 * pause)


def _attempt(remote: Remote, target: Path, watched: Watched, *, same: bool) -> Exception | None:
    """Fetch a file; returns the error if a retry may help."""
    with reached(remote.address):
        try:
            system, path = open_url(remote.address)
            system.get_file(path, str(target), **_stopping(remote.address, watched))
            size = target.stat().st_size
            if same and not _is_hub(remote.address):
                system.invalidate_cache(system._parent(path))
                now = as_remote(system, path, system.info(path))
                if (now.size, now.state) != (remote.size, remote.state):
                    raise Changed(f"{remote.address} has changed since the run began.")
            if remote.size is None or size == remote.size:
                return None
            return OSError(f"{size} of {remote.size} bytes came")
        except (PermissionError, ImportError, ValueError, AcedError, FetchStopped):
            raise
        except FileNotFoundError as error:
            if error.filename != str(target) and (error.__cause__ is None or says_not_there(error.__cause__)):
                raise
            return _of_the_store(error, target)
        except OSError as error:
            return _of_the_store(error, target)
        except Exception as error:
            if lacks_credentials(error):
                raise
            return error


def _is_hub(address: str) -> bool:
    """Whether a file is on the hub of Hugging Face, which lists a whole folder to describe one file."""
    return "hf://" in address


def _of_the_store(error: OSError, target: Path) -> OSError:
    """The error of a store or the network; one of the local disk is raised as an error about `target`."""
    if is_disk_full(error) or error.filename == str(target):
        with writing(target):
            raise error
    return error


def _stopping(address: str, watched: Watched) -> dict[str, Any]:
    """The callback that lets a file system stop within a file."""
    if _is_hub(address):  # its fast path supports no callbacks
        return {}
    import fsspec

    class Stopping(fsspec.callbacks.Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            watched.come(inc)

    return {"callback": Stopping()}
