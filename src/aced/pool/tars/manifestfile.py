"""Files of manifests: those that `data.shards` names, and those stored beside the indexes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from aced.errors import AcedError
from aced.files.atomic import write_atomic, write_cache
from aced.files.remote import is_address, read_text
from aced.pool.tars.manifest import MAGIC, Manifest, dump, parse

SUFFIX = ".manifest"
_TARS = (".tar", ".tgz", ".gz")


def names_manifest(pattern: str) -> bool:
    """Whether an entry of `data.shards` is a manifest: by its suffix, or for a local file by its first bytes."""
    pattern = pattern.removeprefix("file://")
    if pattern.endswith(SUFFIX):
        return is_address(pattern) or not os.path.isdir(pattern)
    if is_address(pattern) or pattern.lower().endswith(_TARS) or not os.path.isfile(pattern):
        return False
    try:
        with open(pattern, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC.encode()
    except OSError:
        return False


def read_named(pattern: str) -> Manifest:
    """A manifest that the user names, at a path or an address.

    Raises:
        AcedError: it cannot be read, is damaged, lists nothing, or belongs to another pool.
    """
    pattern = pattern.removeprefix("file://")
    try:
        if is_address(pattern):
            manifest = parse(read_text(pattern), pattern.rpartition("/")[0])
        else:
            path = os.path.abspath(pattern)
            manifest = parse(Path(path).read_text(encoding="utf-8"), os.path.dirname(path))
    except OSError as error:
        raise AcedError(f"The manifest {pattern} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise AcedError(f"The manifest {pattern} cannot be used ({error}): make it again with 'aced index'.") from error
    if not manifest.tars:
        raise AcedError(f"The manifest {pattern} lists no tars: make it again with 'aced index'.")
    _check_place(pattern, [tar.source for tar in manifest.tars])
    return manifest


def _check_place(pattern: str, sources: Sequence[str]) -> None:
    """Refuse a list of tars of which none seems to exist; three are checked."""
    some = [sources[at] for at in sorted({0, len(sources) // 2, len(sources) - 1})]
    if not any(is_address(source) or os.path.lexists(source) for source in some):
        raise AcedError(
            f"None of the tars that the manifest {pattern} lists exists, such as {some[0]}: it is of another pool, "
            "or the pool has moved; make it again with 'aced index'."
        )


def write_named(path: Path, manifest: Manifest) -> None:
    """Write a manifest for `data.shards`; it may be moved together with the tars beside it.

    Raises:
        AcedError: it cannot be written.
    """
    write_atomic(path, dump(manifest, os.path.dirname(os.path.abspath(path))))


def kept_path(index_dir: Path, patterns: Sequence[str]) -> Path:
    """Where the manifest for some patterns is stored."""
    whole = [pattern if is_address(pattern) else os.path.abspath(pattern) for pattern in patterns]
    name = hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:24]
    return index_dir / f"pool-{name}{SUFFIX}"


def read_kept(path: Path) -> tuple[Manifest | None, str]:
    """A stored manifest, or None; and what was wrong with it, as the end of a sentence."""
    try:
        return parse(path.read_text(encoding="utf-8")), ""
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except (OSError, ValueError) as error:
        return None, str(error.strerror or error) if isinstance(error, OSError) else str(error)


def write_kept(path: Path, manifest: Manifest) -> None:
    """Store a manifest for the next time.

    Raises:
        AcedError: it cannot be written.
    """
    write_cache(path, dump(manifest).encode())


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """For the process that makes a manifest: others that need it wait, and find it.

    If no lock is available, each makes it.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(path.with_name(f".{path.name}.lock").open("w", encoding="utf-8"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
