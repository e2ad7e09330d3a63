"""Several teachers in a config: what is loaded, what the student is shown, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from aced.config import Config, load_config, make_config
from aced.core import losses
from aced.core.embeddings import Embeddings
from aced.core.selection import select
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.models import load_tower, save_tower
from aced.train.providers import Cached, Live
from aced.train.run.fit import make_trainer
from aced.train.run.frozen import frozen_models, teachers_of
from aced.train.run.inputs import Inputs, make_inputs
from aced.train.run.student import make_student
from run_fakes import POOL, quiet, run_config, take


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(POOL, 1)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two teachers of other widths than each other, each with a logit scale of its own."""
    folders = []
    for name, scale in (("aced-demo-m", 20.0), ("aced-demo-l", 5.0)):
        tower = load_tower(name, seed=3)
        with torch.no_grad():
            tower.model.logit_scale.fill_(math.log(scale))  # type: ignore[operator]
        folders.append(tmp_path_factory.mktemp("taught") / name)
        save_tower(tower, folders[-1])
    return [str(folder) for folder in folders]


def config_of(folder: Path, method: str, taught: list[str], **keys: Any) -> Config:
    return run_config(folder / "run", method, eval__split="validation", **{"teacher__model": taught, **keys})


def inputs_of(config: Config) -> Inputs:
    return make_inputs(config, make_student(config), quiet())


@pytest.mark.parametrize("cached", [False, True])
def test_the_student_is_shown_the_mean_of_the_teachers_probabilities(
    cached: bool, taught: list[str], tmp_path: Path
) -> None:
    keys = {"teacher__cache": str(tmp_path / "cache"), "reference__cache_dtype": "float32"} if cached else {}
    config = config_of(tmp_path, "softmax-kd", taught, **keys)
    inputs = inputs_of(config)
    assert inputs.reference is None
    assert [type(one) for one in inputs.teachers] == [Cached if cached else Live] * 2
    trainer = make_trainer(config, inputs, make_student(config))
    (outcome,) = take(trainer, config, inputs.source, 1)
    batch = outcome.candidates[outcome.rows].tolist()
    towers = [load_tower(one).eval() for one in taught]
    views = [trainer.student.view, *(tower.view for tower in towers)]
    pairs = inputs.source.read(batch, list(dict.fromkeys(views)))
    shown = [tower.score(pairs, 64) for tower in towers]
    assert [round(float(one.scale)) for one in shown] == [20, 5]
    with torch.no_grad():
        student = make_student(config).train().embed(pairs)
    own = Embeddings(student.image, student.text, 10.0, 0.0)
    wanted = _by_hand(own, shown)
    assert outcome.parts.distillation is not None
    assert float(outcome.parts.distillation) == pytest.approx(wanted, rel=1e-4)
    assert float(losses.softmax_kd(own, shown)) == pytest.approx(wanted, rel=1e-5)
    assert float(losses.softmax_kd(own, shown[:1])) != pytest.approx(wanted, rel=1e-3)


def _by_hand(student: Embeddings, teachers: list[Embeddings]) -> float:
    """Cross-entropy with the mean of the teachers' probabilities, over texts and over images."""

    def logits(e: Embeddings) -> torch.Tensor:
        return float(e.scale) * (e.image.double() @ e.text.double().T)

    total = 0.0
    for axis in (0, 1):
        p = torch.stack([logits(teacher).softmax(axis) for teacher in teachers]).mean(0)
        total -= float((p * logits(student).log_softmax(axis)).sum()) / len(student)
    return total / 2


def test_teachers_of_any_width_and_every_distillation(taught: list[str], pool: Scenes, tmp_path: Path) -> None:
    for method, keys in {
        "fm-kd": {},
        "sigmoid-kd": {},
        "columns-kd": {"teacher__cache": str(tmp_path / "cache"), "method__columns": 20},
    }.items():
        config = config_of(tmp_path / method, method, taught, **keys)
        inputs = inputs_of(config)
        trainer = make_trainer(config, inputs, make_student(config))
        outcomes = take(trainer, config, inputs.source, 2)
        assert all(math.isfinite(float(outcome.parts.loss)) for outcome in outcomes)


