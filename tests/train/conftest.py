"""Something that happens within a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from early_ends import BeforeStep

from aced.train.run import loop


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> BeforeStep:
    """Something that happens once, before step number `step` (from 0) is taken."""

    def arrange(step: int, happens: Callable[[], object]) -> None:
        take, done = loop.train_step, []

        def stepping(trainer: Any, batches: Any) -> Any:
            if trainer.step == step and not done:
                done.append(step)
                happens()
            return take(trainer, batches)

        monkeypatch.setattr(loop, "train_step", stepping)

    return arrange
