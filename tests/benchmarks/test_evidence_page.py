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
import evidence_blocks
import evidence_figures
import evidence_lines
import evidence_lit
import evidence_stable

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
    monkeypatch.setattr(evidence_lines, "STUDIES", tmp_path)
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
    assert evidence_lines.half(gain) == pytest.approx(4.303 * gain.std / math.sqrt(3), rel=1e-3)
    across = evidence.paired(lines.of("H-ACID", "10 %"), lines.of("IID", "100 %"))
    assert across is not None
    assert (across.mean, across.n, evidence_lines.half(across)) == (-5.0, 1, math.inf)


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
        if claim["study"] == "lit":
            known = {one["row"] for one in evidence.read_records(evidence.STUDIES / "lit.jsonl")}
            assert {claim["row"], claim["over"]} <= known, claim
            continue
        point = claim.get("point", "")
        ends = [
            (claim["study"], claim["row"], point),
            (claim.get("over_study", claim["study"]), claim["over"], claim.get("over_point", point)),
        ]
        for name, row, at in ends:
            study = evidence.Lines(name).study
            assert row in {one.name for one in study.rows}, claim
            assert at in study.points, claim


def study_of(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> evidence.Lines:
    """A study without points; of each row the average, a task or a budget of each seed."""
    text, found = 'recipe = "photos"\nseeds = [0, 1, 2]\n', []
    for row, runs in rows.items():
        text += f'[[rows]]\nname = "{row}"\n'
        for seed, given in enumerate(runs):
            one = record(row, "100 %", seed, given.get("average", 10.0))
            one |= {"point": "", "keys": {}, "processor_seconds": given.get("seconds", 2.0)}
            one["budgets"] |= given.get("budgets", {})
            one["tasks"] = {name: {"value": v / 100, "chance": 0.1} for name, v in given.get("tasks", {}).items()}
            found.append(one)
    (folder / "own.toml").write_text(text, encoding="utf-8")
    (folder / "own.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    return evidence.Lines("own")


def cells(text: str) -> dict[str, list[str]]:
    """The rows of a table, by their first cell."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows}


def test_task_by_task_both_are_compared_with_the_better_one(lines: evidence.Lines, tmp_path: Path) -> None:
    scores = {
        "ACID": {"mnist": [20, 22, 21], "dtd10": [10, 30, 20]},
        "KD": {"mnist": [10, 12, 11.2], "dtd10": [25, 20, 24]},
        "Both": {"mnist": [19, 21.1, 20], "dtd10": [30, 25.5, 29]},
    }
    rows = {
        row: [{"tasks": {task: values[seed] for task, values in known.items()}} for seed in range(3)]
        for row, known in scores.items()
    }
    text = evidence_blocks.task_gains(study_of(tmp_path, rows), ["ACID", "KD", "Both"])
    found = cells(text)
    assert [found["mnist"][i] for i in (0, 2, 3)] == ["**+9.9 ± 0.1**", "ACID", "**−1.0 ± 0.1**"]
    assert [found["dtd10"][i] for i in (0, 2, 3)] == ["−3.0 ± 12.5", "KD", "**+5.2 ± 0.3**"]
    counts = [line for line in text.splitlines() if line.startswith("- ")]
    assert ["1 of 2" in counts[0], "2 of 2" in counts[1], "0.1" in counts[0]] == [True] * 3
    assert "1 above and 1 below" in counts[1]
    assert evidence_blocks.task_gains(study_of(tmp_path, {"ACID": rows["ACID"]}), ["ACID", "KD", "Both"]) == ""


def test_at_each_budget_a_method_stands_by_the_row_that_has_as_much_of_it(
    lines: evidence.Lines, tmp_path: Path
) -> None:
    def runs(scores: list[float], trained: float, loaded: float, seconds: float) -> list[dict[str, Any]]:
        budgets = {"samples_trained": trained, "samples_loaded": loaded}
        return [{"average": score, "budgets": budgets, "seconds": seconds} for score in scores]

    rows = {
        "IID": runs([10, 10, 10], 64, 64, 2),
        "IID at ACED's loaded pairs": runs([14, 14, 14], 320, 320, 10),
        "I-ACED": runs([11, 11, 11], 64, 320, 3),
        "ACED": runs([12, 12.1, 12.2], 64, 320, 5),
    }
    found = cells(evidence_blocks.equal_budgets(study_of(tmp_path, rows), ["IID", "I-ACED", "ACED"]))
    assert found["IID"] == ["10.0 ± 0.0", "**+2.1 ± 0.1**", "**14.0 ± 0.0**", "**−1.9 ± 0.1**", "–", "–"]
    assert found["I-ACED"] == ["11.0 ± 0.0", "**+1.1 ± 0.1**"] * 2 + ["–", "–"]
    assert found["ACED"] == ["**12.1 ± 0.1**", "–", "12.1 ± 0.1", "–", "**12.1 ± 0.1**", "–"]


def test_pictures_show_every_row_and_point(lines: evidence.Lines) -> None:
    for chart in (evidence_figures.share_chart, evidence_figures.ladder_chart):
        text = chart(lines, ["H-ACID"])
        assert "H-ACID" in text
        assert "100 %" in text


def test_a_step_is_shown_in_time_memory_and_flops(lines: evidence.Lines, tmp_path: Path) -> None:
    costs = [record("H-ACID", "10 %", seed, 5.0, peak_megabytes=100.0 + seed) for seed in (1, 2)]
    with (tmp_path / "share.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in costs)
    found = {unit: evidence.overhead(evidence.Lines("share"), ["IID"], unit)[1][1:] for unit in ("ms", "FLOPs")}
    assert found == {"ms": ["500", "–"], "FLOPs": ["250M", "–"]}
    head, row = evidence.overhead(Only("share", seeds=(1, 2)), ["H-ACID"], "MB")
    assert head == ["", "100 %, MB", "10 %, MB"]
    assert row[2] == "102"


class Only(evidence.Lines):
    """Runs of some seeds alone at the last point."""

    def __init__(self, name: str, seeds: tuple[int, ...]) -> None:
        super().__init__(name)
        self.records = [one for one in self.records if one["seed"] in seeds and one["point"] == "10 %"]


def test_seeds_of_one_row_count_where_spread_is_measured_alone(lines: evidence.Lines, tmp_path: Path) -> None:
    text = TEXT.replace('name = "IID"\n', 'name = "IID"\nmore_seeds = [5]\n')
    (tmp_path / "share.toml").write_text(text, encoding="utf-8")
    with (tmp_path / "share.jsonl").open("a", encoding="utf-8") as file:
        for row in ("IID", "H-ACID"):
            file.write(json.dumps(record(row, "100 %", 5, 50.0)) + "\n")
    assert [one["seed"] for one in evidence.Lines("share").of("IID", "100 %")] == [0, 1, 2]
    more = evidence.Lines("share", more=True)
    assert [one["seed"] for one in more.of("IID", "100 %")] == [0, 1, 2, 5]
    assert [one["seed"] for one in more.of("H-ACID", "100 %")] == [0, 1, 2]  # it has no such seed


def decoder(row: str, seed: int, score: float, sorts: tuple[float, float], blind: float) -> dict[str, Any]:
    caption = {"name": "photos", "kind": "caption", "n": 9, "scores": {"CIDEr-D": score, "BLEU-4": 0.0}, "types": {}}
    caption["baselines"] = {"no image": {"CIDEr-D": blind}, "human": {"CIDEr-D": 0.8}}
    types = {sort: {"n": 4, "accuracy": value, "no image": 0.5} for sort, value in zip("ab", sorts, strict=True)}
    vqa = {"name": "asked", "kind": "vqa", "n": 8, "scores": {"accuracy": 0.0}, "baselines": {"no image": {}}}
    facts = {"decoder": {"layers": 2}, "training": {"steps": 3, "batch": 4}, "processor_seconds": 7.0}
    return {"row": row, "seed": seed, "tasks": [caption, vqa | {"types": types}], **facts}


def test_decoders_are_compared_by_seed_and_stand_beside_those_without_images() -> None:
    runs = [
        decoder("IID", 0, 0.10, (0.5, 0.6), 0.05),
        decoder("IID", 1, 0.20, (0.5, 0.6), 0.07),
        decoder("ACED", 1, 0.26, (0.4, 0.7), 0.07),
        decoder("ACED", 0, 0.12, (0.4, 0.7), 0.05),
    ]
    head, iid, aced, blind, human = evidence_lit.lit_table(runs)
    assert len(head) == 1 + 2 * 3
    assert iid == ["IID", "15.0 ± 7.1", "–", "**50.0 ± 0.0**", "–", "60.0 ± 0.0", "–"]
    assert aced[:3] == ["ACED", "**19.0 ± 9.9**", "+4.0 ± 2.8"]
    assert aced[4::2] == ["−10.0 ± 0.0", "+10.0 ± 0.0"]
    assert blind[1:] == ["6.0 ± 1.4", "–", "50.0", "–", "50.0", "–"]  # two seeds, not four runs
    assert human[1:] == ["80.0", "–", "–", "–", "–", "–"]
    assert "{" not in evidence_lit.lit_block(runs)


def scored(row: str, seed: int, **values: float) -> dict[str, Any]:
    tasks = {name: {"value": value, "chance": 0.1, "n": 1000} for name, value in values.items()}
    return {"row": row, "seed": seed, "tasks": tasks}


def test_stable_tasks_are_those_of_the_product_and_change_the_order_of_rows() -> None:
    noise = [-0.09, 0.0, 0.09, -0.06, 0.06]
    iid = [scored("IID", s, guess=0.1, noisy=0.4 + x, steady=0.3 + x / 50) for s, x in enumerate(noise)]
    acid = [scored("H-ACID", s, guess=0.1, noisy=0.3 - x, steady=0.35 + x / 90) for s, x in enumerate(noise)]
    kept = evidence_stable.chosen([*iid, *acid], [])
    assert (kept.kept, kept.recipes, kept.df) == (["steady"], {"IID": 5, "H-ACID": 5}, 8)
    alone = {"IID": evidence_stable.chosen(iid, []), "H-ACID": evidence_stable.chosen(acid, [])}
    head, *rows = evidence_stable.task_table(kept, alone)
    assert {len(row) for row in rows} == {len(head)}
    assert [row[0] for row in rows] == ["steady", "noisy", "guess"]
    spread = 100 * math.sqrt(sum(x * x for x in noise) / 4)  # n - 1
    assert [rows[1][at] for at in (4, 7, 9)] == [f"{spread:.2f}"] * 3
    assert rows[0][7] == f"{spread / 50:.2f}"
    _, first, second = evidence_stable.order_table(kept.kept, [*iid[:3], *acid[:3]])
    assert (first[0], first[1], first[4], first[6]) == ("IID", "1", "2", "–")
    assert (second[0], second[1], second[4]) == ("H-ACID", "2", "1")
    assert second[5].strip("*").startswith("35.0")
    assert second[6].startswith("+5.0")
    ranked = evidence_stable.chosen([*iid, *acid], [*iid[:3], *acid[:3]])
    assert (ranked.models, ranked.swapped, ranked.kept) == (2, 1, kept.kept)


def test_a_spread_needs_seeds_of_every_row() -> None:
    iid = [scored("IID", seed, steady=0.3 + seed / 100) for seed in range(3)]
    assert "|" not in evidence_stable.stable_block([*iid, scored("H-ACID", 0, steady=0.4)], iid)
    assert "|" not in evidence_stable.stable_block([], iid)
