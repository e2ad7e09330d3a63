"""How a command of `aced` ended, for the tests that run some."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    status: object
    out: str
    err: str


Cli = Callable[..., Ended]
