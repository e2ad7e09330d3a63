"""What only a GPU can show; skipped without one. `ACED_TEST_DEVICE=cpu` tries the tests themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from aced.config import Config
from aced.core.embeddings import Embeddings
from aced.core.selection import Score, select
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.methods import METHODS
from aced.train.replica import Replica, UpdateVerdict
from aced.train.run.fit import fit
from aced.train.run.student import make_student
from run_fakes import POOL, inputs_of, quiet, run_config, stopping_at, take, trainer_of

DEVICE = os.environ.get("ACED_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(
    not (DEVICE == "cpu" or torch.cuda.is_available()), reason="needs a GPU that torch can use"
)


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(POOL, 1)


def config_of(out: Path, method: str, trained: dict[str, Path], **keys: Any) -> Config:
    return run_config(out, method, trained, **{"run__device": DEVICE, "train__precision": "fp32", **keys})


@contextmanager
def never_waiting() -> Iterator[None]:
    """Whatever synchronises the host with the GPU inside raises."""
    if DEVICE == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_each_method_waits_for_nothing_and_learns(
    name: str, precision: str, pool: Scenes, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = config_of(tmp_path, name, trained, train__precision=precision, train__steps=9)
    trainer = trainer_of(config, pool, tmp_path / "cache" if METHODS[name].columns else None)
    outcomes = take(trainer, config, pool, 2)  # what is made once is made
    with never_waiting():
        outcomes += take(trainer, config, pool, 1)
    outcomes += take(trainer, config, pool, 3)
    trainer.guard.settle()
    losses = [outcome.parts.loss.item() for outcome in outcomes]
    assert losses[-1] < losses[0] or precision == "fp16"  # its first steps look for a scale
    assert trainer.ledger.budgets()["seconds"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("score", ["learnability", "easy-reference", "hard-student", "diverse"])
def test_a_gpu_chooses_what_a_cpu_chooses(score: Score, loss: Any, dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)

    def unit(width: int) -> Embeddings:
        image, text = normalize(torch.randn(2, 2000, width, generator=draws), dim=2).to(dtype)
        return Embeddings(image, text, 10.0, -5.0)

    student, reference = unit(64), unit(96)
    found = []
    for device in ("cpu", DEVICE):
        generator = torch.Generator().manual_seed(1)
        models = student.to(device), reference.to(device)
        found.append(select(*models, 400, score=score, loss=loss, chunks=8, generator=generator))
    cpu, gpu = found
    torch.testing.assert_close(gpu.scores.cpu(), cpu.scores, rtol=1e-3, atol=1e-4)
    common = set(cpu.indices.tolist()) & set(gpu.indices.tolist())
    assert len(common) >= 396  # two candidates that are near each other may change places


def test_bf16_is_near_fp32(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        config = config_of(tmp_path, "aced", trained, train__precision=precision)
        losses.append(take(trainer_of(config, pool), config, pool, 1)[0].parts.loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_step_is_near_that_of_a_cpu(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    losses = []
    for device in ("cpu", DEVICE):
        config = config_of(tmp_path, "softmax-kd", trained, run__device=device)
        outcomes = take(trainer_of(config, pool), config, pool, 3)
        losses.append([outcome.parts.loss.item() for outcome in outcomes])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("keys", [{}, {"train__grad_cache": 5}, {"scoring__reuse": 4, "scoring__cascade": 0.5}])
def test_a_resumed_run_comes_to_the_same(
    keys: dict[str, Any], pool: Scenes, tmp_path: Path, trained: dict[str, Path]
) -> None:
    for name in ("whole", "halves"):
        config = config_of(tmp_path / name, "aced", trained, train__steps=6, run__checkpoint_every=3, **keys)
        if name == "halves":
            with pytest.raises(KeyboardInterrupt):
                fit(config, inputs_of(config, pool), make_student(config), stopping_at(4))
        fit(config, inputs_of(config, pool), make_student(config), quiet(), resume=name == "halves")
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    for name, value in whole.items():
        # Sums over rows that a GPU adds in any order; what is drawn by chance is the same.
        torch.testing.assert_close(halves[name], value, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_is_noticed_late_and_leaves_the_step_before(
    pool: Scenes, tmp_path: Path, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, calls = Replica.judge, []

    def failing(self: Replica, loss: torch.Tensor, *others: Any) -> UpdateVerdict:
        calls.append(1)
        return judge(self, loss * torch.nan if len(calls) == 4 else loss, *others)

    monkeypatch.setattr(Replica, "judge", failing)
    config = config_of(tmp_path, "aced", trained, train__steps=9, run__log_every=9)
    with pytest.raises(AcedError, match=r"^Step 4: "):
        fit(config, inputs_of(config, pool), make_student(config), quiet())
    assert len(calls) == (4 if DEVICE == "cpu" else 5)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("scope", ["global", "quota", "local"])
def test_two_gpus_train_together(parallel: str, scope: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    words = ["run.device=cuda", f"run.parallel={parallel}", f"method.scope={scope}", f"run.out={tmp_path / 'run'}"]
    words += ["method.name=hard-student", "train.batch=16", "train.steps=4", "data.scenes_size=400"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, "-m", "aced", "train", "scenes", *words], timeout=600, check=False)
    assert done.returncode == 0
    assert (tmp_path / "run" / "model").is_dir()
