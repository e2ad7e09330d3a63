"""The members of one tar, found by reading its headers, and its faults.

`tarfile` (and webdataset on top of it) ends silently at the first damaged header, at a cut between two members, at a
header that became zeros, and at the seam of two joined tars. Here each of these is a named fault, and the walk
continues after it at the next whole header.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from aced.pool.tars.tarheader import (
    BLOCK,
    MAGIC,
    MAGIC_AT,
    NOT_A_TAR,
    BadHeader,
    checksum_fits,
    checksums_fit,
    guess_content,
    name_of,
    number,
    padded,
    pax_records,
    text,
)

# Writers pad the end with zeros to a multiple of 10,240 bytes, which always holds two zero blocks.
_LONGEST_PADDING = 10240 + 2 * BLOCK
_LONGEST_EXTENSION = 1 << 20
_SEARCH = 1 << 20
_REGULAR = b"0\x007"
# Links, devices, folders and pipes have a header but no data, whatever their size field says.
_WITHOUT_DATA = b"123456"
_LATE = 4096


class Member(NamedTuple):
    """A regular file in a tar: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarFault:
    """A fault of a tar: a short stable name for counting, and a description as the end of a sentence."""

    name: str
    detail: str


@dataclass(frozen=True)
class TarListing:
    """The result of a walk over a tar.

    Attributes:
        size: bytes of the file.
        mtime_ns: its modification time.
        members: the whole regular files, in order, including those after a fault.
        others: names of links and other things that are neither regular files nor folders.
        folders: names of folders.
        faults: everything that is wrong with the file, in order.
    """

    size: int
    mtime_ns: int
    members: list[Member]
    others: list[str]
    folders: list[str]
    faults: list[TarFault]

    @property
    def fault(self) -> TarFault | None:
        """The first fault, if there is any."""
        return self.faults[0] if self.faults else None


class _Broken(Exception):
    """The walk must skip something: a fault at `offset`."""

    def __init__(self, name: str, detail: str, offset: int) -> None:
        super().__init__(detail)
        self.fault = TarFault(name, detail)
        self.offset = offset


def split_key(name: str) -> tuple[str, str] | None:
    """Key and lower-case suffix of a member by webdataset's rule, or None if it belongs to no sample.

    The key ends at the first dot of the file name: `d.1/a.b.JPG` is key `d.1/a`, suffix `b.jpg`.
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    if not (stem and dot and suffix):
        return None
    return folder + slash + stem, suffix.lower()


def require_file(path: Path | str) -> None:
    """Refuse a pipe or a device, which would block a reader forever.

    Raises:
        OSError: it is one, or does not exist.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder fails anyway
        raise OSError(errno.ESPIPE, "it is a pipe or a device, not a file", str(path))


