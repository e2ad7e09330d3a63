"""The reference that comes with the package: whole, as good as the one that it was made from, and made by the demo."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from aced.errors import AcedError
from aced.evaluate.zeroshot import score_all
from aced.lab.demo.packaged_reference import FOLDER, RECORD, WEIGHTS, Training, keep_reference, load_kept
from aced.lab.demo.rows import FULL, REFERENCE
from aced.lab.scenes import make_tasks
from aced.models import load_tower
from wording import tells

FINGERPRINT = "0000000000000000"
SPREAD = 0.5
"""Points: a fifth of the standard deviation that the table's rows have over seeds."""


def test_it_is_the_one_that_was_packaged() -> None:
    tower, training = load_kept()
    assert tower.fingerprint() == FINGERPRINT
    assert tower.name == training.model == REFERENCE
    assert training.steps == FULL.reference_steps
    assert not tower.model.training
    assert not any(parameter.requires_grad for parameter in tower.model.parameters())


def test_its_weights_are_half_the_size() -> None:
    tower, _ = load_kept()
    single = sum(tensor.numel() * tensor.element_size() for tensor in tower.model.state_dict().values())
    assert (FOLDER / WEIGHTS).stat().st_size < 0.55 * single
    assert all(tensor.dtype != torch.float16 for tensor in tower.model.state_dict().values())


def test_it_scores_what_the_trained_one_scored() -> None:
    tower, training = load_kept()
    average = score_all(tower, make_tasks(training.split)).average
    assert average == pytest.approx(training.average, abs=SPREAD)


def test_the_record_says_what_training_cost_and_where() -> None:
    _, training = load_kept()
    assert training.seconds > 60
    # A step is a forward and a backward pass over a batch, and the backward pass counts twice a forward pass.
    forward = load_tower(REFERENCE).forward_flops(["a red circle"])
    assert training.flops == pytest.approx(3 * 64 * training.steps * forward, rel=0.1)
    assert {"cpu", "threads", "torch", "date"} <= set(training.environment)
    assert str(training.environment["cpu"]) in training.machine


def record(**changes: object) -> Training:
    fields = {"model": "aced-demo-s", "steps": 3, "split": "test", "average": 12.5, "seconds": 1.5, "flops": 1e9}
    return Training.model_validate(fields | {"environment": {"cpu": "some processor", "threads": 1}} | changes)


def test_what_is_kept_is_loaded_as_it_was_to_half_precision(tmp_path: Path) -> None:
    tower = load_tower("aced-demo-s", seed=3)
    keep_reference(tower, record(), tmp_path / "kept")
    loaded, training = load_kept(tmp_path / "kept")
    assert training == record()
    for name, tensor in tower.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor.half().to(tensor.dtype)), name


def test_keeping_again_replaces_both_files(tmp_path: Path) -> None:
    for seed in (0, 1):
        keep_reference(load_tower("aced-demo-s", seed=seed), record(steps=seed), tmp_path)
    loaded, training = load_kept(tmp_path)
    expected = load_tower("aced-demo-s", seed=1).model.state_dict()["logit_scale"].half().float()
    assert training.steps == 1
    assert math.isclose(float(loaded.model.state_dict()["logit_scale"]), float(expected))
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, RECORD}


@pytest.mark.parametrize("content", [None, "{", "{}", '{"model": 3}'])
def test_a_missing_or_damaged_record_is_named(content: str | None, tmp_path: Path) -> None:
    keep_reference(load_tower("aced-demo-s", seed=0), record(), tmp_path)
    (tmp_path / RECORD).unlink()
    if content is not None:
        (tmp_path / RECORD).write_text(content, encoding="utf-8")
    with pytest.raises(AcedError) as raised:
        load_kept(tmp_path)
    assert tells(str(raised.value), f"{tmp_path / RECORD} … --train-reference")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    keep_reference(load_tower("aced-demo-s", seed=0), record(), tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(AcedError, match=WEIGHTS):
        load_kept(tmp_path)
