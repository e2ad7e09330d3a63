"""Signs of life: who gives none is missed, and nobody else."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from aced.train import heartbeat
from aced.train.heartbeat import Heartbeat


class Store:
    """Counters in memory, which can stop to answer, or for one process to change."""

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()
        self.stopped: set[str] = set()
        self.open, self.broken = threading.Event(), False
        self.open.set()

    def add(self, key: str, amount: int, /) -> int:
        self.open.wait()
        if self.broken:
            raise RuntimeError("Connection reset by peer")
        if key not in self.stopped:
            self.numbers[key] += amount
        return self.numbers[key]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(heartbeat, "PAUSE", 0.02)
    found = Store()
    yield found
    found.open.set()


def waited(lost: list[object], count: int) -> bool:
    """Whether so many losses came, within long enough."""
    end = time.monotonic() + 300
    while len(lost) < count and time.monotonic() < end:
        time.sleep(0.005)
    return len(lost) == count


def test_a_stopped_process_is_missed_by_the_one_before_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine may keep a thread from its beat: only the stopped one stays silent for ever.
    monkeypatch.setattr(heartbeat, "MISSED", 100)
    lost: list[tuple[int, int | None]] = []
    beats = [Heartbeat(store, rank, 3, lambda who, rank=rank: lost.append((rank, who))) for rank in range(3)]  # type: ignore[misc]
    with beats[0], beats[1], beats[2]:
        while min(store.numbers[f"alive {rank}"] for rank in range(3)) < 3:
            time.sleep(0.005)
        assert lost == []
        store.stopped.add("alive 2")
        assert waited(lost, 1)  # type: ignore[arg-type]
    assert lost == [(1, 2)]


def test_a_process_that_is_still_on_its_way_is_not_missed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "MISSED", 20)
    lost: list[int | None] = []
    with Heartbeat(store, 0, 2, lost.append):
        time.sleep(1.2)  # three times as long
        assert lost == []
        store.add("alive 1", 1)
        assert waited(lost, 1)  # type: ignore[arg-type]
    assert lost == [1]


@pytest.mark.parametrize("how", ["silent", "broken"])
def test_a_store_that_does_not_answer_is_told_apart(how: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "MISSED", 10)
    lost: list[int | None] = []
    with Heartbeat(store, 0, 2, lost.append):
        if how == "silent":
            store.open.clear()
        store.broken = how == "broken"
        assert waited(lost, 1)  # type: ignore[arg-type]
        store.open.set()
    assert lost == [None]


def test_it_ends_with_its_block_and_one_process_has_none(store: Store) -> None:
    before = set(threading.enumerate())
    with Heartbeat(store, 0, 2, lambda who: None):
        started = set(threading.enumerate()) - before
        assert len(started) == 2
    for thread in started:
        thread.join(300)
        assert not thread.is_alive()
    with Heartbeat(store, 0, 1, lambda who: None):
        assert not set(threading.enumerate()) - before
