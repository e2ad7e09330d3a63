"""How a function reports how far it is: a callback of what is done and how much there is to do."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""`progress(done, total)`, in any unit."""
