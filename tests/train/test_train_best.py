"""`run.keep_best`: which model is kept, also by a run that is stopped and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from aced.config import Config
from aced.errors import AcedError
from aced.evaluate.tasks import TaskResult
from aced.evaluate.zeroshot import Scores
from aced.lab.scenes import Scenes, make_pool
from aced.models import load_tower
from aced.runtime.progress import Bars
from aced.train.best import best_model, keep_best
from aced.train.run import run_scores
from aced.train.run.fit import fit
from aced.train.run.student import make_student
from run_fakes import inputs_of, quiet, run_config, stopping_at

STEPS = 8


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(400, 1)


def run(config: Config, pool: Scenes, bars: Bars | None = None, **how: Any) -> None:
    fit(config, inputs_of(config, pool), make_student(config), bars or quiet(), **how)


def scored(monkeypatch: pytest.MonkeyPatch, averages: dict[int, float]) -> None:
    """Evaluations that give these averages, in percent, in the order in which they are asked for."""

    def result(value: float) -> Scores:
        return Scores({"task": TaskResult(value=value / 100, chance=0.1, n=10, metric="acc1")})

    asked = iter(averages.values())

    def evaluate(*_: Any, **__: Any) -> Scores:
        return result(next(asked))

    monkeypatch.setattr(run_scores, "score_all", evaluate)


KEEPING: dict[str, Any] = {"run__keep_best": True, "run__checkpoint_every": 4, "eval__every": 2, "train__steps": STEPS}


@pytest.mark.parametrize(
    ("averages", "best"),
    [
        ({2: 20.0, 4: 30.0, 6: 30.0, 8: 25.0}, 4),
        ({2: 20.0, 4: 10.0, 6: 15.0, 8: 18.0}, 2),
        ({2: 20.0, 4: 10.0, 6: 15.0, 8: 20.5}, 8),
    ],
)
def test_the_best_model_is_kept(
    averages: dict[int, float], best: int, pool: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, averages)
    run(run_config(tmp_path / "run", **KEEPING, run__keep=9), pool)
    (found,) = (tmp_path / "run/best").iterdir()
    assert found.name == f"step-{best:08d}"
    scores = json.loads((found / "scores.json").read_text())
    assert (scores["step"], round(scores["average"], 6)) == (best, averages[best])
    if best == 4:
        saved = tmp_path / "run/checkpoints/step-00000004/model/model.safetensors"
        assert (found / "model.safetensors").read_bytes() == saved.read_bytes()
    load_tower(str(found))


@pytest.mark.parametrize(("stop", "again"), [(3, {2: 20.0, 4: 30.0}), (6, {6: 10.0}), (7, {6: 10.0})])
def test_the_best_model_survives_a_resume(
    stop: int, again: dict[int, float], pool: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, {2: 20.0, 4: 30.0, 6: 10.0})
    with pytest.raises(KeyboardInterrupt):
        run(run_config(tmp_path / "run", **KEEPING), pool, stopping_at(stop))
    scored(monkeypatch, again | ({6: 10.0} if stop == 3 else {}) | {8: 25.0})
    run(run_config(tmp_path / "run", **KEEPING), pool, resume=True)
    assert [p.name for p in (tmp_path / "run/best").iterdir()] == ["step-00000004"]


def test_averages_over_other_tasks_are_not_compared(tmp_path: Path) -> None:
    student, folder = make_student(run_config(tmp_path)), tmp_path / "best"

    def note(task: str, value: float, step: int) -> None:
        keep_best(folder, student, Scores({task: TaskResult(value=value, chance=0.1, n=10, metric="acc1")}), step)

    assert best_model(folder) is None
    note("a", 0.9, 1)
    note("b", 0.2, 2)
    found = best_model(folder)
    assert found is not None
    assert (found[0].name, found[1]["step"]) == ("step-00000002", 2)
    # A kill after a new best and before the older one's end leaves two; the next evaluation clears up.
    shutil.copytree(folder / "step-00000002", folder / "step-00000001")
    note("b", 0.2, 3)
    assert len(list(folder.iterdir())) == 1
    damaged = next(folder.iterdir())
    (damaged / "scores.json").write_text("{}")
    with pytest.raises(AcedError, match=r"scores\.json .*damaged \(KeyError\)"):
        note("b", 0.3, 4)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({}, "eval.every"),
        ({"eval__every": 5, "data__shards": ["pool"]}, "eval.every.*eval.tasks"),
    ],
)
def test_a_best_model_of_nothing_is_refused(keys: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(AcedError, match=what):
        run_config(tmp_path, run__keep_best=True, **keys)
