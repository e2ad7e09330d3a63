"""The limit on open files, and how its heaviest users share it.

Every memory map also keeps a descriptor, even after its file is closed. A pool of 10,000 tars has as many side-cars,
but the usual limit is 1,024.
"""

from __future__ import annotations

import contextlib
import errno
import resource

from aced.errors import AcedError

_MOST = 1 << 20


def file_limit() -> int:
    """Maximum number of files that this process may hold open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else min(soft, _MOST)


def raise_file_limit() -> None:
    """Raise the limit of this process and its children to the system's maximum; programs do so at their start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # the limit stays as it was
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_maps() -> int:
    """Number of memory maps that a process keeps: half of its files, and a quarter of Linux's limit of 65,530 maps."""
    return max(1, min(16_384, file_limit() // 2))


def most_tars() -> int:
    """Number of tars that a thread keeps open."""
    return max(1, min(64, file_limit() // 8))


def is_out_of_files(error: BaseException) -> bool:
    """Whether an exception means that this process may open no more files."""
    return isinstance(error, OSError) and error.errno == errno.EMFILE


def out_of_files() -> AcedError:
    """The error for `is_out_of_files`."""
    limit = f"Too many open files: this process may open {file_limit():,}."
    return AcedError(f"{limit} Run 'ulimit -n 4096' in the shell that starts it, or lower data.workers.")
