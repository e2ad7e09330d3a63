"""Studies: which runs are missing, how long rows that get another one's time are, and that a run becomes a line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aced.errors import AcedError
from aced.evaluate.stability.suite import counted

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from study import Queue  # noqa: E402
from study_records import Study, append, jobs_of, read_records, read_study  # noqa: E402

TEXT = """
recipe = "scenes"
seeds = [0, 1]
keep = ["ACED"]
[keys]
"data.scenes_size" = 64
"train.steps" = 3
[[rows]]
name = "IID"
keys = { "method.name" = "iid" }
[[rows]]
name = "ACED"
keys = { "method.name" = "aced", "train.steps" = 4 }
[[rows]]
name = "IID at ACED's time"
keys = { "method.name" = "iid" }
time = { of = "ACED", step = "IID" }
[[points]]
name = "half"
keys = { "data.scenes_seed" = 1 }
[[points]]
name = "all"
keys = { "data.scenes_seed" = 2 }
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "small.toml").write_text(TEXT, encoding="utf-8")
    return read_study(tmp_path / "small.toml")


def finish(study: Study, row: str, point: str, seed: int, seconds: float, steps: int) -> None:
    """Record a run as finished."""
    job = next(
        job
        for job in jobs_of(study, read_records(study.records))
        if (job.row, job.point, job.seed) == (row, point, seed)
    )
    append(study.records, job, {"average": 1.0, "processor_seconds": seconds, "steps": steps})


def test_every_row_is_run_at_every_point_with_every_seed_and_a_point_wins_over_a_row(study: Study) -> None:
    jobs = jobs_of(study, [])
    assert len({job.key for job in jobs}) == len(jobs) == 3 * 2 * 2
    assert len({job.folder for job in jobs}) == len(jobs)
    assert [job.seed for job in jobs] == [0] * 6 + [1] * 6  # a figure for each row comes first
    aced = next(job for job in jobs if (job.row, job.point) == ("ACED", "all"))
    assert aced.keys == {"data.scenes_size": 64, "train.steps": 4, "method.name": "aced", "data.scenes_seed": 2}


def test_places_and_the_seed_are_filled_in(study: Study) -> None:
    job = next(job for job in jobs_of(study, []) if job.seed == 1)
    keys = {"student.model": "{models}/iid-s{seed}", "data.shards": ["{data}/a", "b"]}
    filled = dataclasses.replace(job, keys=keys).filled({"models": "m", "data": "d"})
    assert filled == {"student.model": "m/iid-s1", "data.shards": '["d/a", "b"]'}


def test_a_finished_run_is_not_run_again_and_one_with_another_key_is(study: Study) -> None:
    finish(study, "IID", "half", 0, 3.0, 3)
    left = jobs_of(study, read_records(study.records))
    assert ("IID", "half", 0) not in {(job.row, job.point, job.seed) for job in left}
    assert len(left) == 11
    changed = study.records.with_suffix(".toml")
    changed.write_text(TEXT.replace('"train.steps" = 3', '"train.steps" = 5'), encoding="utf-8")
    assert ("IID", "half", 0) in {
        (job.row, job.point, job.seed) for job in jobs_of(read_study(changed), read_records(study.records))
    }


def test_a_row_at_another_ones_time_waits_for_all_seeds_and_takes_the_ratio_of_medians(study: Study) -> None:
    def timed() -> list[Any]:
        return [job for job in jobs_of(study, read_records(study.records)) if "time" in job.row]

    assert not any(job.ready for job in timed())
    for seed, seconds in ((0, 10.0), (1, 14.0)):
        finish(study, "ACED", "half", seed, seconds, 4)
    finish(study, "IID", "half", 0, 3.0, 3)
    assert not any(job.ready for job in timed())
    finish(study, "IID", "half", 1, 6.0, 3)
    ready = [job for job in timed() if job.ready]
    assert {job.point for job in ready} == {"half"}
    assert {job.keys["train.steps"] for job in ready} == {8}  # 12 s at 1.5 s a step
    finish(study, "IID at ACED's time", "half", 0, 12.0, 8)
    assert len([job for job in timed() if job.ready]) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('of = "ACED"', 'of = "JEST"'),
        ('keep = ["ACED"]', 'keep = ["JEST"]'),
        ('name = "ACED"', 'name = "IID"'),
        ("recipe", "receipt"),
        ("[keys]", "[keys"),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(TEXT.replace(old, new), encoding="utf-8")
    with pytest.raises(AcedError, match=r"wrong\.toml"):
        read_study(path)


