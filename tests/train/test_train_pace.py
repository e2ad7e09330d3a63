"""Pace and the share of invalid samples."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aced.runs import pace as module
from aced.runs.pace import Pace, Recent, Totals, invalid, pace, pace_text
from aced.train.feed import Faults


def totals(step: int, samples: float, *seconds: float) -> Totals:
    return Totals(step, samples, dict(zip(("load", "score", "select", "train"), seconds, strict=True)))


def test_the_examples_are_so() -> None:
    assert doctest.testmod(module).failed == 0


def test_the_pace_is_what_lies_between() -> None:
    now = pace(totals(10, 640, 1, 2, 3, 4), totals(20, 1280, 2, 2, 4, 12))
    assert now == Pace(64.0, 1.0, {"load": 0.1, "score": 0.0, "select": 0.1, "train": 0.8})
    assert sum(now.shares.values()) == pytest.approx(1)
    # A run's beginning: phases that were not begun yet count from nothing.
    assert pace(Totals(0, 0, {}), totals(4, 8, 1, 1, 1, 1)) == Pace(2.0, 1.0, dict.fromkeys(now.shares, 0.25))


@pytest.mark.parametrize(
    "after", [totals(10, 640, 1, 2, 3, 4), totals(9, 600, 2, 2, 3, 4), totals(11, 700, 1, 2, 3, 4)]
)
def test_without_steps_or_time_there_is_no_pace(after: Totals) -> None:
    assert pace(totals(10, 640, 1, 2, 3, 4), after) is None


def test_the_recent_pace_forgets() -> None:
    recent = Recent(steps=2)
    assert recent.add(totals(0, 0, 0, 0, 0, 0)) is None
    found = [recent.add(totals(n, 10 * n, 0, 0, 0, seconds)) for n, seconds in ((1, 10), (2, 11), (3, 12), (4, 13))]
    assert [now and now.images for now in found] == [1.0, 20 / 11, 10.0, 10.0]


@given(
    names=st.dictionaries(st.sampled_from(["no_caption", "image_empty", "image_turned"]), st.integers(0, 50)),
    total=st.integers(0, 500),
    data=st.data(),
)
def test_the_share_of_invalid_samples(names: dict[str, int], total: int, data: st.DataObject) -> None:
    lost = names.get("no_caption", 0) + names.get("image_empty", 0)
    unreadable = data.draw(st.integers(0, min(lost, total)))
    read = data.draw(st.integers(unreadable, total))
    share = invalid(names, total=total, read=read, unreadable=unreadable).share
    # If what was not read yet is like what was: of all samples, those left out and those that will not be readable.
    everything = total + lost - unreadable
    bad = (lost - unreadable) + (total * unreadable / read if read else 0)
    assert share == pytest.approx(bad / everything if everything and total else 0.0, abs=1e-12)


def test_the_reason_is_the_commonest_fault_that_loses_samples() -> None:
    assert invalid({"image_turned": 9, "no_caption": 1, "image_empty": 2}, total=9, read=9, unreadable=2).reason == (
        "image_empty"
    )
    assert invalid({"image_turned": 9}, total=9, read=9, unreadable=0).reason == ""


def test_a_run_that_began_counts_what_it_has_read() -> None:
    from aced.pool.source import Fault

    faults = Faults(1.0, 1000)
    faults.note([Fault("tar", "no_caption", "none", 250)])
    assert faults.invalid().share == pytest.approx(0.2)
    faults.add([Fault(f"key {n}", "image_empty", "empty") for n in range(10)], 100)
    assert faults.samples() == {"total": 1000, "read": 100, "unreadable": 10}
    assert faults.invalid().share == pytest.approx(1 - 0.8 * 0.9)
    assert faults.invalid().reason == "no_caption"


def test_the_text_fits_a_terminal_of_80_columns() -> None:
    now = Pace(12_345.6, 0.1, {"load": 0.2, "score": 0.3, "select": 0.2, "train": 0.3})
    text = pace_text(now, 0.0123)
    assert text == "12,346 images/s · load 20 score 30 select 20 train 30 % · invalid 1.2 %"
    assert len(text) < 80
    assert pace_text(None, 0.0) == "invalid 0 %"
