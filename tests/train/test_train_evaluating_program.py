"""`aced train` under torchrun evaluates by all its processes; the scores are those of the model in one process."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launch import Job, torchrun

from aced.config import dump_config
from aced.evaluate.task_embedder import TaskEmbedder
from aced.evaluate.task_folders import find_task_folders, load_task_folder
from aced.evaluate.zeroshot import Scores, score_all
from aced.models import load_tower
from run_fakes import lines_of, run_config
from wording import tells

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))

from task_fakes import BROKEN, COUNT, LOST, members, noise, texts, write_task

pytestmark = pytest.mark.slow

MICRO_BATCH, STEPS = 7, 4


@dataclass
class Runs:
    """Runs in folders of their own, evaluated on the same tasks."""

    place: Path

    def __call__(self, name: str, *words: str, mode: str = "none", resume: bool = False, **keys: Any) -> Job:
        keys = {
            "eval__tasks": [str(self.place / "tasks")],
            "eval__every": 2,
            "run__checkpoint_every": 2,
            "run__keep_best": True,
            "train__steps": STEPS,
            "train__micro_batch": MICRO_BATCH,
            "data__workers": 1,
            **keys,
        }
        file = self.place / f"{name}.toml"
        file.write_text(dump_config(run_config(self.place / name, "iid", **keys)))
        more = ["--resume"] if resume else []
        return torchrun("evaluating_program.py", 2, mode, 1, "train", file, *more, *words)

    def expected(self, model: Path) -> Scores:
        tower = load_tower(model)
        tasks = [task for path in find_task_folders([self.place / "tasks"]) for task in load_task_folder(path)]
        return score_all(tower, tasks, TaskEmbedder(tower, MICRO_BATCH))

    def evaluations(self, name: str) -> list[dict[str, Any]]:
        """Those on the way, and the last."""
        (row,) = json.loads((self.place / name / "results.json").read_text())["rows"]
        return [*lines_of(self.place / name / "evals.jsonl"), row]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    place, draw = tmp_path_factory.mktemp("runs"), np.random.default_rng(3)
    content = [BROKEN if i in LOST else noise(draw) for i in range(COUNT)]
    for kind in ("classification", "retrieval", "selection"):
        folder = place / "tasks" / f"wds_{kind}"
        write_task(folder, members(kind, content, set(range(COUNT))), **texts(kind))
    return Runs(place)


@pytest.fixture(scope="module")
def signalled(runs: Runs) -> Job:
    """Cut short in its first evaluation, with a sharded student."""
    return runs("run", mode="signal", run__parallel="fsdp")


def test_a_signal_for_one_rank_cuts_the_evaluation_of_all_short(signalled: Job, runs: Runs) -> None:
    assert signalled.status != 0
    assert tells(signalled.output, "aced: … SIGUSR1 … step 2 of 4")
    assert signalled.output.count("aced: ") == 1
    assert not (runs.place / "run/evals.jsonl").exists()


def test_scores_are_those_of_one_process_but_of_the_task_whose_decoder_dies(signalled: Job, runs: Runs) -> None:
    """Those of the evaluation that is made up for, and of the last."""
    job = runs("run", mode="crash", resume=True, run__parallel="fsdp")
    assert job.status == 0, job.output[-3000:]
    models = [runs.place / "run/checkpoints/step-00000002/model", runs.place / "run/model"]
    for model, found in zip(models, runs.evaluations("run"), strict=True):
        expected = runs.expected(model)
        assert expected.results.pop("selection").n > 0
        assert list(found["failed"]) == ["selection"]
        assert "status 7" in found["failed"]["selection"]
        assert found["tasks"].keys() == expected.results.keys()
        for name, result in expected.results.items():
            assert found["tasks"][name]["metrics"] == result.metrics
            assert found["tasks"][name]["left_out"] == result.faults.as_json()["left_out"]


def test_a_rank_that_fails_beside_a_task_ends_the_job_with_one_sentence(runs: Runs) -> None:
    job = runs("raised", mode="raise")
    assert job.status != 0
    assert job.output.count("aced: process 1 of 2: The disk of this machine has melted") == 1
    assert job.output.count("aced: ") == 1
