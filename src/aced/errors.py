"""The one exception that users see: a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class AcedError(Exception):
    """A mistake of the user or a fault of the data or the machine, told in one sentence.

    The command line prints it without a traceback and exits with status 2.
    """


class DataLost(AcedError):
    """Data that a run had are gone or others now: it is resumed as the sentence says, and not as it was begun."""


def told(error: BaseException, sentence: str = "") -> str:
    """What an exception says, and behind it the sentences that were noted on it since: what became of the work.

    `sentence` takes the place of its own words.
    """
    return " ".join([sentence or str(error), *getattr(error, "__notes__", ())])


def nearest(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the known name closest to `word`, or the list of all where none is close."""
    names = {name.lower(): name for name in sorted(known)}
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{names[close[0]]}'?"
    return f" Known: {', '.join(names.values())}."


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "DefaultCPUAllocator: not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python or torch means that the memory, of the machine or of a device, is used up."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    )


def reason_of(error: Exception) -> str:
    """Why something failed, in one sentence: of a bug also where in the code."""
    if isinstance(error, AcedError):
        return str(error)
    if is_out_of_memory(error):
        return "Out of memory: lower the micro-batch."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})" if trace is not None else ""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' + said if said else ''}{where}."
