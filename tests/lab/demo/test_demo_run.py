"""A very small demo, for real: its files, their form, and that it repeats itself."""

from __future__ import annotations

import io
import json
import shlex
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from aced.config import load_config
from aced.errors import AcedError
from aced.evaluate.stability.suite import counted
from aced.evaluate.zeroshot import score_all
from aced.lab.demo.demo_run import demo_program, run_demo
from aced.lab.demo.demo_text import QUICK_LOOK, cautions
from aced.lab.demo.packaged_reference import load_kept
from aced.lab.demo.rows import Scale
from aced.lab.lab_options import DemoOptions
from aced.lab.scenes import make_tasks
from aced.models import load_tower
from aced.report import load_results
from wording import tells

TINY = Scale(pool=400, curated=400, steps=4, reference_steps=4, log_every=2)
METHODS = "iid,aced,jest,iid-wall"


def demo(out: Path, methods: str = METHODS, seeds: int = 1, **more: Any) -> dict[str, Any]:
    return run_demo(DemoOptions(out, methods, seeds, split="validation", **more), TINY, Console(quiet=True))


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
    parts = {"average", "tasks", "train_seconds", "embed_seconds", "train_flops", "embed_flops", "trained_on"}
    assert set(results["reference"]) == parts
    assert {"torch", "python", "threads", "device", "date"} <= set(results["environment"])
    assert len(results["summary"]) == 4 + len(cautions(4, 1, quick=False))


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
    # The package's reference and JEST's peer, which is trained, each once and its embeddings kept.
    assert len(list((out / "reference").iterdir())) == len(list((out / "cache/embeddings").iterdir())) == 2


def test_the_packaged_reference_brings_its_cost_and_is_scored_here(made: tuple[Path, dict[str, Any]]) -> None:
    tower, training = load_kept()
    reference = made[1]["reference"]
    assert reference["average"] == pytest.approx(score_all(tower, make_tasks("validation")).average)
    assert reference["train_seconds"] == training.seconds
    assert reference["train_flops"] == training.flops
    assert reference["trained_on"] == training.machine
    assert load_tower(made[0] / "reference/aced-demo-l").fingerprint() == tower.fingerprint()


def test_a_reference_that_is_trained_anew_is_used_and_kept(tmp_path: Path) -> None:
    results = demo(tmp_path / "out", "iid", train_reference=True, keep_reference=tmp_path / "kept")
    tower, training = load_kept(tmp_path / "kept")
    trained = load_tower(tmp_path / "out/reference/aced-demo-l")
    scale = trained.model.state_dict()["logit_scale"]
    assert torch.equal(tower.model.state_dict()["logit_scale"], scale.half().float())
    assert (training.steps, training.split) == (TINY.reference_steps, "validation")
    assert training.average == results["reference"]["average"]
    assert training.flops == results["reference"]["train_flops"]
    assert training.seconds > 0
    assert "trained_on" not in results["reference"]
    assert trained.fingerprint() != load_kept()[0].fingerprint()


@pytest.mark.parametrize("options", [{}, {"quick": True, "train_reference": True}])
def test_a_reference_that_is_not_trained_in_earnest_is_not_kept(options: dict[str, bool], tmp_path: Path) -> None:
    with pytest.raises(AcedError, match="--keep-reference"):
        demo(tmp_path / "out", "iid", keep_reference=tmp_path / "kept", **options)
    assert not (tmp_path / "kept").exists()
    assert not (tmp_path / "out").exists()


def test_at_80_columns_it_says_what_it_does_and_ends_with_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aced.lab.demo.demo_run.QUICK", TINY)
    monkeypatch.chdir(tmp_path)
    console = Console(width=80, file=io.StringIO(), record=True)
    options = DemoOptions(Path("runs/demo"), "iid,aced", quick=True, threads=torch.get_num_threads())
    results = demo_program(options, console)
    text = console.export_text()
    lines = text.rstrip().splitlines()
    assert max(map(len, lines)) <= 80
    flat = " ".join(text.split())
    assert all(" ".join(sentence.split()) in flat for sentence in results["summary"])
    page = unescape((tmp_path / "runs/demo/report.html").read_text(encoding="utf-8"))
    warned = cautions(2, 1, quick=True)
    assert QUICK_LOOK in warned
    assert all(sentence in page and sentence in results["summary"] for sentence in warned)
    assert tells(flat, "Average … Sound … Trained … Loaded … Time")  # the table's heads, then what they mean
    last = next(place for place, line in enumerate(lines) if line.startswith("  aced train scenes"))
    words = shlex.split(" ".join(line.strip().removesuffix("\\") for line in lines[last:]))
    assert words[:2] == ["aced", "train"]
    config = load_config(words[2], words[3:])
    assert Path(config.reference.model).is_dir()
    assert Path(config.reference.cache).is_dir()


@pytest.mark.parametrize(("rows", "seeds", "count"), [(2, 1, 1), (2, 2, 1), (2, 3, 0), (1, 1, 0)])
def test_few_seeds_do_not_rank_rows(rows: int, seeds: int, count: int) -> None:
    assert len(cautions(rows, seeds, quick=False)) == count
    assert all("--seeds" in sentence for sentence in cautions(rows, seeds, quick=False))
    assert len(cautions(rows, seeds, quick=True)) == (count + 1 if rows > 1 else 0)


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
