"""The report with what other commands found out: stable tasks, and what decoders wrote on the runs' encoders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import report_fake
from test_report_lit import RUNS as DECODERS
from test_report_lit import entry
from test_report_page import Page

from aced.errors import AcedError
from aced.lab.lit.decoders import load_decoder
from aced.report.stability_page import read_stability
from cli_fakes import Cli


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two methods, the first with two seeds."""
    report_fake.make(tmp_path, ["iid", "aced"], seeds=2, steps=20)
    return [tmp_path / "runs" / name for name in ("iid-s0", "iid-s1", "aced-s0")]


@pytest.fixture
def stable(tmp_path: Path, cli: Cli) -> Path:
    """What `aced stable` writes about six seeds."""
    rows = [f"r,{seed},{0.5 + 0.001 * seed},{0.4 + 0.02 * (seed % 3)},{0.3 + 0.002 * seed}" for seed in range(6)]
    (tmp_path / "table.csv").write_text("recipe,seed,steady <i>,shaky,calm\n" + "\n".join(rows), encoding="utf-8")
    out = tmp_path / "chosen/stable.json"
    ended = cli("stable", tmp_path / "table.csv", "--out", out, "--resamples", 50)
    assert ended.status == 0, ended.err
    return out


def page_of(cli: Cli, tmp_path: Path, *words: Any) -> Page:
    ended = cli("report", *words, "--out", tmp_path / "page.html")
    assert ended.status == 0, ended.err
    return Page((tmp_path / "page.html").read_text(encoding="utf-8"))


def write_decoder(run: Path, results: dict[str, Any], gallery: list[dict[str, Any]]) -> None:
    (run / "lit").mkdir()
    (run / "lit/results.json").write_text(json.dumps(results), encoding="utf-8")
    (run / "lit/gallery.json").write_text(json.dumps(gallery), encoding="utf-8")


def test_a_report_names_every_run_that_is_not_there_and_writes_no_page(
    cli: Cli, tmp_path: Path, runs: list[Path]
) -> None:
    missing = [tmp_path / name for name in ("one", "two")]
    ended = cli("report", missing[0], runs[0], missing[1], "--out", tmp_path / "page.html")
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert all(str(run) in ended.err for run in missing)
    assert str(runs[0]) not in ended.err
    assert not (tmp_path / "page.html").exists()


def test_stable_tasks_stand_on_the_page(cli: Cli, tmp_path: Path, runs: list[Path], stable: Path) -> None:
    assert "stable" not in page_of(cli, tmp_path, *runs).sections
    page = page_of(cli, tmp_path, *runs, "--stable", stable)
    assert page.sections[-2:] == ["stable", "setup"]
    record = json.loads(stable.read_text(encoding="utf-8"))
    assert f"{record['chosen']} of 3" in page.text
    for task in record["tasks"]:
        assert task["name"] in page.text
        assert f"<b>{100 * task['sigma']:.2f}</b>" in page.html
    assert "Held-out seeds" in page.text
    labels = [str(a.get("aria-label")) for a in page.all("svg")]
    assert len({label for label in labels if "Standard deviation" in label}) == 2
    assert "steady <i>" in page.text
    assert "steady <i>" not in page.html
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    # In the first folder it is found by itself.
    shutil.copy(stable, runs[0] / "stable.json")
    assert "stable" in page_of(cli, tmp_path, *runs).sections


def test_what_was_read_is_what_was_found(stable: Path) -> None:
    found = read_stability(stable)
    record = json.loads(stable.read_text(encoding="utf-8"))
    assert found.kept == record["kept"]
    assert [point.std for point in found.curve] == [point["std"] for point in record["curve"]]
    assert found.sigma_factors == tuple(record["sigma_factors"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "s.json"), ("{", "'aced stable'"), ('{"rows": []}', "tasks: ")],
)
def test_a_file_that_is_no_choice_of_tasks(
    cli: Cli, tmp_path: Path, runs: list[Path], content: str | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "s.json").write_text(content, encoding="utf-8")
    ended = cli("report", *runs, "--stable", tmp_path / "s.json")
    assert ended.status == 2
    assert sentence in ended.err
    assert ended.err.count("\n") == 1


def test_what_decoders_wrote_stands_on_the_page(cli: Cli, tmp_path: Path, runs: list[Path]) -> None:
    assert "decoders" not in page_of(cli, tmp_path, *runs).sections
    image = "data:image/png;base64,AA"
    for run, results, text in zip(runs, DECODERS, ("one thing", "other seed", "<b>two</b> things"), strict=True):
        write_decoder(run, results, [{**entry("7", text), "image": image}])
    page = page_of(cli, tmp_path, *runs)
    assert page.sections[-2:] == ["decoders", "setup"]
    # The methods beside each other on one picture; of two seeds the first one's text.
    assert page.html.count(image) == 1
    assert "one thing" in page.text
    assert "other seed" not in page.text
    assert "<b>two</b> things" in page.text
    assert "<b>two" not in page.html
    # Means over the seeds, and the decoder that sees nothing.
    assert "0.300 ± 0.141" in page.text
    assert "Decoder without images" in page.text


def test_a_decoder_of_other_data_is_named_and_left_out(cli: Cli, tmp_path: Path, runs: list[Path]) -> None:
    other = {**DECODERS[2], "tasks": [{**DECODERS[2]["tasks"][0], "name": "elsewhere"}]}
    write_decoder(runs[0], DECODERS[0], [])
    write_decoder(runs[2], other, [])
    page = page_of(cli, tmp_path, *runs)
    assert f"{runs[2] / 'lit'}" in page.text
    assert "elsewhere" not in page.text


@pytest.mark.parametrize(
    ("results", "gallery", "sentence"),
    [
        ({}, [], "tower: .*required"),
        (DECODERS[0], [{**entry("1", "x"), "image": "http://x/y.png"}], "inline"),
        (DECODERS[0], {"no": "list"}, "entries: .*list"),
    ],
)
def test_a_damaged_decoder_is_told(runs: list[Path], results: Any, gallery: Any, sentence: str) -> None:
    assert load_decoder(runs[0]) is None
    write_decoder(runs[0], results, gallery)
    with pytest.raises(AcedError, match=sentence):
        load_decoder(runs[0])
