"""The folder of a run: the check that it may be written, its lock, and the removal of leftovers."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import struct
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from aced.errors import AcedError
from aced.files.atomic import write_atomic, writing
from aced.runtime.stopping import Stopped, words

try:
    import fcntl
except ImportError:  # Windows: without the lock
    fcntl = None  # type: ignore[assignment]

CHECKPOINTS, BEST, LOCK = "checkpoints", "best", "run.lock"
_SCORING = ".scoring.tmp"  # named like a leftover, so that a resumed run removes it
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
    """Raise an AcedError if a run cannot be written into a folder.

    With `resume`, a folder without a run is accepted as a new one, so that one command line starts and resumes a run;
    without it, a folder with a run is refused.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise AcedError(f"run.out = '{folder}' cannot be a folder: {there} is a file.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise AcedError(f"run.out = '{folder}' cannot be written: you have no write permission in {there}.")
    if is_run(folder) and resume:
        check_free(folder)  # report it before the data is opened
        return
    found = next((name for name in _WRITTEN if (folder / name).exists()), None)
    if found is None:
        return
    if resume:
        raise AcedError(
            f"{folder} holds '{found}' but no config.toml, so it cannot be resumed; choose another folder with run.out."
        )
    raise AcedError(
        f"{folder} already holds a run: add --resume to continue it, or choose another folder with run.out."
    )


def is_run(folder: Path) -> bool:
    """Whether a run has begun here."""
    return (folder / "config.toml").is_file()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder for this process; of the processes of a job the first one locks it for all.

    The lock ends with the process, however it ends, and forked processes do not keep it. If the file system has no
    locks, the run continues without one. The file names its holder and, after an exception, how the run ended; a
    killed process leaves no such line.

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
        held = _take(file, folder)
        if held:
            with writing(folder / LOCK):
                file.truncate(0)
                _note(file, f"process {os.getpid()} on {socket.gethostname()}")
        try:
            yield
        except BaseException as error:
            if held:
                # For observers such as `aced status`; a full disk must not hide what happened.
                with contextlib.suppress(OSError):
                    _note(file, _ending(error))
            raise


@contextlib.contextmanager
def scoring(folder: Path) -> Iterator[None]:
    """Mark a run as being scored, after its last step: any early end inside leaves the mark.

    The model exists by then, and without the mark the run would look finished.
    """
    mark = folder / _SCORING
    write_atomic(mark, "")
    yield
    with writing(mark):
        mark.unlink(missing_ok=True)


def is_scored(folder: Path) -> bool:
    """Whether the model of a run exists, and its scoring was not interrupted."""
    return (folder / "model").is_dir() and not (folder / _SCORING).exists()


def check_free(folder: Path) -> None:
    """Raise an AcedError if another process trains in a run's folder; changes nothing there."""
    if fcntl is None or os.environ.get("RANK", "0") != "0" or not (folder / LOCK).is_file():
        return
    with writing(folder / LOCK), (folder / LOCK).open("a+", encoding="utf-8") as file:
        _take(file, folder)


def _take(file: TextIO, folder: Path) -> bool:
    """Lock the file for as long as it is open; False if the file system has no locks."""
    try:
        # A record lock, because a flock lock would persist in loading processes whose parent was killed.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            raise AcedError(
                f"{folder} is in use by another process ({file.read().strip() or 'unknown'}); wait until it ends, "
                "stop it, or choose another folder with run.out."
            ) from None
        return False
    return True


def _note(file: TextIO, line: str) -> None:
    os.write(file.fileno(), f"{line}\n".encode("utf-8", "replace"))  # unbuffered, so that nothing can fail at the end


def _ending(error: BaseException) -> str:
    if isinstance(error, (KeyboardInterrupt, Stopped)):
        return words(error.number) if isinstance(error, Stopped) else "interrupted"
    said = " ".join(str(error).split())
    if not isinstance(error, AcedError):
        said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"failed: {said}"


@dataclass(frozen=True)
class Holder:
    """A run's lock file: the process that trained there last.

    Attributes:
        process: its number.
        host: its machine.
        ending: `interrupted`, `stopped by ` and the signal, or `failed: ` and the reason; empty if it still runs, ended
            well or was killed.
        alive: whether it holds the lock now; None if unknown.
    """

    process: int
    host: str
    ending: str
    alive: bool | None


def holder(folder: Path) -> Holder | None:
    """The process that trains in a run's folder or did so last; None if its lock does not say.

    The lock is only queried, so a run that starts at the same moment is not refused.
    """
    try:
        with (folder / LOCK).open("rb") as file:
            lines = file.read().decode("utf-8", "replace").splitlines()
            alive = _is_taken(file.fileno())
    except FileNotFoundError:
        return None
    found = re.fullmatch(r"process (\d+) on (.+)", lines[0]) if lines else None
    if found is None:
        return None
    if not alive and found[2] != socket.gethostname():
        alive = None  # some network file systems do not show it to other machines
    return Holder(int(found[1]), found[2], lines[1] if len(lines) > 1 else "", alive)


def _is_taken(descriptor: int) -> bool | None:
    """Whether another process has a record lock on a file; None on systems where that is unknown."""
    if fcntl is None or sys.platform != "linux":
        return None
    # struct flock: type, whence, start, length (0: to the end), process.
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, asked)
    except OSError:  # a file system without locks
        return None
    return int(struct.unpack("hhqqi", answer)[0]) != fcntl.F_UNLCK


def remove_leftovers(folder: Path) -> None:
    """Remove files that killed processes were writing; only the holder of the folder may call this."""
    for place in (folder, folder / CHECKPOINTS, folder / BEST, folder / "model"):
        # safetensors itself writes to the second form before it gives a file its name.
        for leftover in [*place.glob(".*.tmp"), *place.glob(".tmp??????")]:
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def read_config(folder: Path) -> dict[str, dict[str, Any]]:
    """The resolved config with which a run began.

    Raises:
        AcedError: it is damaged.
    """
    path = folder / "config.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AcedError(f"{path} is damaged ({error}); choose another run.out for a new run.") from None
