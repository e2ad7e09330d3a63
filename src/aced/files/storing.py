"""Writable folders of a store: their files, parts of files, and uploads of whole files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.files.remote import NotThere, Remote, as_remote, open_url, reached

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hf"})


def listing(folder: str) -> dict[str, Remote]:
    """The files in a folder by their names; none if the folder does not exist.

    Raises:
        AcedError: its store cannot be queried.
    """
    try:
        with reached(folder):
            system, path = open_url(folder)
            system.invalidate_cache()
            entries = system.ls(path, detail=True)
            files = [entry for entry in entries if entry.get("type") != "directory"]
            return {one["name"].rpartition("/")[2]: as_remote(system, one["name"], one) for one in files}
    except NotThere:
        return {}


def read_range(address: str, start: int, end: int | None) -> bytes:
    """Bytes of a file from `start` up to `end`, or to its own end.

    Raises:
        AcedError: it cannot be read.
    """
    with reached(address):
        system, path = open_url(address)
        return bytes(system.cat_file(path, start=start, end=end))


def put_file(source: Path, address: str) -> Remote:
    """Upload a local file to an address and return its description there.

    Raises:
        AcedError: the store does not accept it.
    """
    with _writing(address):
        system, path = open_url(address)
        try:
            system.put_file(str(source), path)
        except FileNotFoundError:
            if not source.exists() or _OBJECT_STORES & set(_protocols(system)):
                raise  # these have no folders, and would create a bucket
            system.makedirs(system._parent(path), exist_ok=True)
            system.put_file(str(source), path)
        system.invalidate_cache(system._parent(path))
        return as_remote(system, path, system.info(path))


def put_bytes(content: bytes, address: str) -> None:
    """Write a small file at an address.

    Raises:
        AcedError: the store does not accept it.
    """
    with _writing(address):
        system, path = open_url(address)
        system.pipe_file(path, content)
        system.invalidate_cache(system._parent(path))


@contextlib.contextmanager
def _writing(address: str) -> Iterator[None]:
    """Turn a store's exceptions on writing into AcedErrors."""
    with reached(address):
        try:
            yield
        except (PermissionError, NotImplementedError) as error:
            said = f"{address} cannot be written ({error or type(error).__name__})"
            raise AcedError(f"{said}: check the credentials of its store, or choose another place.") from error


def _protocols(system: Any) -> tuple[str, ...]:
    named = system.protocol
    return (named,) if isinstance(named, str) else tuple(named)
