"""Progress on the terminal: a bar with time left for everything that takes more than a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

EVERY = 60.0
"""Seconds between two lines in a log, where no bar can be redrawn."""


class Tick(Protocol):
    """Moves a bar: `tick(done, note)` with the number done so far and a short remark."""

    def __call__(self, done: float, note: str = "") -> None:
        """Move the bar."""
        ...


class _Cut(TextColumn):
    """Text that is cut on a narrow terminal, so that the bar and the time left stay visible."""

    def __init__(self, text_format: str) -> None:
        super().__init__(text_format, table_column=Column())  # a column that may shrink

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"  # but without a second line
        return text


class _Drawn(Progress):
    """Bars with a line of text below them."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below, style="dim", no_wrap=True, overflow="ellipsis")


class Bars:
    """The bars of one program, drawn together; use it as a context manager.

    A bar shows the current work, its progress, a remark, and the time left (the time taken, once it is done). On a
    narrow terminal the text is cut. With `overall`, a separate bar shows the time left for everything: see `part`. A
    line below says more about the current work: see `below`. A log, where nothing can be redrawn, gets a plain line a
    minute instead.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = _Drawn(
            _Cut("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%"),
            _Cut("[dim]{task.fields[note]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
        )
        self._overall: TaskID | None = None
        self._before = self._share = 0.0
        # Jupyter redraws bars though it is no terminal.
        self._plain = not (console.is_terminal or console.is_jupyter)
        self._said = time.monotonic()

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
        self._overall = self._progress.add_task(f"[bold]{description}", total=total, note="total time left")

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
        """A separate bar while the block runs."""
        task = self._progress.add_task(escape(description), total=total, note="")

        def tick(done: float, note: str = "") -> None:
            self._progress.update(task, completed=done, note=note)
            self._move_overall(done / total)
            self._log(task)

        try:
            yield tick
        finally:
            self.below("")

    def below(self, text: str) -> None:
        """Show a line below the bars until the current bar ends, or until the next such line."""
        self._progress.below = text

    @contextmanager
    def counting(self, description: str) -> Iterator[Callable[[int, int], None]]:
        """A bar for callbacks of the form (done, total); it disappears if there was nothing to count."""
        task = self._progress.add_task(escape(description), total=None, note="")
        counted = False

        def count(done: int, total: int) -> None:
            nonlocal counted
            counted = True
            self._progress.update(task, completed=done, total=total)
            self._log(task)

        try:
            yield count
        finally:
            if not counted:
                self._progress.remove_task(task)

    def _log(self, number: TaskID) -> None:
        """Without a terminal: a line about a bar, one every `EVERY` seconds over all bars."""
        if not self._plain or time.monotonic() - self._said < EVERY:
            return
        self._said = time.monotonic()
        task = self._progress._tasks[number]
        left = task.time_remaining
        parts = [
            f"{Text.from_markup(task.description).plain}: {task.percentage:.0f} %",
            f"{task.completed:,.0f} of {task.total or 0:,.0f}",
            *filter(None, [task.fields["note"], self._progress.below]),
            *([f"{timedelta(seconds=round(left))} left"] if left is not None else []),
        ]
        self.say(", ".join(parts))

    def _move_overall(self, fraction: float) -> None:
        if self._overall is None:
            return
        self._progress.update(self._overall, completed=self._before + fraction * self._share)
        if self._progress._tasks[self._overall].finished:
            self._progress.update(self._overall, note="time taken")


@contextmanager
def counting(console: Console, description: str) -> Iterator[Callable[[int, int], None]]:
    """As `Bars.counting`, for a program that currently has no bars."""
    with Bars(console) as bars, bars.counting(description) as count:
        yield count
