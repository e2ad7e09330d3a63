"""What a checkpoint holds of the optimiser and the weights, against a writer by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aced.config import Config
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.train.run.checkpoint import load_checkpoint, save_checkpoint
from aced.train.step import Trainer
from aced.train.watch import Metrics
from run_fakes import run_config, take, trainer_of


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(400, 1)


def by_number(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The optimiser's state as version 0.1 wrote it: torch's own state dict, flat."""
    state = trainer.optimizer.state_dict()["state"]
    return {f"optimizer.{number}.{field}": value for number, held in state.items() for field, value in held.items()}


def saved(trainer: Trainer, config: Config, folder: Path) -> Path:
    return save_checkpoint(folder, trainer, Metrics(folder / "metrics.jsonl", None, 1), config)


def test_a_checkpoint_that_an_earlier_version_wrote_goes_on_to_the_bit(
    pool: Scenes, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path / "run", "fm-kd", trained, train__steps=6)
    trainer = trainer_of(config, pool)
    take(trainer, config, pool, 2)
    before = {key: value.clone() for key, value in by_number(trainer).items()}
    path = saved(trainer, config, tmp_path / "checkpoints")
    file = path / "train.safetensors"
    content = load_file(file)
    of_optimizer = {key: value for key, value in content.items() if key.startswith("optimizer.")}
    assert of_optimizer.keys() == before.keys()
    assert all(torch.equal(of_optimizer[key], before[key]) for key in before)
    # The file as it was written earlier, name by name, read by today's code.
    save_file({key: value for key, value in content.items() if key not in before} | before, file)
    again = trainer_of(config, pool)
    load_checkpoint(path, again, Metrics(tmp_path / "metrics.jsonl", None, 1), config)
    assert all(torch.equal(value, before[key]) for key, value in by_number(again).items())
    for one in (trainer, again):
        take(one, config, pool, 2)
    weights = again.student.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in trainer.student.state_dict().items())


def test_a_new_optimizer_is_saved_without_a_step(pool: Scenes, tmp_path: Path) -> None:
    config = run_config(tmp_path / "run")
    trainer = trainer_of(config, pool)
    path = saved(trainer, config, tmp_path / "checkpoints")
    assert not [key for key in load_file(path / "train.safetensors") if key.startswith("optimizer.")]
    assert not trainer.optimizer.state


def test_a_parameter_that_was_never_trained_has_no_state(pool: Scenes, tmp_path: Path) -> None:
    config = run_config(tmp_path / "run")
    trainer = trainer_of(config, pool)
    take(trainer, config, pool, 1)
    first = trainer.optimizer.param_groups[0]["params"][0]
    del trainer.optimizer.state[first]
    path = saved(trainer, config, tmp_path / "checkpoints")
    again = trainer_of(config, pool)
    load_checkpoint(path, again, Metrics(tmp_path / "metrics.jsonl", None, 1), config)
    assert by_number(again).keys() == by_number(trainer).keys()
    assert "optimizer.0.step" not in by_number(again)


def test_weights_that_a_checkpoint_lacks_are_damage(pool: Scenes, tmp_path: Path) -> None:
    config = run_config(tmp_path / "run")
    trainer = trainer_of(config, pool)
    take(trainer, config, pool, 1)
    path = saved(trainer, config, tmp_path / "checkpoints")
    file = path / "model" / "model.safetensors"
    weights = load_file(file)
    lost = sorted(weights)[0]
    save_file({key: value for key, value in weights.items() if key != lost}, file)
    with pytest.raises(AcedError, match="step-00000001 is damaged"):
        load_checkpoint(path, trainer_of(config, pool), Metrics(tmp_path / "metrics.jsonl", None, 1), config)
