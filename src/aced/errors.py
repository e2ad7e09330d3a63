"""The one exception that users see: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class AcedError(Exception):
    """A fault of the user, the data or the machine, as one sentence.

    The command line prints it without a traceback and exits with status 2.
    """


class DataLost(AcedError):
    """The data of a run is gone or has changed: it can be resumed only as the sentence says."""


def told(error: BaseException, sentence: str = "") -> str:
    """The text of an exception and of the notes added to it, which say what became of the work.

    `sentence` replaces its own text.
    """
    return " ".join([sentence or str(error), *getattr(error, "__notes__", ())])


def every(read: Callable[[T], R], things: Iterable[T]) -> list[R]:
    """What `read` makes of each thing, so that the user learns of all faulty ones at once.

    Raises:
        AcedError: it raised one or more; the text is all of their sentences.
    """
    found, faults = [], []
    for thing in things:
        try:
            found.append(read(thing))
        except AcedError as error:
            faults.append(error)
    if faults:
        raise faults[0] if len(faults) == 1 else AcedError(" ".join(dict.fromkeys(map(told, faults))))
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the known name closest to `word`, or the list of all if none is close."""
    names = {name.lower(): name for name in sorted(known)}
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{names[close[0]]}'?"
    return f" Known: {', '.join(names.values())}."


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "DefaultCPUAllocator: not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python or torch means that the machine's or a device's memory is exhausted."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    )


def reason_of(error: Exception) -> str:
    """The reason for a failure in one sentence; for a bug also the place in the code."""
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