def test_one_chooses_and_others_teach(taught: list[str], trained: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(tmp_path, "aced", taught, reference__model=str(trained["large"]))
    assert frozen_models(config) == ["reference", "teacher 1", "teacher 2"]
    inputs = inputs_of(config)
    assert inputs.reference not in inputs.teachers
    assert len({one.fingerprint for one in [inputs.reference, *inputs.teachers] if one}) == 3
    trainer = make_trainer(config, inputs, make_student(config))
    take(trainer, config, inputs.source, 1)
    assert {name for name in trainer.marks if name.startswith("teacher")} == {"teacher 1", "teacher 2"}
    assert trainer.ledger.flops["reference"] > 0
    assert trainer.ledger.flops["teacher"] > 0


def test_the_reference_alone_chooses_and_the_teacher_alone_teaches(
    taught: list[str], trained: dict[str, Path], tmp_path: Path
) -> None:
    """The paper's best variant, by public functions: the batch is the reference's, the targets are the teacher's."""
    large = str(trained["large"])
    config = config_of(tmp_path, "aced", taught[:1], reference__model=large, method__temperature=0.0)
    inputs = inputs_of(config)
    trainer = make_trainer(config, inputs, make_student(config))
    (outcome,) = take(trainer, config, inputs.source, 1)
    student, towers = make_student(config).eval(), [load_tower(one).eval() for one in (large, taught[0])]
    views = list(dict.fromkeys(tower.view for tower in (student, *towers)))
    pairs = inputs.source.read(outcome.candidates.tolist(), views)
    own, reference, teacher = (tower.score(pairs, 64) for tower in (student, *towers))
    size, how = config.train.batch, {"loss": config.loss, "chunks": config.method.chunks, "temperature": 0.0}
    wanted, others = (sorted(select(own, one, size, **how).indices.tolist()) for one in (reference, teacher))
    assert sorted(outcome.rows.tolist()) == wanted != others
    rows = outcome.rows
    batch = Embeddings(own.image[rows], own.text[rows], own.scale, own.bias)
    shown = [Embeddings(one.image[rows], one.text[rows], one.scale, 0.0) for one in (teacher, reference)]
    assert outcome.parts.distillation is not None
    assert float(outcome.parts.distillation) == pytest.approx(_by_hand(batch, shown[:1]), rel=1e-4)
    assert float(outcome.parts.distillation) != pytest.approx(_by_hand(batch, shown[1:]), rel=1e-2)


def test_a_teacher_that_is_the_reference_is_asked_once(taught: list[str], tmp_path: Path) -> None:
    config = config_of(tmp_path, "aced", taught, reference__model=taught[1])
    assert frozen_models(config) == ["reference", "teacher 1"]
    assert teachers_of(config) == ["teacher 1", "reference"]
    inputs = inputs_of(config)
    assert inputs.teachers[1] is inputs.reference
    trainer = make_trainer(config, inputs, make_student(config))
    take(trainer, config, inputs.source, 1)
    other = make_trainer(config, Inputs(inputs.source, [], inputs.reference, inputs.teachers[:1]), make_student(config))
    take(other, config, inputs.source, 1)
    assert trainer.ledger.flops == other.ledger.flops  # what chose is known already
    alone = config_of(tmp_path, "softmax-kd", taught[:1])
    assert teachers_of(alone) == ["teacher"]


def test_a_run_without_a_teacher_of_its_own(tmp_path: Path, trained: dict[str, Path]) -> None:
    assert frozen_models(run_config(tmp_path, "aced", trained)) == ["reference"]
    assert teachers_of(run_config(tmp_path, "softmax-kd", trained)) == ["reference"]
    assert frozen_models(run_config(tmp_path, "iid")) == []
    named = run_config(tmp_path, "h-acid", trained, teacher__model="x")
    assert frozen_models(named) == ["reference"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["teacher.model=a"], [("a", "")]),
        (["teacher.model=[a, b]"], [("a", ""), ("b", "")]),
        (['teacher.model=["a", "b"]', "teacher.checkpoint=[,x.pt]"], None),
        (['teacher.model=["a", "b"]', 'teacher.checkpoint=["", "x.pt"]'], [("a", ""), ("b", "x.pt")]),
        (["teacher.model=[ViT-B-32,ViT-B-16]", "teacher.checkpoint=[openai,laion2b]"], None),
        (["teacher.model=2026"], [("2026", "")]),
        ([], []),
    ],
)
def test_ways_to_write_it(written: list[str], read: list[tuple[str, str]] | None, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[method]\nname = "softmax-kd"\n[reference]\nmodel = "r"\n')
    if written[1:] == ["teacher.checkpoint=[,x.pt]"]:
        with pytest.raises(AcedError, match=r"teacher\.checkpoint 1"):
            load_config(tmp_path / "c.toml", written)
        return
    config = load_config(tmp_path / "c.toml", written)
    read = [("ViT-B-32", "openai"), ("ViT-B-16", "laion2b")] if read is None else read
    assert [(one.model, one.checkpoint) for one in config.teacher.each] == read


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ({"model": ["a", ""]}, "empty"),
        ({"model": ["a", "a"]}, "twice"),
        ({"model": ["a", "b"], "checkpoint": "x.pt"}, "checkpoint"),
        ({"model": "a", "checkpoint": ["x.pt", "y.pt"]}, "checkpoint"),
        ({"model": ["$HOME/a", "b"]}, "HOME"),
    ],
)
def test_what_does_not_go_together(teacher: dict[str, Any], words: str) -> None:
    with pytest.raises(AcedError, match=words):
        make_config({"method": {"name": "softmax-kd"}, "teacher": teacher})


def test_a_teacher_that_knows_nothing_is_refused(taught: list[str], tmp_path: Path) -> None:
    config = config_of(tmp_path, "softmax-kd", [taught[0], "aced-demo-s"])
    with pytest.raises(AcedError, match=r"teacher\.model = 'aced-demo-s'.*teacher\.checkpoint"):
        inputs_of(config)


def test_another_teacher_in_the_list_is_another_run(taught: list[str], tmp_path: Path) -> None:
    from aced.train.run.fit import fit

    config = config_of(tmp_path, "softmax-kd", taught, run__checkpoint_every=1, train__steps=2)
    fit(config, Inputs(inputs_of(config).source, [], None, inputs_of(config).teachers), make_student(config), quiet())
    for folder in sorted((tmp_path / "run" / "checkpoints").glob("step-00000002*")):
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        folder.rmdir()
    other = config_of(tmp_path, "softmax-kd", taught[::-1], run__checkpoint_every=1, train__steps=2)
    inputs = inputs_of(other)
    with pytest.raises(AcedError, match="teacher 1"):
        fit(other, Inputs(inputs.source, [], None, inputs.teachers), make_student(other), quiet(), resume=True)
