"""The list of a folder's side-cars: the headers in one file beside them, so that a start need not open any.

`sidecars.jsonl` has a line for each side-car: its name, size and time, and its header. A line counts as long as size
and time match the file; otherwise the side-car's header is read, and the list is rewritten. It is only a cache of
headers: it may be deleted, lost or out of date, and processes that write it at the same time lose lines at worst, which
costs reading a header each. Lookups are checked against the file's own header.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from aced.cache.home import FileState, Home
from aced.cache.sidecar import SideCarInfo
from aced.errors import AcedError

LIST = "sidecars.jsonl"
"""Name of the list."""
_VERSION = 1
_FIELDS = tuple(entry.name for entry in fields(SideCarInfo) if entry.name not in ("identity", "ends"))


class SideCarList:
    """The list of one folder as of its creation, and the headers read since.

    Args:
        home: place of the side-cars.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._lines, self._identities = _read(home)
        self._new: dict[str, tuple[FileState, SideCarInfo]] = {}

    def get(self, name: str, state: FileState) -> SideCarInfo | None:
        """The header of the side-car of that name, without `ends`; None if the list has no valid line for it."""
        if (new := self._new.get(name)) is not None:
            return new[1] if new[0] == state else None
        line = self._lines.get(_key(name))
        if line is None:
            return None
        try:
            _, size, changed, identity, *values = json.loads(line)
            if (size, changed) != state:
                return None
            known = dict(zip(_FIELDS, values, strict=True))
            return SideCarInfo(identity=self._identities[identity], ends=[], **known)
        except (ValueError, TypeError, IndexError):
            return None

    def add(self, name: str, state: FileState, info: SideCarInfo) -> None:
        """Record a header."""
        self._new[name] = state, replace(info, ends=[])

    def save(self) -> None:
        """Write the list with headers read here and entries written by others meanwhile, if any are new.

        A folder that is not writable keeps its old list.
        """
        if not self._new:
            return
        lines, identities = _read(self.home)
        numbers = {_frozen(identity): number for number, identity in enumerate(identities)}
        for name, (state, info) in self._new.items():
            number = numbers.setdefault(_frozen(info.identity), len(numbers))
            if number == len(identities):
                identities.append(info.identity)
            values = [getattr(info, field) for field in _FIELDS]
            lines[_key(name)] = _line([name, *state, number, *values])
        with contextlib.suppress(AcedError):
            _write(self.home, lines, identities)
        self._lines, self._identities, self._new = lines, identities, {}


def _write(home: Home, lines: Mapping[bytes, bytes], identities: list[dict[str, str]]) -> None:
    """Write the lines of existing files."""
    there = {_key(name) for name in home.names()}
    head = _line({"version": _VERSION, "fields": _FIELDS, "identities": identities})
    home.write_beside(LIST, b"".join([head, *(line for key, line in lines.items() if key in there)]))


def _read(home: Home) -> tuple[dict[bytes, bytes], list[dict[str, str]]]:
    """Each side-car's line by `_key`, and the identities that they name; nothing if it is not a list."""
    file = io.BytesIO(home.read_beside(LIST))
    try:
        head = json.loads(file.readline())
        if head["version"] != _VERSION or tuple(head["fields"]) != _FIELDS:
            return {}, []
        return dict(_keyed(file)), list(head["identities"])
    except (ValueError, KeyError, TypeError):
        return {}, []


def _keyed(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for line in lines:
        end = line.find(b'"', 2)  # names of side-cars contain no quotes
        if end > 0:
            yield line[1 : end + 1], line


def _key(name: str) -> bytes:
    return json.dumps(name).encode()


def _line(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _frozen(identity: Mapping[str, str]) -> str:
    return json.dumps(identity, sort_keys=True)
