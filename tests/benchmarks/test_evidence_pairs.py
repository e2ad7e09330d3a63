"""The page of evidence: differences between named rows, task by task, and of other objectives, by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

import evidence
import evidence_lines
import evidence_objectives
import evidence_pairs

ROW = {"budgets": {"samples_trained": 64.0, "samples_loaded": 320.0, "flops": 1e9}, "clean_share": 0.5, "steps": 4}
FACTS = {"processor_seconds": 2.0, "environment": {"cpu": "a CPU"}, "kinds": {}}


def study(folder: Path, name: str, rows: dict[str, list[dict[str, float]]]) -> evidence_lines.Lines:
    """A study of rows; for each seed the tasks in percent, whose mean is the average."""
    text, found = 'recipe = "photos"\nseeds = [0, 1, 2]\n', []
    for row, seeds in rows.items():
        text += f'[[rows]]\nname = "{row}"\n'
        for seed, tasks in enumerate(seeds):
            scores = {task: {"value": value / 100, "chance": 0.1, "n": 100} for task, value in tasks.items()}
            own = {"row": row, "point": "", "seed": seed, "keys": {}, "tasks": scores}
            found.append(own | ROW | FACTS | {"average": sum(tasks.values()) / len(tasks)})
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    return evidence_lines.Lines(name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(evidence_lines, "STUDIES", tmp_path)
    evidence_pairs.groups.cache_clear()
    return tmp_path


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    evidence_pairs.groups.cache_clear()


def cells(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows}


PHOTOS = {
    # Above chance and steady; above chance with seeds far apart; at chance (10 %).
    "IID": [{"a": 30, "b": 20, "c": 10}, {"a": 30.2, "b": 40, "c": 10.1}, {"a": 29.8, "b": 60, "c": 9.9}],
    "H-ACID": [{"a": 40, "b": 50, "c": 10}, {"a": 40.2, "b": 30, "c": 10.1}, {"a": 39.8, "b": 70, "c": 9.9}],
    "filter": [{"a": 38, "b": 55, "c": 40}, {"a": 38.3, "b": 34, "c": 40.2}, {"a": 37.7, "b": 78, "c": 39.8}],
}


def test_pairs_are_compared_by_task_and_by_groups_of_tasks(folder: Path) -> None:
    lines = study(folder, "methods", PHOTOS)
    groups = evidence_pairs.groups()
    assert groups["photo tasks"] == ("a", "b", "c")
    assert sorted(groups["tasks above chance"]) == ["a", "b"]
    assert groups["stable tasks"] == ("a",)
    found = cells(evidence_pairs.pair_gains(lines, ["H-ACID over filter", "filter over IID"]))
    assert found["a"] == ["**+2.0 ± 0.1**", "**+8.0 ± 0.1**"]
    assert found["b"][0] == "**−5.7 ± 2.1**"  # -5, -4, -8
    assert found["c"][1] == "**+30.0 ± 0.1**"
    assert found["average of the 1 stable tasks"] == found["a"]
    assert found["average of the 2 tasks above chance"][0] == "−1.8 ± 1.0"  # -1.5, -1.05, -2.95
    assert evidence_pairs.pair_gains(lines, ["H-ACID over nothing"]) == ""


def test_where_there_are_other_tasks_too_the_photos_have_an_average_of_their_own(folder: Path) -> None:
    study(folder, "methods", PHOTOS)
    rows = {row: [one | {"other": 50.0 * (row == "IID")} for one in seeds] for row, seeds in PHOTOS.items()}
    found = cells(evidence_pairs.pair_gains(study(folder, "domains", rows), ["filter over IID"]))
    assert [name for name in found if name.startswith("average")] == ["average of the 3 photo tasks"]
    assert found["other"] == ["**−50.0 ± 0.0**"]


def test_a_table_has_differences_from_the_row_of_another_study(folder: Path) -> None:
    study(folder, "methods", PHOTOS)
    lines = study(folder, "tries", {"I-ACED": [{"a": 50, "b": 50, "c": 50}] * 3})
    head, row = evidence.table(lines, [], "methods/filter")
    assert head[2] == "over filter"
    mean = sum(50 - sum(one.values()) / 3 for one in PHOTOS["filter"]) / 3
    assert row[2].strip("*").startswith(f"+{mean:.1f}" if mean > 0 else f"−{-mean:.1f}")
    itself = evidence.table(evidence_lines.Lines("methods"), [], "methods/filter")
    assert [line[2] for line in itself if line[0] == "filter"] == ["–"]


def test_other_objectives_are_ahead_when_they_are_better(folder: Path) -> None:
    def runs(place: str, scores: list[float], goal: str) -> dict[str, Any]:
        return {f"{place}/{seed}": {"scores": {goal: score}} for seed, score in enumerate(scores)}

    loss = runs("samples/random", [2.0, 2.1, 2.2], "loss") | runs("long/random", [1.0, 1.0, 1.0], "loss")
    loss |= runs("samples/learnability curated", [1.5, 1.61, 1.7], "loss")
    loss |= {"reference/curated": {"scores": {"loss": 0.5}}, "facts": {"goal": "loss", "sign": -1}}
    classes = runs("samples/random", [10, 12, 14], "average") | runs(
        "samples/learnability larger", [13, 15, 17], "average"
    )
    classes |= {"reference/larger": {"scores": {"average": 30.0}}, "facts": {"goal": "average", "sign": 1}}
    text = json.dumps({"experiments": {"captions": loss, "classes": classes}})
    (folder / "objectives.json").write_text(text, encoding="utf-8")
    found = cells(evidence_objectives.objectives_block())
    captions, other = found["captions: loss"], found["classes: accuracy, %, larger reference"]
    assert captions[:2] == ["0.50", "2.10 ± 0.10"]
    at = list(evidence_objectives.PLACES).index("learnability") + 2
    assert captions[at] == "**+0.50 ± 0.01**"
    assert captions[at + 1] == "**−0.60 ± 0.10**"
    assert other[:2] == ["30.0", "12.0 ± 2.0"]
    assert other[at] == "**+3.0 ± 0.0**"
    assert other[at + 1] == "–"