def list_tar(path: Path | str) -> TarListing:
    """Walk over the headers of a tar; data is read only after damage, to find the next header.

    Raises:
        OSError: the file cannot be opened or read.
    """
    require_file(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        state = os.fstat(descriptor)
        # Nearly every tar is whole, and checking all checksums together takes a tenth of the time.
        walk = _Walk(descriptor, state.st_size, late=True)
        walk.run()
        if walk.faults:
            walk = _Walk(descriptor, state.st_size, late=False)
            walk.run()
        return TarListing(state.st_size, state.st_mtime_ns, walk.members, walk.others, walk.folders, walk.faults)
    finally:
        os.close(descriptor)


@dataclass
class _Walk:
    """A walk over one open tar.

    With `late` the checksums are checked in thousands, some time after the headers were used, and the first fault of
    any kind ends the walk: it only tells whether the tar is whole. `visited` are the headers that were read.
    """

    descriptor: int
    size: int
    late: bool
    members: list[Member] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    faults: list[TarFault] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)
    pending: dict[str, str] = field(default_factory=dict)
    visited: set[int] = field(default_factory=set)

    def run(self) -> None:
        """Walk to the end of the file."""
        if self.size == 0:
            self.faults.append(TarFault("empty_file", "it is an empty file"))
            return
        offset: int | None = 0
        while offset is not None:
            try:
                offset = self._step(offset)
                if self.late and (offset is None or len(self.headers) >= _LATE):
                    if not checksums_fit(self.headers):
                        raise _Broken("bad_header", "a header is damaged", 0)
                    self.headers.clear()
            except _Broken as broken:
                self.faults.append(broken.fault)
                self.pending.clear()
                offset = None if self.late else self._go_on(broken)

    def _step(self, offset: int) -> int | None:
        """Process the header at `offset`; returns the offset of the next, or None at the end."""
        header = os.pread(self.descriptor, BLOCK, offset)
        if len(header) < BLOCK:
            if offset == 0:
                raise _Broken("not_a_tar", guess_content(header), offset)
            raise _Broken("truncated", f"it is cut off after {self.size} bytes", offset)
        if header[0] == 0 and not any(header):
            self._check_end(offset)
            return None
        if self.late:
            self.headers.append(header)
        else:
            self.visited.add(offset)
            if not checksum_fits(header):
                name, detail = "bad_header", f"the header at byte {offset} is damaged"
                raise _Broken(*(("not_a_tar", guess_content(header)) if offset == 0 else (name, detail)), offset)
        try:
            return self._member(header, offset)
        except BadHeader as bad:
            raise _Broken("bad_header", str(bad), offset) from bad

    def _member(self, header: bytes, offset: int) -> int:
        """`pending` is what extension headers have said about the next member."""
        kind, pending = header[156:157], self.pending
        size = number(header[124:136]) if kind in b"xgLK" or "size" not in pending else int(pending["size"])
        if size is None or size < 0:
            raise _Broken("bad_header", f"the header at byte {offset} has an impossible size", offset)
        data = offset + BLOCK
        if kind in (b"x", b"L", b"g", b"K"):
            self._extend(kind, data, size)
            return data + padded(size)
        name, sparse = "", kind == b"S"
        if pending:
            name, sparse = pending.get("path", ""), sparse or any(key.startswith("GNU.sparse") for key in pending)
            pending.clear()
        name = name or name_of(header)
        if kind in _WITHOUT_DATA:
            (self.folders if kind == b"5" else self.others).append(name)
            return data
        if data + size > self.size:
            raise _Broken("truncated", f"it is cut off after {self.size} bytes, inside {name}", data)
        if sparse or kind not in _REGULAR:
            self.others.append(name)
        elif name.endswith("/"):
            self.folders.append(name)
        else:
            self.members.append(Member(name, data, size))
        return data + padded(size)

    def _extend(self, kind: bytes, offset: int, size: int) -> None:
        if size > _LONGEST_EXTENSION:
            raise _Broken("bad_header", f"the header before byte {offset} has an impossible size", offset)
        content = os.pread(self.descriptor, size, offset)
        if len(content) < size:
            raise _Broken("truncated", f"it is cut off after {self.size} bytes", self.size)
        if kind == b"L":
            self.pending["path"] = text(content)
        elif kind == b"x":
            self.pending.update(pax_records(content))
        # Global headers (g) carry comments and times; long link names (K) belong to links.

    def _check_end(self, offset: int) -> None:
        """A zero block ends the archive: only a little padding may follow."""
        place = offset
        while content := os.pread(self.descriptor, _SEARCH, place):
            if content.count(0) != len(content):
                raise _Broken(
                    "data_after_end",
                    f"it has data after its end mark at byte {offset} (a header became zeros, or two tars were joined)",
                    offset,
                )
            place += len(content)
        if offset == 0:
            raise _Broken("empty_file", "it has no members", self.size)
        if place - offset > _LONGEST_PADDING:
            if self.members and self._cut_by_zeros():
                self.members.pop()  # the zeros begin inside it
            raise _Broken("zero_tail", f"it is filled with zeros from byte {offset} on", self.size)
        if place - offset < 2 * BLOCK:
            raise _Broken("truncated", f"it is cut off after {self.size} bytes, in its end mark", self.size)

    def _cut_by_zeros(self) -> bool:
        """Whether the last member ends in a zero byte, as no text and hardly an image does."""
        member = self.members[-1]
        return member.size > 0 and os.pread(self.descriptor, 1, member.offset + member.size - 1) == b"\0"

    def _go_on(self, broken: _Broken) -> int | None:
        """The offset of the next whole header after a fault, or None.

        If bytes are missing, the next header is within the supposed data of the member before the fault; that member is
        then damaged and left out.
        """
        if broken.fault.name == "not_a_tar" and broken.fault.detail != NOT_A_TAR:
            return None
        last = self.members[-1] if self.members else None
        start = broken.offset if last is None else min(broken.offset, last.offset)
        found = self._search(start)
        if found is None:
            return None
        if broken.offset == 0:
            self.faults[-1] = TarFault("bad_header", "the header at byte 0 is damaged")
        if last is not None and found < last.offset + last.size:
            self.members.pop()
        return found

    def _search(self, start: int) -> int | None:
        """The first offset from `start` on, at any byte, of a whole header that was not read before."""
        place = start + MAGIC_AT
        while content := os.pread(self.descriptor, _SEARCH, place):
            at = content.find(MAGIC)
            while at >= 0:
                offset = place + at - MAGIC_AT
                if offset not in self.visited:
                    header = os.pread(self.descriptor, BLOCK, offset)
                    if len(header) == BLOCK and checksum_fits(header):
                        return offset
                at = content.find(MAGIC, at + 1)
            if len(content) < len(MAGIC):
                return None
            place += len(content) - len(MAGIC) + 1
        return None
