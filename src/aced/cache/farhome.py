"""Side-cars in a store: listed once, with headers read by ranges and files uploaded whole."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from aced.cache.home import FileState, Home
from aced.cache.sidecar import Part, SideCarInfo, check_made_for, damaged, read_info
from aced.errors import AcedError
from aced.files.remote import Remote
from aced.files.storing import listing, put_bytes, put_file, read_range
from aced.files.tensorfile import Header

_HEAD = 1 << 14
"""Bytes that contain the header of nearly every side-car."""


class FarHome(Home):
    """A folder of a store, which need not exist.

    Its listing is from the first query, plus the files uploaded since.

    Args:
        address: of the folder.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    @cached_property
    def _files(self) -> dict[str, Remote]:
        return listing(self.address)

    def again(self) -> None:
        """List the store again on the next query."""
        self.__dict__.pop("_files", None)

    def remote(self, name: str) -> Remote:
        """The store's entry for a file that exists."""
        return self._files[name]

    def state(self, name: str) -> FileState | None:
        """As in `Home`."""
        found = self._files.get(name)
        return None if found is None else FileState(found.size or 0, found.state)

    def info(self, name: str, identity: Mapping[str, str] | None = None, part: Part | None = None) -> SideCarInfo:
        """As in `Home`."""
        called, size = self.named(name), self.remote(name).size or 0
        head = read_range(called, 0, _HEAD)
        length = 8 + int.from_bytes(head[:8], "little")
        if len(head) < length <= size:
            head += read_range(called, len(head), length)
        try:
            info = read_info(called, Header(io.BytesIO(head), size))
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(called, error) from error
        check_made_for(called, info, identity, part)
        return info

    def named(self, name: str) -> str:
        """As in `Home`."""
        return f"{self.address}/{name}".rstrip("/")

    def read_beside(self, name: str) -> bytes:
        """As in `Home`."""
        with contextlib.suppress(AcedError):
            return read_range(self.named(name), 0, None)
        return b""

    def write_beside(self, name: str, content: bytes) -> None:
        """As in `Home`."""
        put_bytes(content, self.named(name))

    def put(self, path: Path) -> None:
        """Upload a side-car under its own name, whole.

        Raises:
            AcedError: the store does not accept it.
        """
        self._files[path.name] = put_file(path, self.named(path.name))

    def names(self) -> set[str]:
        """As in `Home`."""
        return set(self._files)
