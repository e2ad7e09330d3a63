"""The members of one tar, found by reading its headers, and whatever is wrong with it.

`tarfile` (and webdataset on top of it) ends without a word at the first damaged header, at a cut between two
members, and at a header that became zeros. Here all of that is a fault with a name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

BLOCK = 512
# Writers pad the end with zeros to a multiple of 10,240 bytes, which always holds two zero blocks.
_LONGEST_PADDING = 10240 + 2 * BLOCK
_LONGEST_EXTENSION = 1 << 20
_REGULAR = b"0\x007"
# Links, devices, folders and pipes have a header but no data, whatever their size field says.
_WITHOUT_DATA = b"123456"


@dataclass(frozen=True)
class Member:
    """A regular file in a tar: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarFault:
    """What is wrong with a tar: a short stable name for counting, and the fault as the end of a sentence."""

    name: str
    detail: str


@dataclass(frozen=True)
class TarListing:
    """What a walk over a tar found.

    Attributes:
        size: bytes of the file.
        mtime_ns: its modification time.
        members: the regular files that are whole, in order; with a fault, those before it.
        others: names of links, folders and other things that are not regular files.
        fault: what ended the walk early, if anything did.
    """

    size: int
    mtime_ns: int
    members: list[Member]
    others: list[str]
    fault: TarFault | None


class _Broken(Exception):
    """The walk cannot go on."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.fault = TarFault(name, detail)


def split_key(name: str) -> tuple[str, str] | None:
    """Key and lower-case suffix of a member by webdataset's rule, or None if it belongs to no sample.

    The key ends at the first dot of the file name: `d.1/a.b.JPG` is key `d.1/a`, suffix `b.jpg`.
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    if not (stem and dot and suffix):
        return None
    return folder + slash + stem, suffix.lower()


def list_tar(path: Path | str) -> TarListing:
    """Walk over the headers of a tar; only headers are read, never the data.

    Raises:
        OSError: the file cannot be opened or read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        state = os.fstat(descriptor)
        walk = _Walk(descriptor, state.st_size)
        fault = None
        try:
            walk.run()
        except _Broken as broken:
            fault = broken.fault
        return TarListing(state.st_size, state.st_mtime_ns, walk.members, walk.others, fault)
    finally:
        os.close(descriptor)


class _Walk:
    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self.members: list[Member] = []
        self.others: list[str] = []

    def run(self) -> None:
        if self.size == 0:
            raise _Broken("empty_file", "it is an empty file")
        offset = 0
        pending: dict[str, str] = {}
        while True:
            header = os.pread(self.descriptor, BLOCK, offset)
            if len(header) < BLOCK:
                if offset == 0:
                    raise _Broken("not_a_tar", _guess(header))
                raise _Broken("truncated", f"it is cut off after {self.size} bytes")
            if header[0] == 0 and not any(header):
                self._check_end(offset)
                return
            if not _checksum_fits(header):
                if offset == 0:
                    raise _Broken("not_a_tar", _guess(header))
                raise _Broken("bad_header", f"the header at byte {offset} is damaged")
            offset = self._member(header, offset, pending)

    def _member(self, header: bytes, offset: int, pending: dict[str, str]) -> int:
        """Take one header; gives the offset of the next.

        `pending` is what extension headers have said about the member to come.
        """
        kind = header[156:157]
        size = _number(header[124:136]) if kind in b"xgLK" or "size" not in pending else int(pending["size"])
        if size is None or size < 0:
            raise _Broken("bad_header", f"the header at byte {offset} has an impossible size")
        data = offset + BLOCK
        if kind in (b"x", b"L", b"g", b"K"):
            self._extend(kind, self._extension(data, size), pending)
            return data + _padded(size)
        name = pending.get("path") or _name(header)
        sparse = kind == b"S" or any(field.startswith("GNU.sparse") for field in pending)
        pending.clear()
        if kind in _WITHOUT_DATA:
            if kind != b"5":
                self.others.append(name)
            return data
        if data + size > self.size:
            raise _Broken("truncated", f"it is cut off after {self.size} bytes, inside {name}")
        if sparse or kind not in _REGULAR:
            self.others.append(name)
        elif not name.endswith("/"):
            self.members.append(Member(name, data, size))
        return data + _padded(size)

    def _extension(self, offset: int, size: int) -> bytes:
        if size > _LONGEST_EXTENSION:
            raise _Broken("bad_header", f"the header before byte {offset} has an impossible size")
        content = os.pread(self.descriptor, size, offset)
        if len(content) < size:
            raise _Broken("truncated", f"it is cut off after {self.size} bytes")
        return content

    @staticmethod
    def _extend(kind: bytes, content: bytes, pending: dict[str, str]) -> None:
        if kind == b"L":
            pending["path"] = _text(content)
        elif kind == b"x":
            records = _pax(content)
            size = records.get("size", "0")
            if len(size) > 20 or not size.isdecimal():
                raise _Broken("bad_header", "an extended header has an impossible size")
            pending.update(records)
        # Global headers (g) carry comments and times; long link names (K) belong to links.

    def _check_end(self, offset: int) -> None:
        """A zero block ends the archive: after it there must be nothing but a little padding."""
        place = offset
        while content := os.pread(self.descriptor, 1 << 20, place):
            if content.count(0) != len(content):
                raise _Broken(
                    "data_after_end",
                    f"it has data after its end mark at byte {offset} (a header became zeros, or two tars were joined)",
                )
            place += len(content)
        if place - offset > _LONGEST_PADDING:
            raise _Broken("zero_tail", f"it is filled with zeros from byte {offset} on")
        if offset == 0:
            raise _Broken("empty_file", "it has no members")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _checksum_fits(header: bytes) -> bool:
    """The sum of all bytes, with the checksum field itself taken as spaces."""
    told = _number(header[148:156])
    total = sum(header) - sum(header[148:156]) + 8 * 32
    if told == total:
        return True
    # Some old writers added signed bytes.
    high = sum(byte >= 128 for byte in header[:148] + header[156:])
    return told == total - 256 * high


def _number(field: bytes) -> int | None:
    """A number in a header: octal digits, or base 256 if the first byte says so; None if it is neither."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    digits = field.split(b"\0", 1)[0].strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return None


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    name = _text(header[:100])
    # GNU tar keeps times where POSIX has the prefix of a long name.
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax(content: bytes) -> dict[str, str]:
    """The records `<length> <field>=<value>\\n` of an extended header."""
    records = {}
    while content and content[0] != 0:
        length, space, _ = content.partition(b" ")
        end = int(length) if space and len(length) < 8 and length.isdigit() else 0
        field, equals, value = content[len(length) + 1 : end - 1].partition(b"=")
        if not (equals and len(length) < end <= len(content)):
            raise _Broken("bad_header", "an extended header is damaged")
        records[field.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        content = content[end:]
    return records


def _guess(start: bytes) -> str:
    """Why a file that does not begin with a tar header is not a tar."""
    if start.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip, which cannot be read at random: unpack it first with gunzip"
    if start.startswith((b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")):
        return "it is compressed, which cannot be read at random: unpack it first"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, not a tar (a failed download?)"
    return "it is not a tar"
