"""The page of evidence: it shows what its studies' runs say, and differences are paired by seed."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

import evidence
import evidence_figures

from aced.report.aggregate import stat

TEXT = """
recipe = "photos"
seeds = [0, 1, 2]
[keys]
"train.steps" = 4
[[rows]]
name = "IID"
keys = { "method.name" = "iid" }
[[rows]]
name = "H-ACID"
keys = { "method.name" = "h-acid" }
[[points]]
name = "100 %"
keys = { "data.shards" = "a" }
[[points]]
name = "10 %"
keys = { "data.shards" = "b" }
"""
SCORES = {("IID", "100 %"): [10.0, 12.0, 14.0], ("H-ACID", "100 %"): [11.0, 13.5, 15.0], ("H-ACID", "10 %"): [5.0]}


def record(row: str, point: str, seed: int, score: float, **other: Any) -> dict[str, Any]:
    shards = {"100 %": "a", "10 %": "b"}[point]
    keys = {"train.steps": 4, "method.name": row.lower(), "data.shards": shards}
    kinds = {"chosen": {"clean": 3.0, "junk": 1.0}, "pool": {"clean": 10.0, "junk": 10.0}}
    facts = {"clean_share": 0.5, "processor_seconds": 2.0, "steps": 4, "environment": {"cpu": "a CPU"}}
    budgets = {"samples_trained": 64.0, "samples_loaded": 320.0, "flops": 1e9}
    tasks = {"mnist": {"value": score / 100, "chance": 0.1, "n": 5}}
    own = {"row": row, "point": point, "seed": seed, "key": f"{row}{point}{seed}", "keys": keys, "average": score}
    return {**own, "kinds": kinds, "budgets": budgets, "tasks": tasks, **facts, **other}


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> evidence.Lines:
    monkeypatch.setattr(evidence, "STUDIES", tmp_path)
    (tmp_path / "share.toml").write_text(TEXT, encoding="utf-8")
    found = [
        record(row, point, seed, score) for (row, point), all_ in SCORES.items() for seed, score in enumerate(all_)
    ]
    stale = record("IID", "100 %", 0, 99.0)
    stale["keys"] = {**stale["keys"], "train.steps": 5}
    (tmp_path / "share.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*found, stale]), encoding="utf-8")
    return evidence.Lines("share")


def test_the_page_shows_what_the_runs_say() -> None:
    page = evidence.PAGE.read_text(encoding="utf-8")
    assert evidence.filled(page) == page, "run `python docs/evidence.py`"
    assert "{" not in evidence.block("claims")


def test_differences_are_paired_by_seed_and_runs_of_other_settings_do_not_count(lines: evidence.Lines) -> None:
    gain = lines.gain("H-ACID", "IID", "100 %")
    assert gain is not None
    assert gain.std is not None
    assert gain.mean == pytest.approx((1 + 1.5 + 1) / 3)
    assert gain.std == pytest.approx(math.sqrt(((1 - gain.mean) ** 2 * 2 + (1.5 - gain.mean) ** 2) / 2))
    assert evidence.half(gain) == pytest.approx(4.303 * gain.std / math.sqrt(3), rel=1e-3)
    across = evidence.paired(lines.of("H-ACID", "10 %"), lines.of("IID", "100 %"))
    assert across is not None
    assert (across.mean, across.n, evidence.half(across)) == (-5.0, 1, math.inf)


def test_a_verdict_needs_the_whole_interval_on_one_side() -> None:
    assert evidence.verdict(stat([1.0, 1.2, 1.1])) == "confirmed"
    assert evidence.verdict(stat([-1.0, -1.2, -1.1])) == "contradicted"
    assert evidence.verdict(stat([0.1, 1.2, 2.1])) == "not separable"
    assert evidence.verdict(stat([5.0])) == "not run"


def test_the_best_of_a_column_is_bold_and_what_was_not_run_is_a_dash(lines: evidence.Lines) -> None:
    head, iid, acid = evidence.points(lines, [])
    assert head[1:] == ["100 %", "10 %"]
    assert iid == ["IID", "12.0 ± 2.0", "–"]
    assert acid == ["H-ACID", "**13.2 ± 2.0**", "**5.0**"]


def test_shares_of_kinds_are_of_the_pairs_trained_on(lines: evidence.Lines) -> None:
    assert evidence.kinds(lines, ["IID"])[1] == ["pool", "50.0", "50.0"]
    assert evidence.share_of("clean")(lines.records[0]) == 75.0


def test_every_claim_names_rows_and_points_that_its_study_has() -> None:
    import tomllib

    for claim in tomllib.loads(evidence.CLAIMS.read_text(encoding="utf-8"))["claims"]:
        point = claim.get("point", "")
        ends = [
            (claim["study"], claim["row"], point),
            (claim.get("over_study", claim["study"]), claim["over"], claim.get("over_point", point)),
        ]
        for name, row, at in ends:
            study = evidence.Lines(name).study
            assert row in {one.name for one in study.rows}, claim
            assert at in study.points, claim


def test_pictures_show_every_row_and_point(lines: evidence.Lines) -> None:
    for chart in (evidence_figures.share_chart, evidence_figures.ladder_chart):
        text = chart(lines, ["H-ACID"])
        assert "H-ACID" in text
        assert "100 %" in text
