"""Progress on the terminal: a bar with time left for everything that takes more than a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Tick(Protocol):
    """Moves a bar: `tick(done, note)` with the number done so far and a short remark."""

    def __call__(self, done: float, note: str = "") -> None:
        """Move the bar."""
        ...


class Bars:
    """The bars of one program, drawn together; use it as a context manager.

    A bar shows what is being done, how far it is, a remark, and the time left (the time taken, once it is done).
    With `overall`, a bar of its own shows the time left for everything: see `part`.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("[dim]{task.fields[note]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
        )
        self._overall: TaskID | None = None
        self._before = self._share = 0.0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars, as it is."""
        self.console.print(text, markup=False, highlight=False)

    def overall(self, description: str, total: float) -> None:
        """Show a bar for the whole program, in any unit of work."""
        self._overall = self._progress.add_task(f"[bold]{description}", total=total, note="time left in all")

    @contextmanager
    def part(self, work: float) -> Iterator[None]:
        """The bars inside are `work` of the overall total; the overall bar moves with them."""
        self._share = work
        try:
            yield
        finally:
            self._before, self._share = self._before + work, 0.0
            self._move_overall(0.0)

    @contextmanager
    def bar(self, description: str, total: float) -> Iterator[Tick]:
        """A bar of its own while the block runs."""
        task = self._progress.add_task(escape(description), total=total, note="")

        def tick(done: float, note: str = "") -> None:
            self._progress.update(task, completed=done, note=note)
            self._move_overall(done / total)

        yield tick

    @contextmanager
    def counting(self, description: str) -> Iterator[Callable[[int, int], None]]:
        """A bar for callbacks of the form (done, total)."""
        task = self._progress.add_task(escape(description), total=None, note="")

        def count(done: int, total: int) -> None:
            self._progress.update(task, completed=done, total=total)

        yield count

    def _move_overall(self, fraction: float) -> None:
        if self._overall is not None:
            self._progress.update(self._overall, completed=self._before + fraction * self._share)
