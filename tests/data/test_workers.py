"""A loading process whose reader is gone says nothing; any other fault is still told."""

from __future__ import annotations

import sys

import pytest

from aced.data.workers import quiet_end


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
