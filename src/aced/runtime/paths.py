"""Paths as users write them: `~` is the home folder everywhere, and an empty path means none."""

from __future__ import annotations

import os
import re

_VARIABLE = re.compile(r"[^/]*?(\$(?:\{[A-Za-z_]\w*\}|[A-Za-z_]\w*))[^/]*")


def expand_path(text: str) -> str:
    """A path with `~` or `~user` at its beginning expanded; also a pattern, an address, or a name that may be a path.

    Shell variables are not expanded: in a file or between quotes `$HOME/x` would become a folder called `$HOME`, so it
    is refused. An existing path of such a name is used unchanged.

    Raises:
        ValueError: the path is empty, names a user that does not exist, or holds a variable; the text is a sentence
            without its full stop.
    """
    if not text.strip():
        raise ValueError("a path or a name is needed, but this is empty")
    if "\0" in text:
        raise ValueError("a path cannot contain a null character")
    if "://" in text:
        return text  # in an address both characters are ordinary
    if text.startswith("~"):
        return _from_home(text)
    found = _VARIABLE.search(text)
    if found and not os.path.lexists(text[: found.end()]):
        raise ValueError(
            f"variables are not expanded here: write the value of {found[1]} (~ is your home folder), or remove the "
            "quotes, so that the shell expands it"
        )
    return text


def expand_optional(text: str) -> str:
    """As `expand_path`; an empty text means none."""
    return expand_path(text) if text else ""


def _from_home(text: str) -> str:
    expanded = os.path.expanduser(text)
    if not expanded.startswith("~"):
        return expanded
    first = text.partition("/")[0]
    if os.path.lexists(first):
        return text
    if first == "~":
        raise ValueError("the home folder for ~ is unknown: write the path in full")
    raise ValueError(f"there is no user '{first[1:]}': write ./{first} for a file or folder of that name")
