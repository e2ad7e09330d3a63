"""Clocks: on a GPU time is told once the work that was asked for is done."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from aced.devices import clock_of


def test_a_cpu_is_never_waited_for() -> None:
    assert clock_of(torch.device("cpu")) is time.perf_counter


def test_a_gpus_clock_waits_before_it_tells_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    finished: list[float] = []
    stream = SimpleNamespace(synchronize=lambda: finished.append(time.perf_counter()))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    clock = clock_of(torch.device("cuda", 0))
    assert not finished
    told = clock()
    assert len(finished) == 1
    assert told >= finished[0]
