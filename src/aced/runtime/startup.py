"""Faster start-up for short commands."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import heavy libraries inside: garbage collection is off meanwhile, and skips the new objects afterwards.

    Importing torch and open_clip creates about a million permanent objects; scanning them for garbage, during the
    import and when the interpreter ends, takes longer than a small evaluation. If the collector is already off, it
    stays off.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if on:
            gc.enable()
