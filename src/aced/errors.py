"""The one exception that users see: a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AcedError(Exception):
    """A mistake of the user or a fault of the data or the machine, told in one sentence.

    The command line prints it without a traceback and exits with status 2.
    """


def told(error: BaseException) -> str:
    """What an exception says, and behind it the sentences that were noted on it since: what became of the work."""
    return " ".join([str(error), *getattr(error, "__notes__", ())])


def nearest(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the known name closest to `word`, or the list of all where none is close."""
    names = {name.lower(): name for name in sorted(known)}
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{names[close[0]]}'?"
    return f" Known: {', '.join(names.values())}."
