from __future__ import annotations

import json
from pathlib import Path

import pytest
import report_fake

from aced.errors import AcedError
from aced.report import load_results, load_run, results_of
from aced.runs.records import Results
from aced.runs.run_results import parse_results


@pytest.fixture
def run(tmp_path: Path) -> Path:
    report_fake.make(tmp_path, ["aced"], seeds=1, steps=50)
    return tmp_path / "runs/aced-s0"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_a_run_folder_is_read(run: Path) -> None:
    record = load_run(run)
    assert (record.method, record.seed) == ("aced", 0)
    assert [line.step for line in record.steps] == [10, 20, 30, 40, 50]
    assert record.steps[-1].budgets["samples_trained"] == 50 * 64
    assert [line.step for line in record.evals] == [10, 20, 30, 40, 50]
    assert record.gallery is not None
    assert len(record.gallery.most) == 12
    assert record.config_text.startswith("[run]")
    assert record.row is None


def test_optional_files_may_be_missing(run: Path) -> None:
    (run / "evals.jsonl").unlink()
    (run / "gallery.json").unlink()
    record = load_run(run)
    assert record.evals == []
    assert record.gallery is None


def test_a_last_line_that_breaks_off_is_left_out(run: Path) -> None:
    file = run / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    assert [line.step for line in load_run(run).steps] == [10, 20, 30, 40]


def test_a_whole_last_line_without_its_newline_counts(run: Path) -> None:
    file = run / "metrics.jsonl"
    file.write_bytes(file.read_bytes().rstrip())
    assert len(load_run(run).steps) == 5


@pytest.mark.parametrize("name", ["metrics.jsonl", "evals.jsonl"])
@pytest.mark.parametrize("ending", ["", "\n"])
def test_any_other_broken_line_is_an_error(run: Path, name: str, ending: str) -> None:
    lines = (run / name).read_text().splitlines()
    # With a newline behind it even the last line was written whole, so it is damaged and not cut short.
    damaged = 4 if ending else 1
    lines[damaged] = lines[damaged][:30]
    (run / name).write_text("\n".join(lines) + ending)
    with pytest.raises(AcedError, match=f"{name} line {damaged + 1} .*JSON"):
        load_run(run)


def test_steps_logged_again_after_a_resume_replace_the_first(run: Path) -> None:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines()
    again = []
    for line in lines[2:4]:
        value = json.loads(line)
        value["contrastive"] = 77.0
        again.append(json.dumps(value))
    file.write_text("\n".join([*lines, *again]) + "\n")
    steps = load_run(run).steps
    assert [line.step for line in steps] == [10, 20, 30, 40]
    assert [line.contrastive == 77.0 for line in steps] == [False, False, True, True]


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.toml"])
def test_missing_files_are_told(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(AcedError) as error:
        load_run(run)
    assert str(run / name) in str(error.value)
    assert "folder" in str(error.value)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(AcedError, match="nowhere"):
        load_run(tmp_path / "nowhere")


def test_faults_name_the_file_and_the_key(run: Path) -> None:
    edit(run / "metrics.jsonl", '"step": 20', '"step": "many"')
    with pytest.raises(AcedError, match=r"metrics\.jsonl line 2 .*step: "):
        load_run(run)
    edit(run / "metrics.jsonl", '"step": "many"', '"step": 20')
    edit(run / "config.toml", "seed = ", "seed : ")
    with pytest.raises(AcedError, match=r"config\.toml.*TOML"):
        load_run(run)
    edit(run / "config.toml", "seed : ", "seed = ")
    edit(run / "gallery.json", "data:image/png", "https://example.org/")
    with pytest.raises(AcedError, match=r"gallery\.json .*most\.0\.image: "):
        load_run(run)
    (run / "gallery.json").write_text("{")
    with pytest.raises(AcedError, match=r"gallery\.json.*JSON"):
        load_run(run)


def test_nothing_logged_yet_is_told(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1')
    with pytest.raises(AcedError, match="line"):
        load_run(run)


def test_results_are_read_from_the_file_or_its_folder(tmp_path: Path) -> None:
    made = report_fake.make(tmp_path, ["iid"], seeds=1, steps=20)
    assert load_results(tmp_path) == load_results(tmp_path / "results.json") == json.loads(json.dumps(made))


@pytest.mark.parametrize(
    ("results", "match"),
    [
        ({}, "rows: field required"),
        ({"rows": []}, "rows: list should have at least 1 item"),
        ({"rows": [{"title": "X"}]}, r"rows\.0\.method: field required"),
        ({"rows": [{"method": "x", "average": "much"}]}, r"rows\.0\.average: "),
        ([], "the whole: "),
    ],
)
def test_malformed_results_are_told(tmp_path: Path, results: object, match: str) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(AcedError, match=r"results\.json .*\(" + match):
        load_results(tmp_path)


def test_missing_results_are_told(tmp_path: Path) -> None:
    with pytest.raises(AcedError, match=r"results\.json.*missing"):
        load_results(tmp_path)


def test_results_of_single_runs(run: Path) -> None:
    made = load_results(run.parents[1])["rows"][0]
    results = parse_results(results_of([load_run(run)], {"torch": "2"}))
    assert isinstance(results, Results)
    row = results.rows[0]
    assert (row.method, row.title, row.seed, row.run) == ("aced", "ACED", 0, str(run))
    assert row.average == pytest.approx(made["average"])
    assert row.budgets["flops"] == pytest.approx(made["budgets"]["flops"])
    assert set(row.tasks) == set(report_fake.TASKS)
    assert results.environment == {"torch": "2"}


def test_a_runs_own_results_come_first(run: Path) -> None:
    own = {"rows": [{"method": "aced", "title": "Mine", "seed": 0, "average": 12.5, "budgets": {"flops": 7}}]}
    (run / "results.json").write_text(json.dumps(own))
    row = results_of([load_run(run)])["rows"][0]
    assert (row["title"], row["average"], row["budgets"]) == ("Mine", 12.5, {"flops": 7.0})


def test_only_seeds_of_one_config_become_one_row(tmp_path: Path) -> None:
    report_fake.make(tmp_path, ["iid", "aced"], seeds=2, steps=20)
    folders = [tmp_path / "runs" / f"{method}-s{seed}" for method in ("iid", "aced") for seed in (0, 1)]
    rows = results_of([load_run(folder) for folder in folders])["rows"]
    assert [row["title"] for row in rows] == ["IID", "IID", "ACED", "ACED"]
    edit(folders[3] / "config.toml", "lr = 0.0015", "lr = 0.003")
    rows = results_of([load_run(folder) for folder in folders])["rows"]
    assert [row["title"] for row in rows] == ["IID", "IID", "ACED (aced-s0)", "ACED (aced-s1)"]


def test_a_run_without_evaluations_has_no_average(run: Path) -> None:
    (run / "evals.jsonl").unlink()
    row = results_of([load_run(run)])["rows"][0]
    assert row["average"] is None
    assert row["budgets"]["samples_trained"] == 50 * 64
    with pytest.raises(AcedError, match="run"):
        results_of([])