def study_program(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BENCHMARKS / "study.py", *words], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_a_run_becomes_a_line_and_only_what_is_missing_is_run(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    rows = '[[rows]]\nname = "IID"\nkeys = {"method.name" = "iid", "data.scenes_size" = "{n}"}\n'
    head = 'recipe = "scenes"\nseeds = [0]\n[keys]\n"train.steps" = 2\n"train.batch" = 8\n'
    path.write_text(head + rows, encoding="utf-8")
    words = (path, "--out", tmp_path / "runs", "--at-once", "1")
    refused = study_program(*words)
    assert refused.returncode == 1
    assert "{n}" in refused.stderr
    done = study_program(*words, "--place", "n=64")
    assert done.returncode == 0, done.stderr
    (line,) = read_records(path.with_suffix(".jsonl"))
    assert (line["row"], line["seed"], line["steps"]) == ("IID", 0, 2)
    assert line["keys"]["data.scenes_size"] == "{n}"  # the same line on another machine
    assert line["budgets"]["samples_trained"] == sum(line["kinds"]["chosen"].values()) == 16
    scores = [line["tasks"][name]["value"] for name in counted(line["tasks"])]
    assert line["average"] == pytest.approx(100 * sum(scores) / len(scores))
    assert not (tmp_path / "runs/tiny/iid-s0").exists()
    dry = study_program(*words, "--dry")
    assert (dry.returncode, dry.stdout) == (0, "")
    path.write_text(head + rows + rows.replace('"IID"', '"Broken"').replace("iid", "aced"), encoding="utf-8")
    failed = study_program(*words, "--place", "n=64")
    assert failed.returncode == 1
    assert "Broken" in failed.stdout
    assert [json.loads(text)["row"] for text in path.with_suffix(".jsonl").read_text().splitlines()] == ["IID"]


def test_seeds_of_one_row_change_nothing_of_the_others(study: Study, tmp_path: Path) -> None:
    before = jobs_of(study, [])
    path = tmp_path / "more.toml"
    path.write_text(TEXT.replace('name = "IID"\n', 'name = "IID"\nmore_seeds = [7]\n', 1), encoding="utf-8")
    more = read_study(path)
    after = jobs_of(more, [])
    assert [job.key for job in after[: len(before)]] == [job.key for job in before]
    assert [(job.row, job.point, job.seed) for job in after[len(before) :]] == [("IID", "half", 7), ("IID", "all", 7)]
    for row, seed, seconds in (("ACED", 0, 10.0), ("ACED", 1, 10.0), ("IID", 0, 4.0), ("IID", 1, 6.0)):
        finish(more, row, "half", seed, seconds, 4)

    def steps() -> set[int]:
        jobs = jobs_of(more, read_records(more.records))
        return {job.keys["train.steps"] for job in jobs if job.ready and "time" in job.row}

    known = steps()
    finish(more, "IID", "half", 7, 1000.0, 4)
    assert steps() == known == {8}  # 10 s at 1.25 s a step


def test_models_to_keep_are_made_again_whatever_lines_there_are(study: Study, tmp_path: Path) -> None:
    finish(study, "ACED", "half", 0, 3.0, 3)
    words = {"only": [], "points": [], "out": tmp_path / "runs"}

    def missing(**how: bool) -> list[tuple[str, str, int]]:
        queue = Queue(study, {}, argparse.Namespace(**words, **how), Console())
        return [(job.row, job.point, job.seed) for job in queue.missing()]

    every = [("ACED", point, seed) for seed in (0, 1) for point in ("half", "all")]
    assert every[0] not in missing(models=False)
    assert missing(models=True) == every
    (tmp_path / "runs/small/aced-all-s1/model").mkdir(parents=True)
    assert missing(models=True) == every[:-1]
