"""What a run needs from outside: put together from a config, with every mixture of views, caches and models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aced.config import Config, make_config
from aced.errors import AcedError
from aced.models import load_tower, save_tower
from aced.pool.inmemory import InMemory
from aced.pool.shards import Shards
from aced.pool.views import View
from aced.train.providers import Cached, Live
from aced.train.run.automatic import device_of
from aced.train.run.fit import fit
from aced.train.run.frozen import load_frozen, without_bias, without_difference
from aced.train.run.inputs import Inputs, make_inputs
from aced.train.run.student import make_student
from run_fakes import quiet, run_config, write_pairs
from wording import tells

PLAIN: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 48, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tars, and the folder of a model that sees 48 pixels where the student sees 32."""
    folder = tmp_path_factory.mktemp("inputs")
    write_pairs(folder / "pool/0.tar", range(60))
    write_pairs(folder / "pool/1.tar", range(60, 100), bad=[70])
    (folder / "plain.json").write_text(json.dumps(PLAIN))
    save_tower(load_tower(folder / "plain.json", seed=1), folder / "plain")
    return folder


def config_of(place: Path, out: Path, **keys: dict[str, Any]) -> Config:
    values: dict[str, dict[str, Any]] = {
        "run": {"out": str(out), "threads": 1},
        "data": {"shards": [str(place / "pool")], "max_bad_share": 0.1},
        "reference": {"model": str(place / "plain")},
        "method": {"name": "aced"},
        "train": {"batch": 8, "steps": 3},
    }
    for name, section in keys.items():
        values[name] = values.get(name, {}) | section
    return make_config(values)


def run(config: Config) -> Inputs:
    """Make the inputs and train with them."""
    student = make_student(config)
    inputs = make_inputs(config, student, quiet())
    fitted = fit(config, inputs, student, quiet())
    assert fitted.ledger.samples_trained + sum(fitted.faults.counts.values()) >= 3 * config.train.batch
    return inputs


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("cache", [False, True])
def test_a_reference_with_a_view_of_its_own(in_memory: bool, cache: bool, place: Path, tmp_path: Path) -> None:
    reference = {"cache": str(tmp_path / "cache")} if cache else {}
    inputs = run(config_of(place, tmp_path / "run", data={"in_memory": in_memory}, reference=reference))
    assert isinstance(inputs.source, InMemory if in_memory else Shards)
    if isinstance(inputs.source, InMemory):  # what every step needs, and no more: a cache is made once
        assert set(inputs.source._images) == ({View(32)} if cache else {View(32), View(48)})
    assert isinstance(inputs.reference, Cached if cache else Live)
    assert inputs.teachers == [inputs.reference]
    assert inputs.reference.views == (() if cache else (View(48),))
    assert inputs.tasks == []


def test_results_do_not_depend_on_where_images_and_embeddings_are(place: Path, tmp_path: Path) -> None:
    weights = {}
    for name, memory in (("disk", False), ("memory", True)):
        run(config_of(place, tmp_path / name, data={"in_memory": memory}))
        weights[name] = (tmp_path / name / "model/model.safetensors").read_bytes()
    assert weights["disk"] == weights["memory"]


def test_a_teacher_of_its_own(place: Path, tmp_path: Path, trained: dict[str, Path]) -> None:
    teacher = {"model": str(trained["large"]), "cache": str(tmp_path / "cache")}
    inputs = run(config_of(place, tmp_path / "run", teacher=teacher))
    assert isinstance(inputs.reference, Live)
    assert [type(provider) for provider in inputs.teachers] == [Cached]
    assert (inputs.reference.width, inputs.teachers[0].width) == (24, 96)
    assert len(list((tmp_path / "cache/embeddings").iterdir())) == 1


def test_a_teacher_alone_is_enough_for_distillation(place: Path, tmp_path: Path, trained: dict[str, Path]) -> None:
    config = config_of(
        place,
        tmp_path,
        method={"name": "softmax-kd"},
        reference={"model": ""},
        teacher={"model": str(trained["large"])},
    )
    inputs = run(config)
    assert inputs.reference is None
    assert isinstance(inputs.teachers[0], Live)


