"""The folder of a run: whether it may be written, by one process at a time, and what a killed one left in it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aced.data.atomic import writing
from aced.errors import AcedError

try:
    import fcntl
except ImportError:  # Windows: without the lock
    fcntl = None  # type: ignore[assignment]

CHECKPOINTS, BEST, LOCK = "checkpoints", "best", "run.lock"
_WRITTEN = (
    "metrics.jsonl",
    CHECKPOINTS,
    "model",
    BEST,
    "evals.jsonl",
    "gallery.json",
    "results.json",
    "demo.json",
)


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raise an AcedError where a run cannot be written into a folder.

    With `resume`, a folder without a run is one to begin in, so that one command line starts a run and goes on with
    it; without, a folder with a run is refused.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise AcedError(f"run.out = '{folder}' cannot be a folder: {there} is a file.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise AcedError(f"run.out = '{folder}' cannot be written: you have no right to write in {there}.")
    if is_run(folder) and resume:
        if (folder / LOCK).is_file():
            with locked(folder):  # told now, and not after the data have been opened
                pass
        return
    found = next((name for name in _WRITTEN if (folder / name).exists()), None)
    if found is None:
        return
    if resume:
        raise AcedError(
            f"{folder} holds '{found}' but no config.toml, so it is no run that could be gone on with; choose another "
            "folder with run.out."
        )
    raise AcedError(
        f"{folder} already holds a run: add --resume to go on with it, or choose another folder with run.out."
    )


def is_run(folder: Path) -> bool:
    """Whether a run was begun here."""
    return (folder / "config.toml").is_file()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone; of the processes of one job the first holds it for all.

    The lock ends with the process, however that ends, and processes that it has forked do not keep it. Where the file
    system has no locks the run goes on without one.

    Raises:
        AcedError: another process trains there.
    """
    if fcntl is None or os.environ.get("RANK", "0") != "0":
        yield
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    with file:
        try:
            # A record lock, since one by flock would live on in loading processes whose parent was killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise AcedError(
                    f"{folder} is in use by another process ({file.read().strip() or 'unknown'}); wait for its end or "
                    "stop it, or choose another folder with run.out."
                ) from None
        else:
            with writing(folder / LOCK):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
        yield


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing; to be called by who holds the folder."""
    for place in (folder, folder / CHECKPOINTS, folder / BEST, folder / "model"):
        for leftover in place.glob(".*.tmp"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def read_config(folder: Path) -> dict[str, dict[str, Any]]:
    """The resolved config that a run was begun with.

    Raises:
        AcedError: it is damaged.
    """
    path = folder / "config.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AcedError(f"{path} is damaged ({error}); choose another run.out for a new run.") from None
