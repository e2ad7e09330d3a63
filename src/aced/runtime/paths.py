"""Paths as people write them: `~` is the home folder wherever a path is wanted, and an empty path is none."""

from __future__ import annotations

import os
import re

_VARIABLE = re.compile(r"[^/]*?(\$(?:\{[A-Za-z_]\w*\}|[A-Za-z_]\w*))[^/]*")


def expand_path(text: str) -> str:
    """A path with `~` or `~user` at its beginning expanded; also a pattern, an address, or a name that may be a path.

    Variables of a shell are not expanded: in a file or between quotes `$HOME/x` would become a folder called `$HOME`,
    so it is refused. What exists under such a name is taken as it is.

    Raises:
        ValueError: the path is empty, names a user that there is not, or holds a variable; the text is a sentence
            without its full stop.
    """
    if not text.strip():
        raise ValueError("a path or a name is needed, and this is empty")
    if "\0" in text:
        raise ValueError("no path holds a null character")
    if "://" in text:
        return text  # an address, in which both signs are ordinary
    if text.startswith("~"):
        return _from_home(text)
    found = _VARIABLE.search(text)
    if found and not os.path.lexists(text[: found.end()]):
        raise ValueError(
            f"variables are not expanded here: write what {found[1]} stands for (~ is your home folder), or leave the "
            "quotes away, so that the shell expands it"
        )
    return text


def expand_optional(text: str) -> str:
    """As `expand_path` where an empty text stands for none."""
    return expand_path(text) if text else ""


def _from_home(text: str) -> str:
    expanded = os.path.expanduser(text)
    if not expanded.startswith("~"):
        return expanded
    first = text.partition("/")[0]
    if os.path.lexists(first):
        return text
    if first == "~":
        raise ValueError("the home folder that ~ stands for is not known: write the path in full")
    raise ValueError(f"there is no user '{first[1:]}': write ./{first} for a file or folder of that name")
