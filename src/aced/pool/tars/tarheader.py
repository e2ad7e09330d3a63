"""One header block of a tar: its fields, its checksum, its extended records. Pure functions of bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aced.files.standins import stand_in

BLOCK = 512
MAGIC = b"ustar"
MAGIC_AT = 257
NOT_A_TAR = "it is not a tar"
_OTHERS = {
    b"PK\3\4": "zip",
    b"PK\5\6": "zip",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"\x93NUMPY": "numpy",
}


class BadHeader(ValueError):
    """A header that no writer can have written; the message ends a sentence."""


def padded(size: int) -> int:
    """The bytes that `size` bytes of data take up in a tar."""
    return -(-size // BLOCK) * BLOCK


def number(field: bytes) -> int | None:
    """A number in a header: octal digits, or base 256 if the first byte says so; None if it is neither."""
    if field[0] >= 0x80:
        if field[0] not in (0x80, 0xFF):
            return None
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    digits = field.split(b"\0", 1)[0].strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return None


def text(field: bytes) -> str:
    """A string in a header, up to its first NUL."""
    content = field.partition(b"\0")[0]
    # Naming an error handler takes a third of the time, and hardly any name needs it.
    return content.decode() if content.isascii() else content.decode("utf-8", "surrogateescape")


def name_of(header: bytes) -> str:
    """The name in a header, with POSIX's prefix if there is one."""
    name = text(header[:100])
    # GNU tar keeps times where POSIX has the prefix of a long name.
    if header[345] == 0 or header[MAGIC_AT:263] != b"ustar\0":
        return name
    return f"{text(header[345:500])}/{name}"


def checksum_fits(header: bytes) -> bool:
    """Whether the sum of all bytes, counting the checksum field as spaces, equals the stored one."""
    told = number(header[148:156])
    total = sum(header) - sum(header[148:156]) + 8 * 32
    if told == total:
        return True
    # Some old writers added signed bytes.
    high = sum(byte >= 128 for byte in header[:148] + header[156:])
    return told == total - 256 * high


def checksums_fit(headers: Sequence[bytes]) -> bool:
    """Whether the checksums of all headers match: `checksum_fits` for thousands at once, without the signed sums."""
    if not headers:
        return True
    told = [number(header[148:156]) for header in headers]
    if None in told:
        return False
    rows = np.frombuffer(b"".join(headers), dtype=np.uint8).reshape(-1, BLOCK)
    field = rows[:, 148:156].sum(axis=1, dtype=np.int64)
    totals = rows.sum(axis=1, dtype=np.int64) - field + 8 * 32
    return bool((totals == np.array(told, dtype=np.int64)).all())


def pax_records(content: bytes) -> dict[str, str]:
    """The records `<length> <field>=<value>\\n` of an extended header.

    Raises:
        BadHeader: they have another form.
    """
    records = {}
    while content and content[0] != 0:
        length, space, _ = content.partition(b" ")
        end = int(length) if space and len(length) < 8 and length.isdigit() else 0
        field, equals, value = content[len(length) + 1 : end - 1].partition(b"=")
        if not (equals and len(length) < end <= len(content)):
            raise BadHeader("an extended header is damaged")
        records[field.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        content = content[end:]
    size = records.get("size", "0")
    if len(size) > 20 or not size.isdecimal():
        raise BadHeader("an extended header has an impossible size")
    return records


def guess_content(start: bytes) -> str:
    """Why a file that does not begin with a tar header is not a tar, as the end of a sentence."""
    if start.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip, which allows no random access: unpack it first, or set data.spool_dir"
    if start.startswith((b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")):
        return "it is compressed, which allows no random access: unpack it first"
    if other := next((name for mark, name in _OTHERS.items() if start.startswith(mark)), None):
        return f"it is a {other} file, which is not a tar"
    words = start.partition(b"\0")[0]
    return (stand_in(words) if words else None) or NOT_A_TAR
