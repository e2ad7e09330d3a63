"""A very small demo, for real: its files, their form, and that it repeats itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aced.errors import AcedError
from aced.evaluate.stability.suite import counted
from aced.lab.demo.demo_run import run_demo
from aced.lab.demo.rows import Scale
from aced.lab.lab_options import DemoOptions
from aced.report import load_results

TINY = Scale(pool=400, curated=400, steps=4, reference_steps=4, log_every=2)
METHODS = "iid,aced,jest,iid-wall"


def demo(out: Path, methods: str = METHODS, seeds: int = 1) -> dict[str, Any]:
    return run_demo(DemoOptions(out, methods, seeds, split="validation"), TINY, Console(quiet=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, demo(out)


def test_results_have_the_form_that_is_promised(made: tuple[Path, dict[str, Any]]) -> None:
    out, returned = made
    results = json.loads((out / "results.json").read_text())
    assert results == json.loads(json.dumps(returned)) == load_results(out)
    assert set(results) == {"rows", "reference", "environment", "summary"}
    assert [row["method"] for row in results["rows"]] == ["iid", "aced", "jest", "iid-wall"]
    for row in results["rows"]:
        assert {"method", "seed", "average", "tasks", "budgets", "clean_share"} <= set(row)
        assert set(row["budgets"]) == {"samples_trained", "samples_loaded", "flops", "seconds"}
        assert all(value > 0 for value in row["budgets"].values())
        assert len(row["tasks"]) >= 10
        assert all({"value", "chance", "n"} <= set(task) for task in row["tasks"].values())
        assert all(0 <= task["value"] <= 1 for task in row["tasks"].values())
        values = [row["tasks"][name]["value"] for name in counted(row["tasks"])]
        assert 10 <= len(values) < len(row["tasks"])  # the stable ones alone count
        assert row["average"] == pytest.approx(100 * sum(values) / len(values))
        assert 0 <= row["clean_share"] <= 1
        assert row["seed"] == 0
    assert {"average", "tasks", "train_seconds", "embed_seconds", "train_flops", "embed_flops"} == set(
        results["reference"]
    )
    assert {"torch", "python", "threads", "device", "date"} <= set(results["environment"])
    assert len(results["summary"]) == 3


def test_rows_have_the_budgets_of_their_methods(made: tuple[Path, dict[str, Any]]) -> None:
    rows = {row["method"]: row for row in made[1]["rows"]}
    budgets = {name: row["budgets"] for name, row in rows.items()}
    assert budgets["iid"]["samples_trained"] == budgets["aced"]["samples_trained"] == 4 * 64
    assert budgets["iid"]["samples_loaded"] == 4 * 64
    assert budgets["aced"]["samples_loaded"] == 4 * 320
    assert budgets["aced"]["flops"] > 2 * budgets["iid"]["flops"]
    # As long as ACED took, by IID's measured step time.
    per_step = budgets["iid"]["seconds"] / 4
    assert rows["iid-wall"]["steps"] == max(1, round(budgets["aced"]["seconds"] / per_step))


def test_the_folder_holds_what_it_says(made: tuple[Path, dict[str, Any]]) -> None:
    out, results = made
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!")
    for row in results["rows"]:
        run = out / row["run"]
        assert (run / "metrics.jsonl").is_file()
        assert (run / "model/tower.json").is_file()
        assert (run / "gallery.json").is_file() == (row["method"] in ("aced", "jest"))
    # The large reference and JEST's peer, each trained once and its embeddings kept.
    assert len(list((out / "reference").iterdir())) == len(list((out / "cache/embeddings").iterdir())) == 2


def without_time(results: dict[str, Any]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(results))
    del copy["environment"], copy["summary"]
    for row in copy["rows"]:
        del row["budgets"]["seconds"]
    for key in ("train_seconds", "embed_seconds"):
        copy.get("reference", {}).pop(key, None)
    return copy


def test_it_runs_again_over_its_own_folder_with_the_same_results(made: tuple[Path, dict[str, Any]]) -> None:
    out, first = made
    (out / "stray").write_text("left over")
    second = demo(out, "iid,aced,jest")
    assert not (out / "stray").exists()
    assert not (out / "runs/iid-wall-s0").exists()
    rows = [row for row in without_time(first)["rows"] if row["method"] != "iid-wall"]
    assert without_time(second)["rows"] == rows
    assert without_time(second)["reference"] == without_time(first)["reference"]


def test_each_seed_trains_every_row_from_other_weights(tmp_path: Path) -> None:
    results = demo(tmp_path / "out", "iid", seeds=2)
    assert [(row["method"], row["seed"]) for row in results["rows"]] == [("iid", 0), ("iid", 1)]
    assert "reference" not in results
    weights = [(tmp_path / f"out/runs/iid-s{seed}/model/model.safetensors").read_bytes() for seed in (0, 1)]
    assert weights[0] != weights[1]
    assert "(2 seeds)" in results["summary"][0]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_not_a_demos_is_left_alone(what: str, tmp_path: Path) -> None:
    if what == "file":
        (tmp_path / "mine").write_text("precious")
    else:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/thesis.txt").write_text("precious")
    with pytest.raises(AcedError, match="--out"):
        demo(tmp_path / "mine", "iid")
    kept = tmp_path / "mine" if what == "file" else tmp_path / "mine/thesis.txt"
    assert kept.read_text() == "precious"


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    assert demo(tmp_path, "iid")["rows"]