@pytest.mark.parametrize(
    ("name", "reference", "teachers"), [("iid", False, 0), ("i-acid", True, 0), ("fm-kd", False, 1)]
)
def test_a_method_gets_what_it_needs_and_no_more(
    name: str, reference: bool, teachers: int, place: Path, tmp_path: Path
) -> None:
    inputs = run(config_of(place, tmp_path, method={"name": name}))
    assert (inputs.reference is not None) == reference
    assert len(inputs.teachers) == teachers


def test_a_plain_open_clip_student_from_a_checkpoint(place: Path, tmp_path: Path) -> None:
    keys = {"model": str(place / "plain.json"), "checkpoint": str(place / "plain/model.safetensors")}
    config = config_of(place, tmp_path, student=keys, method={"name": "iid", "loss": "softmax"})
    student = make_student(config)
    assert student.fingerprint() == load_tower(place / "plain").fingerprint()
    assert not any(p.requires_grad for p in load_frozen("reference", config).parameters())
    run(config)


def test_one_seed_gives_one_student(place: Path, tmp_path: Path) -> None:
    marks = [make_student(run_config(tmp_path, run__seed=seed)).fingerprint() for seed in (0, 0, 1)]
    assert marks[0] == marks[1] != marks[2]


def test_too_large_a_super_batch_is_told_before_anything_is_embedded(place: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"reference": {"cache": str(tmp_path / "cache")}, "method": {"filtering_ratio": 0.95}}
    config = config_of(place, tmp_path / "run", **keys)
    with pytest.raises(AcedError, match="super-batch of 160"):
        make_inputs(config, make_student(config), quiet())
    assert not (tmp_path / "cache").exists()


def test_devices(tmp_path: Path) -> None:
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    assert device_of(run_config(tmp_path)).type == auto
    assert device_of(run_config(tmp_path, run__device="cpu")) == torch.device("cpu")
    for name in ("gpu", "cuda:99", "", "meta:x"):
        with pytest.raises(AcedError, match=f"^run.device = '{name}'.*'auto'"):
            device_of(run_config(tmp_path, run__device=name))


@pytest.mark.parametrize(
    ("method", "loss", "bias", "told"),
    [
        ("h-acid", "sigmoid", False, True),
        ("h-acid", "softmax", False, False),
        ("h-acid", "sigmoid", True, False),
        ("softmax-kd", "sigmoid", False, False),
    ],
)
def test_a_reference_without_bias_that_scores_by_the_sigmoid_loss_is_reported(
    method: str, loss: str, bias: bool, told: bool, trained: dict[str, Path], tmp_path: Path
) -> None:
    config = run_config(tmp_path, method, trained, method__loss=loss)
    tower = load_tower(trained["large"])
    if not bias:
        tower.model.logit_bias = None
    text = without_bias({"reference": tower}, config)
    assert (text is not None) == told
    assert text is None or tells(text, f"{tower.name} … method.loss=softmax")


@pytest.mark.parametrize(
    ("method", "change", "told"),
    [
        ("h-acid", "", True),
        ("aced", "", True),
        ("i-acid", "", False),  # it asks the reference alone
        ("softmax-kd", "", False),
        ("h-acid", "weight", False),
        ("h-acid", "logit_scale", False),
        ("h-acid", "architecture", False),
        ("h-acid", "since", False),  # the student has changed before anything is chosen
    ],
)
def test_a_reference_that_is_the_student_itself_is_reported(
    method: str, change: str, told: bool, trained: dict[str, Path], tmp_path: Path
) -> None:
    own = trained["large" if change == "architecture" else "peer"]
    models = {"reference__model": str(trained["peer"]), "student__model": str(own)}
    config = run_config(tmp_path, method, trained, **models, method__since=0.25 * (change == "since"))
    student, reference = make_student(config), load_tower(trained["peer"])
    if change in ("weight", "logit_scale"):
        name = change if change == "logit_scale" else next(iter(reference.model.state_dict()))
        with torch.no_grad():
            reference.model.state_dict()[name].add_(0.1)
    text = without_difference({"reference": reference}, student, config)
    assert (text is not None) == told
    assert text is None or tells(text, f"reference.model … {trained['peer']}")
    # The two embed alike exactly if they are told to be the same.
    alike = torch.equal(student.embed_text(["a red circle"]), reference.embed_text(["a red circle"]))
    assert told <= (alike and student.scale_and_bias() == reference.scale_and_bias())
