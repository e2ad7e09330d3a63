"""Stored suites: what averages count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aced.evaluate.stability import suite as module
from aced.evaluate.stability.suite import counted, suites
from aced.evaluate.tasks import TaskResult
from aced.evaluate.zeroshot import average, chance_average
from aced.lab.scenes import make_tasks


@pytest.fixture
def small_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite among a, b and c that leaves out b."""
    record = {"tasks": [{"name": name} for name in "cab"], "kept": ["c", "a"]}
    (tmp_path / "small.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    suites.cache_clear()
    yield
    suites.cache_clear()


@pytest.mark.usefixtures("small_suite")
def test_averages_count_the_suite_on_exactly_its_tasks() -> None:
    assert list(suites()) == ["small"]
    assert counted(["b", "c", "a"]) == ["c", "a"]
    assert counted(["a", "b"]) == ["a", "b"]
    assert counted(["a", "b", "c", "d"]) == ["a", "b", "c", "d"]
    results = {name: TaskResult(value, value / 2, 10, "acc1") for name, value in (("a", 0.2), ("b", 1.0), ("c", 0.4))}
    assert average(results) == pytest.approx(30.0)
    assert chance_average(results) == pytest.approx(15.0)
    del results["c"]
    assert average(results) == pytest.approx(60.0)


def test_the_packaged_scenes_suite_is_a_choice_among_the_scenes_tasks() -> None:
    names = [task.name for task in make_tasks("validation", n=2, retrieval_n=2)]
    scenes = suites()["scenes"]
    assert scenes.tasks == set(names)
    assert scenes.kept <= scenes.tasks
    assert counted(names) == [name for name in names if name in scenes.kept]


def test_the_packaged_scenes_suite_is_what_the_command_wrote() -> None:
    file = Path(module.__file__).parents[1] / "suites/scenes.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["command"][:2] == ["aced", "stable"]
    assert record["kept"] == [task["name"] for task in record["tasks"] if task["verdict"] == "kept"]
    assert len(record["kept"]) == record["chosen"]
    assert min(record["recipes"].values()) >= 5
    for source in record["inputs"]:
        # Not the seeds of the demo's table, and no machine's paths.
        assert int(source["file"].partition("-s")[2].partition("/")[0]) >= 10
        assert not Path(source["file"]).is_absolute()
