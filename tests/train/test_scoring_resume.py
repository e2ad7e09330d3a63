"""With each way of cheap scoring a run that is stopped and resumed is, to the bit, the run that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from test_train_resume import STEPS, interrupted, run, same_run

from aced.config import Config
from aced.lab.scenes import Scenes, make_pool
from run_fakes import run_config

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "cascade": ("aced", {"cascade": 0.4}),
    "cascade-early": ("aced", {"cascade": 0.4, "early": True}),
    "early": ("i-aced", {"early": True}),
    "reuse": ("aced", {"reuse": 4}),
    "predict": ("aced", {"cascade": 0.4, "reuse": 4, "unseen": "predict", "refresh": 0.5}),
    "resolution": ("aced", {"resolution": 16, "coarse_share": 0.5}),
    "history": ("dissect", {}),
    "history-reuse": ("dissect", {"reuse": 4}),
    "all": ("aced", {"cascade": 0.4, "early": True, "reuse": 4, "resolution": 16, "coarse_share": 0.5}),
}


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(400, 1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("option", OPTIONS)
def test_a_resumed_run_is_the_uninterrupted_one(
    option: str, pool: Scenes, cache: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    method, keys = OPTIONS[option]

    def config(out: str, checkpoint_every: int) -> Config:
        scoring = {f"scoring__{name}": value for name, value in keys.items()}
        free = {"run__log_every": 3, "run__checkpoint_every": checkpoint_every, "train__steps": STEPS}
        return run_config(tmp_path / out, method, trained, **scoring, **free)

    run(config("whole", 0), pool, cache)
    interrupted(config("halves", 3), pool, cache, 4)
    tensors = load_file(tmp_path / "halves/checkpoints/step-00000003/train.safetensors")
    held = {name.split(".")[1] for name in tensors if name.startswith("chooser.")}
    names = {"memory": "reuse" in keys, "fit": option == "predict", "history": method == "dissect"}
    assert held == {name for name, there in names.items() if there}
    run(config("halves", 3), pool, cache, resume=True)
    same_run(tmp_path / "whole", tmp_path / "halves")
