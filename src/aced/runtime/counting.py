"""The type of a progress callback: the amount done and the total."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""`progress(done, total)`, in any unit."""
