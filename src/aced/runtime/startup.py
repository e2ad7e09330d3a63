"""Quick starts of short programs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import heavy libraries inside: no garbage is collected meanwhile, and what was made is never looked at again.

    Importing torch and open_clip makes some million objects that stay; looking through them for garbage, while they
    are imported and when the interpreter ends, takes longer than a small evaluation. Where the collector is off
    already, it stays off.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if on:
            gc.enable()
