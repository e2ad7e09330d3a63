"""Several sources in one string: `a::b` as in open_clip, and a list that lost its quotes in a shell."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

_ARCHIVE = re.compile(r"(zip|tar|libarchive|reference|dir|dask)://")
_CLOSING = {"[": "]", "{": "}"}


def several(text: str) -> list[str]:
    """The entries of a string; an existing file or folder of that name is a single one.

    >>> several("a::b"), several("[a, 'b c']"), several("a/{0,1}.tar"), several("")
    (['a', 'b'], ['a', 'b c'], ['a/{0,1}.tar'], [])
    """
    if not text or os.path.lexists(os.path.expanduser(text)):
        return [text] if text else []
    entries = _listed(text) if _is_list(text) else [text]
    return [part for entry in entries for part in _chained(entry)]


def several_of(entries: list[object]) -> list[object]:
    """The same for the entries of a list, which are never lists themselves; anything but text stays unchanged."""
    found: list[object] = []
    for entry in entries:
        there = not isinstance(entry, str) or os.path.lexists(os.path.expanduser(entry))
        found += [entry] if there else _chained(str(entry))
    return found


def pieces(text: str) -> list[str]:
    """The parts between commas and spaces, which may be several names or only a name with spaces."""
    return [piece for part in _split(text, ",") for piece in _split(part, " \t\n") if piece]


def _chained(text: str) -> list[str]:
    """The parts of `a::b`; but fsspec's `zip://x.tar::s3://y` and `simplecache::s3://y` are one address."""
    parts = [text] if "::" not in text else text.split("::")
    found = [parts.pop()]
    for part in reversed(parts):
        if _ARCHIVE.match(part) or ("://" in found[0] and _is_protocol(part)):
            found[0] = f"{part}::{found[0]}"
        else:
            found.insert(0, part)
    return [part.strip() for part in found] if len(found) > 1 else found


def _is_protocol(word: str) -> bool:
    from fsspec.registry import known_implementations  # slow to import, and rarely needed

    return word in known_implementations


def _is_list(text: str) -> bool:
    """Whether `[...]` is a list: a glob's set of letters contains no comma, quote or slash, and is no whole name."""
    if not (text.startswith("[") and text.endswith("]") and len(text) > 2):
        return False
    ends = [at for at, depth in _depths(text) if depth == 0]
    inside = text[1:-1].strip()
    looks = any(mark in inside for mark in ",\"'/") or os.path.lexists(os.path.expanduser(inside))
    return ends[0] == len(text) - 1 and looks


def _listed(text: str) -> list[str]:
    entries = [entry.strip() for entry in _split(text[1:-1], ",")]
    if entries and not entries[-1]:
        entries.pop()  # after a trailing comma
    return [
        entry[1:-1] if len(entry) > 1 and entry[0] == entry[-1] and entry[0] in "'\"" else entry for entry in entries
    ]


def _split(text: str, marks: str) -> list[str]:
    """Split at any of some characters, but not within brackets, braces or quotes."""
    cuts = [at for at, depth in _depths(text) if depth == 0 and text[at] in marks]
    return [text[start:end] for start, end in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(text)], strict=True)]


def _depths(text: str) -> Iterator[tuple[int, int]]:
    """Each position in a text, and its depth in brackets, braces and quotes (their ends are outside)."""
    open_marks: list[str] = []
    for at, letter in enumerate(text):
        if open_marks and letter == open_marks[-1]:
            open_marks.pop()
        elif letter in _CLOSING and not (open_marks and open_marks[-1] in "'\""):
            open_marks.append(_CLOSING[letter])
        elif letter in "'\"" and letter in text[at + 1 :]:
            open_marks.append(letter)
        yield at, len(open_marks)
