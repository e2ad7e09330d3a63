"""Files that are either complete or absent: temporary name, fsync, rename; clear errors for a full disk."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from aced.errors import AcedError

if TYPE_CHECKING:
    from torch import Tensor

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
# Messages of safetensors and torch.save, which raise no OSError.
_FULL_WORDS = (
    "No space left",
    "File too large",
    "quota exceeded",
    *(f"os error {code}" for code in sorted(_FULL)),
)
_DAY = 24 * 3600
_ENFORCE = ("enforce fail", "unexpected pos", "PytorchStreamWriter failed")


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception means that the disk, the quota or the file size limit is exhausted."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    words = str(error)
    if isinstance(error, SafetensorError):
        return any(word in words for word in _FULL_WORDS)
    return isinstance(error, RuntimeError) and any(word in words for word in _ENFORCE)


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn the faults of writing `path` into AcedErrors: a full disk first, then any other OSError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if is_disk_full(error):
            raise AcedError(
                f"Disk full while writing {path}: free some space or choose another folder; "
                "nothing half-written was kept."
            ) from error
        if isinstance(error, OSError):
            raise AcedError(f"Cannot write {path}: {error.strerror or error}.") from error
        raise


@contextlib.contextmanager
def _replacing(path: Path, flush: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary name beside `path`; the file becomes `path` if the block ends well, otherwise it is removed.

    `flush` is called with the file before, and with the folder after it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk, so that a rename after it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot fsync a folder; a real write error must not be hidden.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A temporary name for a file that is flushed and renamed at the end; errors name `path`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path, flush=sync) as temporary:
            yield temporary


def write_atomic(path: Path | str, content: bytes | str) -> None:
    """Write a whole file, or leave the old one; text as UTF-8. Missing folders are created.

    Raises:
        AcedError: the disk is full or the path cannot be written.
    """
    path = Path(path)
    with _new_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_cache(path: Path, content: bytes) -> None:
    """Write a whole file that can be recreated and is checked on reading, or leave the old one.

    Nothing is flushed to the disk: after a power cut the file may be damaged, which its reader detects. For many small
    files this takes a hundredth of the time.

    Raises:
        AcedError: the disk is full or the path cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path, flush=lambda _: None) as temporary:
            temporary.write_bytes(content)


def append_line(path: Path, line: str) -> None:
    """Append a line of text with its newline, or nothing.

    Raises:
        AcedError: the disk is full or the path cannot be written.
    """
    with writing(path), path.open("ab", buffering=0) as file:
        size, rest = file.seek(0, os.SEEK_END), memoryview(f"{line}\n".encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(size)
            raise


def save_tensors_atomic(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as one safetensors file, or leave the old one. Missing folders are created.

    Args:
        path: the file to write.
        tensors: by name; any device, any layout, none sharing memory with another.
        metadata: strings for the header of the file.

    Raises:
        AcedError: the disk is full or the path cannot be written.
    """
    from safetensors.torch import save_file  # imports torch, which programs that only read a run's folder do not need

    path = Path(path)
    with _new_file(path) as temporary:
        # The file gets the usual permissions, whatever safetensors would have chosen.
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        flat = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(flat, temporary, metadata=dict(metadata) if metadata is not None else None)
        temporary.chmod(mode)


def remove_whole(folder: Path) -> None:
    """Remove a folder so that it is never visible with only some of its files: it is renamed first.

    Raises:
        AcedError: it cannot be removed.
    """
    gone = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp")
    with writing(folder):
        os.replace(folder, gone)
        shutil.rmtree(gone)


@contextlib.contextmanager
def folder_atomic(folder: Path | str) -> Iterator[Path]:
    """A temporary sibling to fill; it becomes `folder` if the block ends well, otherwise it is removed.

    Leftovers of killed runs on this machine are removed first. Errors inside the block are not translated: code that
    writes there uses `writing`, and syncs the files.

    Raises:
        AcedError: the disk is full, the path cannot be written, or `folder` exists and is not empty.
    """
    folder = Path(folder)
    temporary = temporary_name(folder)
    try:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            sweep_leftovers(folder.parent, f".{glob.escape(folder.name)}.")
            temporary.mkdir()
        yield temporary
        with writing(folder):
            sync(temporary)
            os.replace(temporary, folder)
            sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def file_atomic(path: Path | str) -> Iterator[Path]:
    """A temporary name for a file that takes long to write; it becomes `path` if the block ends well, or is removed.

    An older `path` is replaced. Two processes may write one path at the same time: the last complete file stays.
    `sweep_leftovers` removes what a killed process leaves behind.

    Raises:
        AcedError: the disk is full, or the path cannot be written.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
        yield temporary
        with writing(path):
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sweep_leftovers(folder: Path | str, prefix: str = ".") -> None:
    """Remove temporaries in a folder whose process has ended (it was killed).

    For processes of other machines that is unknown; their temporaries are removed after a day.

    Args:
        folder: where to look; it need not exist.
        prefix: beginning of their names.
    """
    for leftover, living in temporaries(folder, prefix):
        with contextlib.suppress(OSError):
            if living is None:
                gone = time.time() - leftover.stat().st_mtime > _DAY
            else:
                gone = not living or leftover.name.endswith(f".{os.getpid()}.tmp")
            if gone and leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            elif gone:
                leftover.unlink()


def temporary_name(path: Path) -> Path:
    """The name of a file or folder while this process writes it."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def temporaries(folder: Path | str, prefix: str = ".") -> Iterator[tuple[Path, bool | None]]:
    """Files that are being written in a folder, or were by a process that has ended.

    Args:
        folder: where to look; it need not exist.
        prefix: beginning of the names.

    Yields:
        The path, and whether its process lives; None if that is on another machine.
    """
    host = socket.gethostname()
    for path in Path(folder).glob(f"{prefix}*.tmp"):
        start, _, pid = path.name.removesuffix(".tmp").rpartition(".")
        if pid.isdecimal():
            yield path, _alive(int(pid)) if start.endswith(f".{host}") else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
