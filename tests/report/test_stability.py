"""`aced stable` as a whole: table, JSON, page, provenance, refusals."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from aced.evaluate.stability.resampling import Rules
from aced.evaluate.stability.spread import ScoreTable
from aced.evaluate.stability.stable_tasks import Stability, select_stable
from aced.programs.stable import findings, stability_table
from cli_fakes import Cli
from wording import tells

SIGMAS = [0.004, 0.006, 0.005, 0.008, 0.2]


def values(seeds: int = 6) -> Any:
    drawn = 0.5 + np.random.default_rng(0).normal(size=(seeds, len(SIGMAS))) * SIGMAS
    return np.column_stack([drawn, np.full(seeds, 0.1)])


def found(seeds: int = 6, **more: Any) -> Stability:
    table = values(seeds)
    scores = ScoreTable(
        tasks=[f"t{i}" for i in range(6)],
        values=table,
        recipes=["r"] * seeds,
        n=more.get("n", np.full(6, 500.0)),
        chance=np.full(6, 0.1),
        errors=np.full((seeds, 6), np.nan),
        ranked_only=np.zeros(seeds, dtype=bool),
    )
    return select_stable(scores, Rules(resamples=200, splits=20, least=4))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tasks = [f"t{i}" for i in range(6)]
    rows = [
        {
            "method": "iid",
            "title": "IID <b>",
            "seed": seed,
            "tasks": {t: {"value": v, "chance": 0.1, "n": 500} for t, v in zip(tasks, line, strict=True)},
        }
        for seed, line in enumerate(values().tolist())
    ]
    better = {task: part | {"value": 0.9} for task, part in rows[0]["tasks"].items()}
    rows.append({"method": "aced", "title": "ACED", "seed": 0, "tasks": better})
    path = tmp_path / "in.json"
    path.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    return path


def test_the_command_writes_json_and_page_and_prints(file: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "new/stable.json"
    ended = cli("stable", file, "--out", out, "--resamples", 100, "--least", 4)
    assert ended.status == 0, ended.err
    record = json.loads(out.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
    assert record["kept"] == [t["name"] for t in record["tasks"] if t["verdict"] == "kept"]
    assert sorted(record["kept"]) == ["t0", "t1", "t2", "t3"]
    assert record["chosen"] == 4
    assert record["recipes"] == {"IID <b>": 6}
    assert record["inputs"] == [{"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}]
    assert record["command"][:3] == ["aced", "stable", str(file)]
    assert len(record["curve"]) == 5
    assert (record["models"], record["tau"]) == (2, 1.0)
    verdicts = dict(re.findall(r"(t\d) .*?(kept|noisy|chance) *│\n", ended.out))
    assert verdicts == {"t0": "kept", "t1": "kept", "t2": "kept", "t3": "kept", "t4": "noisy", "t5": "chance"}
    assert "N is between" in ended.out
    page = out.with_suffix(".html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "IID &lt;b&gt;" in page
    assert "IID <b>" not in page
    assert "#0f1e" not in page  # all colours became the page's
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#|data:)|url\((?!#)|@import|<script""", page)
    for task in record["tasks"]:
        assert f">{task['name']}<" in page


def test_the_page_shows_the_figures_of_the_json(file: Path, cli: Cli, tmp_path: Path) -> None:
    cli("stable", file, "--out", tmp_path / "s.json", "--resamples", 100)
    record = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    for task in record["tasks"]:
        assert f"<b>{100 * task['sigma']:.2f}</b>" in page
    assert f"{100 * record['stable']['std']:.2f} points" in page


def test_the_sentences_say_what_was_not_known() -> None:
    text = " ".join(findings(found()))
    assert "6 x r; 5 degrees of freedom" in text
    assert tells(text, "0.62 … 2.45")
    assert "too few" not in text
    assert tells(text, "5 of 6 tasks … t5")
    assert tells(text, "4 … 5 tasks")
    assert "other half" in text
    assert "Ranking" not in text
    unknown = " ".join(findings(found(n=np.array([500.0, np.nan, 500, 500, 500, 500]))))
    assert "--facts): t1." in unknown
    few = " ".join(findings(found(seeds=2)))
    assert few.count("too few") == 2


def test_the_table_fits_a_terminal() -> None:
    console = Console(width=100, record=True)
    console.print(stability_table(found()))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in "".join(lines)


def test_faults_end_in_one_sentence(file: Path, cli: Cli, tmp_path: Path) -> None:
    hole = json.loads(file.read_text(encoding="utf-8"))
    del hole["rows"][2]["tasks"]["t3"]
    (tmp_path / "hole.json").write_text(json.dumps(hole), encoding="utf-8")
    for words, sentence in (
        ([tmp_path / "hole.json"], "task 't3' … 'IID <b> seed 2'"),
        ([tmp_path / "nothing.json"], "file"),
        ([file, "--alpha", "2"], "--alpha … 2.0"),
        ([file, "--missing", "zero"], "--missing … 'zero'"),
        ([file, "--recipe-column", "a", "--repeat-pattern", "b"], "both"),
        ([file, "--least", "9"], "9 tasks … 5"),
        ([file, file], "twice"),
    ):
        ended = cli("stable", *words, "--out", tmp_path / "no.json")
        assert ended.status == 2
        assert tells(ended.err, sentence)
        assert ended.err.count("\n") == 1
        assert "Traceback" not in ended.err
    assert not (tmp_path / "no.json").exists()
    ended = cli("stable", tmp_path / "hole.json", "--missing", "tasks", "--out", tmp_path / "yes.json")
    assert ended.status == 0
    assert (
        "t3" not in (tmp_path / "yes.json").read_text(encoding="utf-8").partition('"kept"')[2].partition('"recipes"')[0]
    )


def test_published_results_of_open_clip(shared_data: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    words = ["--repeat-pattern", "_e3[12]$", "--ignore", "params*", "--ignore", "FLOPs*", "--ignore", "Average*"]
    ended = cli("stable", shared_data / "openclip_results.csv", *words, "--out", out, "--resamples", 50)
    assert ended.status == 0, ended.err
    record = json.loads(out.read_text(encoding="utf-8"))
    assert len(record["tasks"]) == 38
    assert record["df"] == 5  # five models with the checkpoints of epochs 31 and 32
    assert record["models"] == 121 - 5
