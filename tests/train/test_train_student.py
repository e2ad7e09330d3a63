"""What a student starts from, and that a run goes on with no other one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from aced.config import Config, make_config
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.models import load_tower, save_tower
from aced.models.recipes import find_recipe
from aced.train.run.checkpoint import latest_checkpoint, load_checkpoint
from aced.train.run.fit import fit
from aced.train.run.frozen import load_frozen
from aced.train.run.inputs import Inputs
from aced.train.run.student import check_student, make_student
from run_fakes import quiet
from wording import tells

SMALL: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 450, "width": 8, "heads": 1, "layers": 1},
}
AVERAGE = {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "pool_type": "avg"}}


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(120, 1)


def config_of(folder: Path, model: str = "", loss: str = "sigmoid", **student: str) -> Config:
    return make_config(
        {
            "run": {"out": str(folder / "run"), "threads": 1, "checkpoint_every": 2},
            "data": {"scenes_size": 120},
            "method": {"name": "iid", "loss": loss},
            "student": {"model": model or str(folder / "s.json"), **student},
            "train": {"batch": 8, "steps": 4},
        }
    )


def write(folder: Path, config: dict[str, Any]) -> None:
    (folder / "s.json").write_text(json.dumps(config))


def bias_of(tower: Any) -> float | None:
    value = tower.model.state_dict().get("logit_bias")
    return None if value is None else float(value)


def scale_of(tower: Any) -> float:
    return float(tower.model.state_dict()["logit_scale"])


# -- the logit bias ----------------------------------------------------------------------------------------------


def test_random_weights_get_siglips_first_values_for_the_sigmoid_loss(tmp_path: Path) -> None:
    write(tmp_path, SMALL)
    student = make_student(config_of(tmp_path))
    assert bias_of(student) == -10
    assert scale_of(student) == pytest.approx(math.log(10))
    (note,) = [note for note in student.notes if "init_logit_bias" in note]
    assert "init_logit_scale" in note
    plain = load_tower(tmp_path / "s.json", seed=0).model.state_dict()
    own = student.model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in plain.items() if key != "logit_scale")


@pytest.mark.parametrize(
    ("named", "loss", "bias", "scale"),
    [
        ({}, "softmax", None, math.log(1 / 0.07)),
        ({"init_logit_bias": -3}, "sigmoid", -3, math.log(1 / 0.07)),
        ({"init_logit_bias": 0}, "sigmoid", 0, math.log(1 / 0.07)),
        ({"init_logit_scale": 1.5}, "sigmoid", -10, 1.5),
        ({"init_logit_bias": None}, "sigmoid", -10, math.log(10)),
    ],
)
def test_what_the_config_names_stays(
    named: dict[str, Any], loss: str, bias: float | None, scale: float, tmp_path: Path
) -> None:
    write(tmp_path, {**SMALL, **named})
    student = make_student(config_of(tmp_path, loss=loss))
    assert bias_of(student) == bias
    assert scale_of(student) == pytest.approx(scale)


def test_the_packaged_models_name_theirs(tmp_path: Path) -> None:
    for model in ("aced-demo-s", "aced-demo-m", "aced-demo-l", "aced-photo-xs", "aced-photo-s64", "aced-photo-m"):
        student = make_student(config_of(tmp_path, model))
        assert not student.notes
        assert student.config == load_tower(model, seed=0).config


@pytest.mark.parametrize("named", [{}, {"init_logit_bias": -3}])
@pytest.mark.parametrize("form", ["file", "folder"])
def test_trained_weights_without_a_bias_get_one_for_the_sigmoid_loss(
    form: str, named: dict[str, float], tmp_path: Path
) -> None:
    write(tmp_path, SMALL)
    trained = load_tower(tmp_path / "s.json", seed=3)
    state = trained.model.state_dict()
    torch.save(state, tmp_path / "w.pt")
    save_tower(trained, tmp_path / "m")
    write(tmp_path, SMALL | named)
    which = {"model": str(tmp_path / "m")} if form == "folder" else {"checkpoint": str(tmp_path / "w.pt")}
    student = make_student(config_of(tmp_path, **which))
    assert bias_of(student) == (named.get("init_logit_bias", -10) if form == "file" else -10)
    assert scale_of(student) == pytest.approx(math.log(10))
    own = student.model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items() if key != "logit_scale")
    assert sum("logit_bias" in note for note in student.notes) == 1
    save_tower(student, tmp_path / "again")
    assert load_tower(tmp_path / "again").fingerprint() == student.fingerprint()
    softmax = make_student(config_of(tmp_path, loss="softmax", **which))
    assert scale_of(softmax) == scale_of(trained)
    assert bias_of(softmax) == (0 if named and form == "file" else None)


@pytest.mark.parametrize(
    ("bias", "loss", "method", "told"),
    [
        (-7.5, "softmax", "iid", 1),
        (-7.5, "softmax", "drrho", 1),
        (-7.5, "softmax", "kd-only", 0),  # no loss that could use it
        (-7.5, "sigmoid", "iid", 0),
        (0.0, "softmax", "iid", 0),
        (None, "softmax", "iid", 0),
    ],
)
def test_a_trained_bias_that_the_loss_ignores_is_reported(
    bias: float | None, loss: str, method: str, told: int, tmp_path: Path
) -> None:
    write(tmp_path, SMALL if bias is None else SMALL | {"init_logit_bias": -10.0})
    fresh = load_tower(tmp_path / "s.json", seed=3)
    if bias is not None:
        with torch.no_grad():
            fresh.model.logit_bias.fill_(bias)  # type: ignore[union-attr]
    save_tower(fresh, tmp_path / "m")
    config = config_of(tmp_path, str(tmp_path / "m"), loss)
    config = config.model_copy(update={"method": config.method.model_copy(update={"name": method})})
    marks = f"student.model … {tmp_path / 'm'} … -7.5 … method.loss=sigmoid"
    assert sum(tells(note, marks) for note in make_student(config).notes) == told
    # Weights that are not trained have learned no bias that could be lost.
    assert not make_student(config_of(tmp_path, loss="softmax")).notes


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_bias_that_training_has_left_is_not_reported(loss: str, tmp_path: Path, pool: Scenes) -> None:
    """A student of the softmax loss still has its first bias, and goes on with that loss as it was trained."""
    write(tmp_path, SMALL | {"init_logit_bias": -10.1})  # no float32
    config = config_of(tmp_path, loss=loss)
    fit(config, Inputs(pool, []), make_student(config), quiet())
    notes = make_student(config_of(tmp_path, str(tmp_path / "run/model"), "softmax")).notes
    assert any("method.loss=sigmoid" in note for note in notes) == (loss == "sigmoid")


def test_a_run_keeps_its_bias(tmp_path: Path, pool: Scenes) -> None:
    write(tmp_path, SMALL)
    config = config_of(tmp_path)
    trained = fit(config, Inputs(pool, []), make_student(config), quiet()).student
    folder = tmp_path / "run" / "model"
    assert bias_of(load_tower(folder)) == bias_of(trained) != -10  # it learns
    assert bias_of(make_student(config_of(tmp_path, str(folder)))) == bias_of(trained)
    again = make_student(config, latest_checkpoint(tmp_path / "run" / "checkpoints"))
    assert bias_of(again) == -10


def test_a_run_that_began_without_a_bias_goes_on_without(tmp_path: Path, pool: Scenes) -> None:
    """As runs did before the sigmoid loss brought one."""
    write(tmp_path, SMALL)
    config = config_of(tmp_path)
    old = load_tower(tmp_path / "s.json", seed=config.run.seed)
    whole = fit(config, Inputs(pool, []), old, quiet()).student.model.state_dict()
    newest = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None
    for file in sorted((tmp_path / "run").rglob("*"), reverse=True):
        if newest in (file, *file.parents) or file.name == "results.json":
            file.rmdir() if file.is_dir() else file.unlink()
    student = make_student(config, latest_checkpoint(tmp_path / "run" / "checkpoints"))
    assert bias_of(student) is None
    fitted = fit(config, Inputs(pool, []), student, quiet(), resume=True)
    assert fitted.ledger.samples_trained == 32
    assert all(torch.equal(whole[key], value) for key, value in fitted.student.model.state_dict().items())


# -- another student ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, pool: Scenes) -> Path:
    folder = tmp_path_factory.mktemp("before")
    write(folder, SMALL)
    config = config_of(folder)
    fit(config, Inputs(pool, []), make_student(config), quiet())
    found = latest_checkpoint(folder / "run" / "checkpoints")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (AVERAGE, "vision_cfg.pool_type"),
        ({**SMALL, "quick_gelu": True}, "quick_gelu"),
        ({**SMALL, "text_cfg": {**SMALL["text_cfg"], "heads": 2}}, "text_cfg.heads"),
        ({**SMALL, "text_cfg": {**SMALL["text_cfg"], "no_causal_mask": True}}, "no_causal_mask"),
        ({**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "patch_dropout": 0.5}}, "patch_dropout"),
        ({**SMALL, "embed_dim": 16}, "embed_dim"),
        ({"model_cfg": SMALL, "preprocess_cfg": {"mean": [0.5] * 3}}, "preprocess_cfg.mean"),
        ({"model_cfg": SMALL, "preprocess_cfg": {"resize_mode": "squash"}}, "preprocess_cfg.resize_mode"),
    ],
)
@pytest.mark.parametrize("form", [1, 2])
def test_another_student_is_refused(
    form: int, other: dict[str, Any], words: str, checkpoint: Path, tmp_path: Path
) -> None:
    file = checkpoint / "model" / "tower.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps({**description, "format": form}))  # checkpoints of older versions too
    write(tmp_path, other)
    with pytest.raises(AcedError, match=words) as caught:
        make_student(config_of(tmp_path), checkpoint)
    assert str(checkpoint) in str(caught.value)


def test_another_tokenizer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    write(tmp_path, SMALL)
    words = (Path(checkpoint) / "model" / "vocabulary.txt").read_text().split()
    (tmp_path / "s-vocab.txt").write_text("\n".join([words[1], words[0], *words[2:]]))
    with pytest.raises(AcedError, match="tokenizer"):
        make_student(config_of(tmp_path), checkpoint)


@pytest.mark.parametrize(
    "same",
    [
        SMALL,
        dict(reversed(SMALL.items())),
        {**SMALL, "quick_gelu": False, "init_logit_bias": -10, "init_logit_scale": 1.0},
        {"model_cfg": SMALL, "preprocess_cfg": {"resize_mode": "shortest"}},
        {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "pool_type": "tok", "mlp_ratio": 4}},
    ],
)
def test_another_spelling_of_the_same_student_goes_on(same: dict[str, Any], checkpoint: Path, tmp_path: Path) -> None:
    write(tmp_path, same)
    student = make_student(config_of(tmp_path), checkpoint)
    check_student(checkpoint, student)
    assert bias_of(student) == -10


def test_a_checkpoint_is_not_loaded_into_another_student(checkpoint: Path, tmp_path: Path, pool: Scenes) -> None:
    """Also where the student was built by other hands than `make_student`."""
    from aced.train.run.fit import make_trainer
    from aced.train.watch import Metrics

    write(tmp_path, AVERAGE)
    config = config_of(tmp_path)
    trainer = make_trainer(config, Inputs(pool, []), make_student(config))
    metrics = Metrics(tmp_path / "m.jsonl", pool.kinds, 1)
    with pytest.raises(AcedError, match=r"pool_type|student\.model"):
        load_checkpoint(checkpoint, trainer, metrics, config_like(checkpoint, config))


def config_like(checkpoint: Path, config: Config) -> Config:
    """The config that a checkpoint notes, so that nothing but the student differs."""
    saved = json.loads((checkpoint / "train.json").read_text())["config"]
    return make_config(saved)


@pytest.mark.parametrize("quick", [False, True])
def test_a_name_goes_on_as_it_was_meant_when_the_run_began(
    quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of before the agreement of pretrained weights was taken has open_clip's defaults in its checkpoint."""
    from aced.models import import_open_clip, recipes

    config: dict[str, Any] = {**SMALL, "init_logit_bias": -10}
    monkeypatch.setattr(import_open_clip(), "get_model_config", lambda name: json.loads(json.dumps(config)))
    run = config_of(tmp_path, "its-name")
    old = make_student(run)
    save_tower(old, tmp_path / "step-1" / "model")
    monkeypatch.setattr(recipes, "agreed_pixels", lambda name: {"mean": [0.5] * 3, "resize_mode": "squash"})
    monkeypatch.setattr(recipes, "agreed_quick_gelu", lambda name: quick)
    new = make_student(run)
    assert (new.view.mode, new.config.get("quick_gelu")) == ("squash", quick or None)
    assert new.notes
    resumed = make_student(run, tmp_path / "step-1")
    assert (resumed.preprocess, resumed.config) == (old.preprocess, old.config)
    save_tower(new, tmp_path / "step-2" / "model")
    resumed = make_student(run, tmp_path / "step-2")
    assert (resumed.preprocess, resumed.config) == (new.preprocess, new.config)


# -- no weights where some are expected --------------------------------------------------------------------------


def test_a_hub_folder_without_weights(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**SMALL, "init_logit_bias": -10}}))
    student = make_student(config_of(tmp_path, str(hub)))
    assert any("weights" in note and str(hub) in note for note in student.notes)
    assert not find_recipe(hub).trained
    for section in ("reference", "teacher"):
        values = config_of(tmp_path).model_dump()
        config = make_config(
            {**values, "method": {"name": "fm-kd"}, "reference": {"model": str(hub)}, "teacher": {"model": str(hub)}}
        )
        with pytest.raises(AcedError, match=rf"{section}\.model.*weights"):
            load_frozen(section, config)
    (hub / "odd_name.safetensors").write_bytes(b"x")
    for ask in (make_student, lambda config: load_frozen("reference", config)):
        config = make_config(
            {
                **config_of(tmp_path, str(hub)).model_dump(),
                "reference": {"model": str(hub)},
                "method": {"name": "i-acid"},
            }
        )
        with pytest.raises(AcedError, match="odd_name"):
            ask(config)
