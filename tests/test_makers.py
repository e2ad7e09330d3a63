"""Sources, towers, tasks and trackers of others, by name in a config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import aced
from aced.errors import AcedError
from aced.lab.scenes import make_tasks
from aced.train.run.student import make_student
from doors_fakes import doors as doors
from run_fakes import even_pool

pytestmark = pytest.mark.usefixtures("doors")


class Board:
    """Keeps what it is told."""

    name, where = "board", "nowhere"

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []
        self.failed: bool | None = None

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self.steps.append((kind, step))

    def close(self, *, failed: bool) -> None:
        self.failed = failed


def keys(out: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": {"out": str(out), "threads": 1, "log_every": 1, "checkpoint_every": 0, "trackers": ["board"]},
        "data": {"source": "pool"},
        "student": {"model": "small"},
        "reference": {"model": "big", "checkpoint": "weights"},
        "method": {"name": "aced", "chunks": 4},
        "train": {"batch": 16, "steps": 2},
        "eval": {"tasks": ["one"]},
    } | sections


def test_each_is_made_where_the_config_names_it(tmp_path: Path) -> None:
    board, asked = Board(), []
    aced.register_source("pool")(lambda config: even_pool())
    aced.register_task("one")(lambda: make_tasks("validation")[:1])
    aced.register_tracker("board")(lambda folder, settings: board)

    @aced.register_tower("small")
    def small(checkpoint: str, seed: int) -> aced.Tower:
        asked.append((checkpoint, seed))
        return aced.load_tower("aced-demo-s", seed=seed)

    aced.register_tower("big")(
        lambda checkpoint, seed: asked.append((checkpoint, seed)) or aced.load_tower("aced-demo-m", seed=1)
    )
    done = aced.train(keys(tmp_path / "run"), show=False)
    assert asked == [("", 0), ("weights", 0)]
    assert board.steps == [("train", 1), ("train", 2), ("eval", 2)]
    assert board.failed is False
    assert list(done.scores.results) == [make_tasks("validation")[0].name]
    again = aced.train(
        keys(tmp_path / "given", reference={}, data={}, student={}),
        source=even_pool(),
        student=aced.load_tower("aced-demo-s", seed=0),
        reference=aced.load_tower("aced-demo-m", seed=1),
        show=False,
    )
    for one, other in zip(done.student.parameters(), again.student.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("data", "source", "pol", "data.source.*'pool'"),
        ("run", "trackers", ["bord"], "run.trackers.*'board'"),
    ],
)
def test_a_name_that_there_is_not(section: str, key: str, value: Any, said: str, tmp_path: Path) -> None:
    aced.register_source("pool")(lambda config: even_pool())
    aced.register_tracker("board")(lambda folder, settings: Board())
    values = keys(tmp_path)
    values[section][key] = value
    with pytest.raises(AcedError, match=said):
        aced.make_config(values)


def test_a_source_and_tars_are_two_pools(tmp_path: Path) -> None:
    aced.register_source("pool")(lambda config: even_pool())
    aced.register_tracker("board")(lambda folder, settings: Board())
    with pytest.raises(AcedError, match=r"data.shards"):
        aced.make_config(keys(tmp_path, data={"source": "pool", "shards": ["x.tar"]}))


def test_one_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    aced.register_source("pool")(lambda config: 1 / 0)
    aced.register_tower("small")(lambda checkpoint, seed: aced.load_tower("aced-demo-s", seed=seed))
    values = keys(tmp_path / "run", method={"name": "iid"}, reference={}, eval={})
    values["run"]["trackers"] = []
    with pytest.raises(AcedError, match=r"source 'pool'.*ZeroDivisionError"):
        aced.train(values, show=False)
    assert not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.parametrize(("checkpoint", "loss", "told"), [("w", "softmax", 1), ("w", "sigmoid", 0), ("", "softmax", 0)])
def test_a_trained_bias_that_the_loss_ignores_is_reported(
    checkpoint: str, loss: str, told: int, tmp_path: Path
) -> None:
    @aced.register_tower("small")
    def small(checkpoint: str, seed: int) -> aced.Tower:
        tower = aced.load_tower("aced-demo-s", seed=seed)
        with torch.no_grad():
            tower.model.logit_bias.fill_(-7.5)  # type: ignore[union-attr]
        return tower

    student = {"model": "small", "checkpoint": checkpoint}
    config = aced.make_config(
        keys(tmp_path, data={}, method={"name": "iid", "loss": loss}, student=student, reference={}, eval={}, run={})
    )
    notes = [note for note in make_student(config).notes if "-7.5" in note and "method.loss" in note]
    assert len(notes) == told


def test_built_in_trackers_stay() -> None:
    with pytest.raises(AcedError, match="wandb"):
        aced.register_tracker("wandb")
