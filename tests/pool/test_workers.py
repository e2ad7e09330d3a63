"""A loading process whose reader is gone says nothing, any other fault is still told; and it holds no free memory."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from aced.pool.loader.workers import begin, quiet_end


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ConnectionResetError(), EOFError()])
def test_a_lost_reader_is_no_news(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    quiet_end()
    sys.excepthook(type(error), error, None)
    assert capsys.readouterr().err == ""


def test_other_faults_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    quiet_end()
    sys.excepthook(KeyError, KeyError("that"), None)
    assert "KeyError: 'that'" in capsys.readouterr().err


def _resident() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _holding(answer: Connection) -> None:
    """Use chunks of 20 MB as a loading process does, and tell what is held afterwards."""
    begin(0)
    before = _resident()
    for _ in range(3):
        chunks = [torch.ones(20 << 20, dtype=torch.uint8) for _ in range(3)]
        small = [torch.ones(1000) for _ in range(10)]  # behind them
        del chunks
    answer.send(_resident() - before)
    del small


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_of_chunks_goes_back() -> None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_holding, args=(there,))
    process.start()
    held = here.recv()
    process.join()
    assert held < 10 << 20
