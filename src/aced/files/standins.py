"""Files that are not what they should be: a git-lfs pointer, a web page, an error message, an empty file.

A tar, checkpoint or image that was fetched wrongly usually fails in its own reader, with a misleading message. The
first bytes show what it really is.
"""

from __future__ import annotations

from pathlib import Path

HEAD = 512
"""Number of bytes from the start of a file that `stand_in` needs."""

_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = b"/annex/objects/"
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<!--")
_ERRORS = (
    b"<?xml",
    b"<error",
    b'{"error"',
    b"entry not found",
    b"repository not found",
    b"invalid username or password",
)


def stand_in(head: bytes) -> str | None:
    """Half a sentence that says what a file is instead, and what to do; None if its first bytes do not show it.

    Args:
        head: the first `HEAD` bytes of the file, or the whole file if it is shorter.
    """
    if not head:
        return "it is empty; fetch it again"
    if b"\0" in head:  # all of these are texts, whereas a tar may begin with a member of any name
        return None
    start = head[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(_LFS):
        return "it is a git-lfs pointer, not the file itself; run `git lfs pull` where it was cloned"
    if start.startswith(_ANNEX) or (start.startswith(b"../") and _ANNEX in start.split(b"\n")[0]):
        return "it is a git-annex pointer, not the file itself; run `git annex get` where it was cloned"
    words = start.lower()
    if words.startswith(_PAGES):
        return "it is a web page, not the file itself; fetch it from the file's own address (and log in if required)"
    if words.startswith(_ERRORS):
        return f"it is a server's error message ({_line(start)}); fetch it again"
    return None


def stand_in_at(path: Path | str) -> str | None:
    """As `stand_in`, for a file on disk.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return stand_in(file.read(HEAD))


def _line(start: bytes, shown: int = 60) -> str:
    """The first words of a text, printable."""
    words = " ".join(start.decode("utf-8", "replace").split())
    words = "".join(c if c.isprintable() else "?" for c in words)
    return words if len(words) <= shown else f"{words[:shown]} ..."
