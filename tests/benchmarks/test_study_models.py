"""Sizes and scores of a study's models: which are measured, what is written, and that nothing is measured twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from aced.models import load_tower
from aced.models.model_loading import save_tower

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))

import study_models  # noqa: E402
from study_records import read_study  # noqa: E402
from task_fakes import picture, write_task  # noqa: E402

TEXT = """
recipe = "photos"
seeds = [0]
[keys]
"eval.tasks" = "{data}"
[[rows]]
name = "IID, smaller"
keys = { "student.model" = "aced-photo-xs" }
[[rows]]
name = "IID"
[[points]]
name = "a"
keys = { "reference.model" = "{references}/a" }
"""


def test_what_is_named_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [one for i in range(4) for one in ((f"{i}.jpg", picture(i)), (f"{i}.cls", b"%d" % (i % 2)))]
    texts = {"classnames": "red\nblue", "zeroshot_classification_templates": "a {c} thing"}
    write_task(tmp_path / "tasks/wds_colours", members, **texts)
    tower = load_tower("aced-demo-s", seed=1)
    save_tower(tower, tmp_path / "references/a")
    (tmp_path / "s.toml").write_text(TEXT, encoding="utf-8")
    words = [str(tmp_path / "s.toml"), "--out", str(tmp_path / "models.json"), "--place", f"data={tmp_path}/tasks"]
    with pytest.raises(SystemExit, match="--place references"):
        study_models.main(words)
    words += ["--place", f"references={tmp_path}/references"]
    study_models.main(words)
    found = json.loads((tmp_path / "models.json").read_text(encoding="utf-8"))
    assert sorted(found["students"]) == ["aced-photo-s", "aced-photo-xs"]
    (own,) = found["references"].values()
    assert list(found["references"]) == ["{references}/a"]
    assert own["parameters"] == sum(one.numel() for one in tower.model.parameters())
    assert sum(own["flops"].values()) == tower.flops(tower.context_length).total
    assert own["average"] == own["tasks"]["colours"]
    monkeypatch.setattr(study_models, "load_tower", None)  # would fail
    study_models.main(words)
    assert json.loads((tmp_path / "models.json").read_text(encoding="utf-8")) == found


def test_every_ladder_names_models_that_can_be_known() -> None:
    study = read_study(BENCHMARKS / "studies/ladder.toml")
    students = study_models.named(study, "student.model")
    assert set(students) == {
        row.keys.get("student.model", "aced-photo-s") for row in read_study(BENCHMARKS / "studies/students.toml").rows
    }
    assert len(study_models.named(study, "reference.model")) == len(study.points)
