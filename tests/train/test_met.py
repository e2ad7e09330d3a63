"""Unreadable samples are counted once each, in memory that does not grow with them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aced.errors import AcedError
from aced.pool.source import Fault
from aced.train.feed import Faults
from aced.train.met import MOST, Met
from aced.train.run.checkpoint import _load_faults

KEYS = st.lists(st.text(alphabet="abcdefgh", min_size=1, max_size=2))


def broken(key: object) -> Fault:
    return Fault(f"key {key}", "image_unreadable", f"cannot read {key}")


@given(KEYS, KEYS)
def test_few_are_told_from_each_other_whenever_they_come(once: list[str], later: list[str]) -> None:
    met = Met.of(once)
    assert met.count == len(set(once))
    for key in later:
        if met.is_new(key, first=False):
            met.add(key)
    assert met.count == len({*once, *later})


@given(st.integers(0, 40), st.integers(0, 10), st.integers(1, 5))
def test_of_many_each_counts_once_in_a_first_reading_and_no_other(bad: int, most: int, epochs: int) -> None:
    faults = Faults(1.0, 40, met=Met(most))
    for _ in range(epochs):
        for start in range(0, 40, 8):
            faults.add([broken(at) for at in range(start, start + 8) if at < bad], 8)
    assert faults.met.count == faults.counts["image_unreadable"] == bad
    assert len(faults.met.hashes) == min(bad, most)


def test_what_a_checkpoint_holds_stays_small() -> None:
    met = Met.of(map(str, range(MOST + 1000)))
    assert (met.count, len(met.hashes)) == (MOST + 1000, MOST)
    assert len(json.dumps(sorted(met.hashes))) < 23 * MOST


@pytest.mark.parametrize("most", [2, 1000])
def test_a_run_that_goes_back_counts_as_if_it_had_not_been_there(most: int) -> None:
    faults, straight = (Faults(1.0, 40, met=Met(most)) for _ in range(2))
    faults.keep()
    faults.add([broken(0), broken(1)], 8)
    faults.keep()
    faults.add([broken(2), broken(8)], 8)
    faults.back()
    straight.add([broken(0), broken(1)], 8)
    assert faults == straight
    faults.back()
    assert faults == Faults(1.0, 40, met=Met(most))
    faults.add([broken(0), broken(1)], 8)
    assert faults == straight


def test_the_limit_holds_beyond_what_is_remembered() -> None:
    faults = Faults(0.1, 1000, met=Met(5))
    for start in range(0, 950, 50):
        faults.add([broken(at) for at in range(start, start + 50) if at % 10 == 0], 50)
    faults.add([broken(at) for at in range(951, 956)], 25)  # as many as are allowed
    with pytest.raises(AcedError, match="101 of 1000 "):
        faults.add([broken(999)], 25)


def test_a_checkpoint_of_an_earlier_version_holds_keys() -> None:
    saved = {"read": 7, "keys": ["a", "b"], "counts": {"image_empty": 2}, "examples": {}}
    faults = Faults(1.0, 10)
    _load_faults(faults, saved)
    faults.add([Fault("a", "image_empty", "a."), Fault("c", "image_empty", "c.")], 1)
    assert (faults.read, faults.met.count, faults.counts["image_empty"]) == (8, 3, 3)
