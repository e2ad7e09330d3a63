"""Clocks and numbers of a device: a GPU is asked whether it is done, and waited for only where somebody says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aced.runs.ledger import HostClock, Ledger
from aced.runtime.devices import Readout, StreamClock, clock_of

CUDA = torch.device("cuda", 0)


class Gpu:
    """A GPU that comes to an event when `work` is called or an event is waited for; each event is a second of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.done, self.waits = 0, 0, 0
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                self.timing = enable_timing

            def record(self, stream: object) -> None:
                gpu.asked += 1
                self.number = gpu.asked

            def query(self) -> bool:
                return self.number <= gpu.done

            def synchronize(self) -> None:
                gpu.waits += 1
                gpu.done = max(gpu.done, self.number)

            def elapsed_time(self, end: Any) -> float:
                assert self.timing
                assert end.timing
                assert end.query()
                return 1000.0 * (end.number - self.number)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)


def test_a_cpu_has_a_plain_clock() -> None:
    assert isinstance(clock_of(torch.device("cpu")), HostClock)
    assert isinstance(clock_of(CUDA), StreamClock)


def test_phases_on_a_gpu_are_told_when_it_has_come_through_them(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    ledger = Ledger(clock=clock_of(CUDA))
    for phase in ("score", "train", "load"):
        with ledger.timed(phase):  # type: ignore[arg-type]
            pass
    assert (gpu.waits, sum(ledger.seconds.values())) == (0, 0.0)
    gpu.done = 4  # it has come through two of them
    ledger.settle(wait=False)
    assert ledger.seconds == {"load": 0.0, "score": 1.0, "select": 0.0, "train": 1.0}
    early = ledger.copy()
    assert gpu.waits == 0
    assert ledger.state()["seconds"] == {"load": 1.0, "score": 1.0, "select": 0.0, "train": 1.0}
    assert gpu.waits == 1
    assert early.seconds["load"] == 0.0
    assert early.budgets()["seconds"] == 3.0
    assert ledger.budgets()["seconds"] == 3.0  # each block counts once


def test_numbers_of_a_cpu_are_there_at_once_and_their_tensor_may_change() -> None:
    values = torch.tensor([1.0, 2.0])
    readout = Readout(values)
    values.zero_()
    assert readout.read().tolist() == [1.0, 2.0]
