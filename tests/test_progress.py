"""Bars on the terminal, and the number of threads."""

from __future__ import annotations

import builtins
import io
from typing import Any

import pytest
import torch
from rich.console import Console

from aced.runtime import progress, threads
from aced.runtime.progress import Bars


def drawn(bars: Bars) -> str:
    file = bars.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_bar_shows_what_how_far_and_a_remark() -> None:
    with Bars(Console(file=io.StringIO(), width=100)) as bars:
        with bars.bar("Training [x]", 4) as tick:
            tick(1)
            tick(4, "loss 1.50")
        with bars.counting("Indexing") as count:
            count(3, 10)
    assert "Training [x]" in drawn(bars)
    assert "100% loss 1.50" in drawn(bars)
    assert "30%" in drawn(bars)


def test_a_bar_goes_where_there_was_nothing_to_count() -> None:
    with Bars(Console(file=io.StringIO(), width=100)) as bars:
        with bars.counting("Indexing"):
            pass
        with pytest.raises(ValueError, match="nothing there"), bars.counting("Fetching"):
            raise ValueError("nothing there")
    assert "Indexing" not in drawn(bars)
    assert "Fetching" not in drawn(bars)


def test_the_overall_bar_moves_with_its_parts() -> None:
    with Bars(Console(file=io.StringIO(), width=100)) as bars:
        bars.overall("Demo", 10)
        overall = bars._progress.tasks[0]
        with bars.part(4), bars.bar("First", 8) as tick:
            tick(4)
            assert overall.completed == 2
        assert overall.completed == 4
        assert "left" in overall.fields["note"]
        with bars.part(6), bars.bar("Second", 2) as tick:
            tick(1)
            assert overall.completed == 7
        assert overall.completed == 10
        assert "left" not in overall.fields["note"]  # the column then shows the time that it took
    assert "Demo" in drawn(bars)


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_narrow_terminals_cut_words_and_keep_the_time(width: int) -> None:
    bars = Bars(Console(file=io.StringIO(), width=width))
    bars.overall("Demo", 10)
    with bars.part(4), bars.bar("ACED-IIDistill, twice the samples, seed 1", 100) as tick:
        bars.below("1,412 images/s · load 12 score 30 select 8 train 50 % · invalid 0.34 %")
        tick(30, "loss 12.31")
        page = Console(file=io.StringIO(), width=width)
        page.print(bars._progress.get_renderable())
        overall, bar, below = drawn(Bars(page)).splitlines()
    assert all(len(line) <= width for line in (overall, bar, below))
    assert bar.startswith("ACED-IID")
    assert " 30% loss" in bar
    assert overall.endswith("--:--")
    assert bar.endswith("--:--")
    assert below.startswith("1,412 images/s · load 12")
    assert ("invalid 0.34 %" in below) == (width >= 80)


def test_the_line_below_goes_with_its_bar() -> None:
    with Bars(Console(file=io.StringIO(), width=100)) as bars, bars.bar("Training", 4):
        bars.below("12 images/s")
        assert bars._progress.below
    assert "12 images/s" not in drawn(bars)


def test_threads_that_are_asked_for_are_set() -> None:
    assert threads.set_threads(2) == torch.get_num_threads() == 2


@pytest.mark.parametrize(("seconds", "quicker"), [({1: 0.2, 4: 0.1}, 4), ({1: 0.1, 4: 0.5}, 1)])
def test_threads_that_are_not_asked_for_are_measured(
    seconds: dict[int, float], quicker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 4)
    monkeypatch.setattr(threads, "_small_training_step", lambda: seconds[torch.get_num_threads()])
    assert threads.set_threads(0) == torch.get_num_threads() == quicker


def test_the_measured_work_takes_time() -> None:
    assert threads._small_training_step() > 0


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("150000 100000", 1), ("400000 100000", 4), ("900000 100000", 8), ("odd", 8)],
)
def test_a_containers_quota_counts(quota: str, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    original = builtins.open

    def opened(path: Any, *rest: Any, **how: Any) -> Any:
        return io.StringIO(quota) if path == "/sys/fs/cgroup/cpu.max" else original(path, *rest, **how)

    monkeypatch.setattr(builtins, "open", opened)
    assert threads.available_cores() == cores


def test_a_log_gets_plain_lines_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    bars = Bars(Console(file=io.StringIO(), width=80))
    bars._progress.get_time = lambda: now
    with bars, bars.bar("Training [x]", 400) as tick:
        tick(0)
        for done in range(1, 301):
            now += 1.0
            tick(done, f"loss {done}")
        lines = [line for line in drawn(bars).splitlines() if " left" in line]
    assert [line.split(", ")[:3] for line in lines] == [
        [f"Training [x]: {done / 4:.0f} %", f"{done} of 400", f"loss {done}"] for done in (60, 120, 180, 240, 300)
    ]
    assert lines[-1].endswith("0:01:40 left")
    assert all(len(line) <= 80 and "\x1b" not in line for line in lines)


def test_a_terminal_gets_no_such_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with Bars(Console(file=io.StringIO(), width=80, force_terminal=True)) as bars, bars.bar("Training", 4) as tick:
        tick(2)
    assert "2 of 4" not in drawn(bars)
