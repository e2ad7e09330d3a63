"""The summary claims what the table shows: hand-made tables, both ways."""

from __future__ import annotations

from typing import Any

import pytest

from aced.lab.demo.demo_summary import summarise
from aced.lab.demo.rows import ROWS
from wording import tells

TASKS = {"shape": {"value": 0.5, "chance": 0.125, "n": 600}, "colour": {"value": 0.4, "chance": 0.1, "n": 600}}


def row(method: str, average: float, trained: int = 1000, seconds: float = 10.0, seed: int = 0) -> dict[str, Any]:
    budgets = {"samples_trained": trained, "samples_loaded": trained, "flops": 1e9, "seconds": seconds}
    title = ROWS[method].title
    return {"method": method, "title": title, "seed": seed, "average": average, "tasks": TASKS, "budgets": budgets}


def told(*rows: dict[str, Any], **more: Any) -> list[str]:
    sentences = summarise({"rows": list(rows), **more})
    assert len(sentences) == 3 + ("reference" in more)
    assert all(sentence.endswith(".") and sentence.count(". ") == 0 for sentence in sentences)
    return sentences


def test_what_was_compared() -> None:
    reference = {"average": 84.25, "train_seconds": 70.0, "embed_seconds": 4.6}
    first, *_, last = told(row("iid", 30), row("aced", 50), reference=reference)
    assert tells(first, "2 … 11.2 % … 84.2 %")
    assert tells(last, "70 s … 4.6 s")
    packaged = told(row("iid", 30), row("aced", 50), reference=reference | {"trained_on": "some processor"})[-1]
    assert tells(packaged, "packaged … 70 s … some processor … 4.6 s")
    assert "seeds" not in first
    several = told(row("iid", 30), row("iid", 31, seed=1))[0]
    assert "(2 seeds)" in several
    assert "reference" not in several


def test_a_lead_at_equal_samples() -> None:
    second = told(row("iid", 30.0), row("h-acid", 44.0), row("aced", 52.34), row("iid-longer", 60.0, trained=4000))[1]
    assert tells(second, "1,000 … ACED … 52.3 % … 22.3 points")
    assert "30.0 %" in second


def test_no_lead_at_equal_samples() -> None:
    for aced in (29.0, 30.0, 30.04):
        second = told(row("iid", 30.0), row("aced", aced), row("iid-longer", 60.0, trained=4000))[1]
        assert tells(second, "1,000 … no method … IID … 30.0 %")


def test_a_row_that_trains_on_more_is_not_compared_at_equal_samples() -> None:
    second = told(row("iid", 30.0), row("aced", 31.0), row("aced-iidistill", 70.0, trained=2000))[1]
    assert tells(second, "ACED … 31.0 %")
    assert "70" not in second


def test_rows_without_iid() -> None:
    second = told(row("h-acid", 40.0), row("aced", 50.0), row("aced-iidistill", 70.0, trained=2000))[1]
    assert tells(second, "1,000 … ACED … 2 rows … 50.0 %")
    assert "70" not in second
    assert tells(told(row("aced", 50.0))[1], "1,000 … one row … ACED … 50.0 %")


@pytest.mark.parametrize(("aced", "verdict"), [(50.0, "below"), (40.0, "above"), (46.02, "the same as")])
def test_by_the_clock_against_the_best_other_row(aced: float, verdict: str) -> None:
    rows = [row("iid", 30.0), row("aced", aced, seconds=25.0), row("iid-wall", 44.0), row("softmax-kd-wall", 46.0)]
    third = told(*rows)[2]
    assert tells(third, "ACED … 25 s … 2.5 times … IID")
    assert tells(third, f"Softmax-KD … 46.0 % … {verdict} … ACED's {aced:.1f} %")
    others = {"below", "above", "the same as"} - {verdict}
    assert not any(word in third for word in others)


@pytest.mark.parametrize(("longer", "verdict"), [(49.0, "below"), (51.0, "above"), (50.0, "the same as")])
def test_by_the_clock_against_iid_longer(longer: float, verdict: str) -> None:
    rows = [row("iid", 30.0), row("aced", 50.0, seconds=25.0), row("iid-longer", longer, trained=4000, seconds=41.0)]
    third = told(*rows)[2]
    assert tells(third, "IID, 4x longer … 41 s")
    assert tells(third, f"{longer:.1f} % … {verdict} … ACED's 50.0 %")


def test_by_the_clock_without_what_it_takes_to_compare() -> None:
    assert " times " not in told(row("softmax-kd", 30.0), row("aced", 50.0, seconds=25.0))[2]
    third = told(row("iid", 30.0, seconds=3.0), row("h-acid", 50.0, seconds=25.0))[2]
    assert tells(third, "H-ACID … 25 s")
    assert " times " not in third


def test_means_are_over_seeds() -> None:
    rows = [row("iid", 30.0 + s, seed=s) for s in (0, 1)] + [row("aced", 50.0 + 2 * s, seed=s) for s in (0, 1)]
    assert tells(told(*rows)[1], "ACED … 51.0 % … 20.5 points … IID, 30.5 %")
