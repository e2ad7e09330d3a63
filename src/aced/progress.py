"""Progress on the terminal: a bar with time left for everything that takes more than a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Tick(Protocol):
    """Moves a bar: `tick(done, note)` with the number done so far and a short remark."""

    def __call__(self, done: float, note: str = "") -> None: ...


class Bars:
    """The bars of one program, drawn together; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            console=console,
            transient=False,
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def bar(self, description: str, total: float) -> Iterator[Tick]:
        """A bar of its own while the block runs."""
        task = self._progress.add_task(description, total=total, note="")

        def tick(done: float, note: str = "") -> None:
            self._progress.update(task, completed=done, note=note)

        yield tick

    @contextmanager
    def counting(self, description: str) -> Iterator[Callable[[int, int], None]]:
        """A bar for callbacks of the form (done, total)."""
        task = self._progress.add_task(description, total=None, note="")

        def count(done: int, total: int) -> None:
            self._progress.update(task, completed=done, total=total)

        yield count

    def say(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(text)
