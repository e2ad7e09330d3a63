"""`aced latency`: the statistics, the numbers beside them, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from aced.latency.measuring import measure
from aced.latency.runtimes import halves
from aced.models import load_tower
from cli_fakes import Cli


def test_statistics_of_known_times() -> None:
    now = [0.0]
    order: list[str] = []
    lengths = {"slow": iter([9.0] + [4.0] * 3 + [9.0] + [6.0, 8.0, 7.0]), "quick": iter([1.0] * 100)}

    def call(name: str) -> None:
        order.append(name)
        now[0] += next(lengths[name])

    slow, quick = measure(
        [lambda: call("slow"), lambda: call("quick")],
        rounds=2,
        seconds=5.0,
        before=[lambda: order.append("-"), lambda: order.append("-")],
        clock=lambda: now[0],
    )
    assert (slow.median, slow.low, slow.high, slow.p95, slow.calls) == (5.0, 4.0, 7.0, 8.0, 6)
    assert (quick.median, quick.calls) == (1.0, 10)
    assert "".join(word[0] for word in order) == ("-" + "s" * 4 + "-" + "q" * 6) * 2


def test_p95_leaves_five_of_a_hundred_out() -> None:
    now = [0.0]
    lengths = iter([0.5, *(float(i) for i in range(1, 101))])

    def call() -> None:
        now[0] += next(lengths)

    (times,) = measure([call], rounds=1, seconds=5050.0, before=[lambda: None], clock=lambda: now[0])
    assert times.p95 == 95.0


def test_the_halves_of_a_model_are_all_of_it() -> None:
    tower = load_tower("aced-demo-s", seed=0)
    image, text = halves(tower)
    assert image == sum(value.numel() for value in tower.model.visual.parameters())  # type: ignore[union-attr]
    loose = 1 + (getattr(tower.model, "logit_bias", None) is not None)
    assert image + text + loose == sum(value.numel() for value in tower.model.parameters())


def test_every_case_has_a_row_with_the_models_numbers(tmp_path: Path, cli: Cli) -> None:
    words = ["--batch", 1, "--batch", 3, "--threads", 1, "--rounds", 1, "--seconds", 0, "--device", "cpu"]
    end = cli("latency", "aced-demo-s", "aced-demo-m", *words, "--out", tmp_path / "out")
    assert (end.status, end.err) == (0, "")
    rows = json.loads((tmp_path / "out" / "latency.json").read_text())["rows"]
    names = ("aced-demo-s", "aced-demo-m")
    assert {(row["model"], row["tower"], row["batch"]) for row in rows} == {
        (name, side, batch) for name in names for side in ("image", "text") for batch in (1, 3)
    }
    for row in rows:
        tower = load_tower(row["model"], seed=0)
        flops = tower.flops(tower.context_length)
        assert row["multiply_adds"] * 2 == (flops.image if row["tower"] == "image" else flops.text)
        assert row["bytes"] == pytest.approx(4 * row["parameters"], rel=0.05)
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["median"] <= row["p95"]
    assert len((tmp_path / "out" / "latency.md").read_text().splitlines()) == 2 + len(rows)
    figure = (tmp_path / "out" / "latency.svg").read_text()
    assert figure.startswith("<?xml")
    assert torch.get_num_threads() == 1


def test_a_runtime_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aced.programs import latency as program

    def broken(tower: object, folder: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setitem(program.RUNTIMES, "compiled", broken)  # type: ignore[arg-type]
    words = ["--batch", 1, "--rounds", 1, "--seconds", 0, "--out", tmp_path / "out", "--device", "cpu"]
    end = cli("latency", "aced-demo-s", *words, "--runtime", "compiled", "--runtime", "eager")
    assert end.status == 0
    found = json.loads((tmp_path / "out" / "latency.json").read_text())
    assert {row["runtime"] for row in found["rows"]} == {"eager"}
    assert "no compiler here" in found["failed"]["aced-demo-s, compiled"]
    end = cli("latency", "aced-demo-s", *words, "--runtime", "compiled")
    assert (end.status, len(end.err.splitlines())) == (2, 1)


@pytest.mark.parametrize("words", [["--runtime", "tensort"], ["--device", "abacus"], ["no-such-model"]])
def test_what_is_not_there_is_one_sentence(words: list[str], tmp_path: Path, cli: Cli) -> None:
    end = cli("latency", "aced-demo-s", *words, "--out", tmp_path / "out")
    assert (end.status, len(end.err.splitlines())) == (2, 1)
    assert not (tmp_path / "out").exists()


def test_onnxruntime_is_timed_beside_torch(tmp_path: Path, cli: Cli) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    words = ["--runtime", "onnx", "--runtime", "int8", "--batch", 1, "--batch", 2, "--rounds", 1, "--seconds", 0]
    end = cli("latency", "aced-demo-s", *words, "--device", "cpu", "--out", tmp_path / "out")
    assert (end.status, end.err) == (0, "")
    rows = json.loads((tmp_path / "out" / "latency.json").read_text())["rows"]
    assert {(row["runtime"], row["batch"], row["tower"]) for row in rows} == {
        (runtime, batch, side) for runtime in ("onnx", "int8") for batch in (1, 2) for side in ("image", "text")
    }
    size = {(row["runtime"], row["tower"]): row["bytes"] for row in rows}
    assert size["int8", "image"] < size["onnx", "image"]


def test_a_trained_model_is_scored_by_the_runtime_and_a_random_one_is_not(
    trained: dict[str, Path], tmp_path: Path, cli: Cli
) -> None:
    words = ["--batch", 1, "--rounds", 1, "--seconds", 0, "--device", "cpu", "--data", "scenes"]
    assert cli("latency", trained["peer"], "aced-demo-m", *words, "--out", tmp_path / "out").status == 0
    rows = json.loads((tmp_path / "out" / "latency.json").read_text())["rows"]
    assert cli("eval", trained["peer"], "--data", "scenes", "--out", tmp_path / "eval").status == 0
    wanted = json.loads((tmp_path / "eval" / "eval.json").read_text())["average"]
    found = {row["model"]: row["average"] for row in rows}
    assert found["aced-demo-m"] is None
    assert found["aced-demo-s"] == pytest.approx(100 * wanted, abs=0.01)
