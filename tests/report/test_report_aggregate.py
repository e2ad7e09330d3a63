from __future__ import annotations

import doctest
import math
from pathlib import Path
from typing import Any

import pytest

from aced.report import aggregate, numbers
from aced.report.aggregate import Stat, group_rows, stat
from aced.runs.records import Results, RunRecord, StepLine
from aced.runs.run_results import parse_results


def row(method: str, seed: int, average: float | None, **more: Any) -> dict[str, Any]:
    return {"method": method, "title": method.upper(), "seed": seed, "average": average, **more}


def results(*rows: dict[str, Any]) -> Results:
    return parse_results({"rows": list(rows)})


def record(name: str, lines: list[dict[str, Any]], method: str = "aced", seed: int = 0, **more: Any) -> RunRecord:
    return RunRecord(
        folder=Path("/somewhere/runs") / name,
        config={"method": {"name": method}, "run": {"seed": seed}},
        config_text="",
        steps=[StepLine.model_validate(line) for line in lines],
        **more,
    )


def test_worked_examples() -> None:
    assert doctest.testmod(numbers).failed == 0
    assert doctest.testmod(aggregate).failed == 0


def test_mean_and_standard_deviation_by_hand() -> None:
    # Deviations -2, 0, 2: variance (4 + 0 + 4) / 2 = 4.
    assert stat([28.0, 30.0, 32.0]) == Stat(30.0, 2.0, 3)
    assert stat([5.0]) == Stat(5.0, None, 1)
    assert stat([None, math.nan, math.inf]) is None
    assert stat([]) is None


def test_rows_become_groups() -> None:
    budgets = [{"flops": 10.0, "seconds": 2.0}, {"flops": 30.0, "seconds": 3.0}, {"flops": 50.0}]
    groups = group_rows(
        results(
            row("iid", 0, 28.0, budgets=budgets[0], tasks={"a": {"value": 0.2, "chance": 0.1}}),
            row("aced", 0, 50.0, budgets=budgets[1], clean_share=0.9, tasks={"a": {"value": 0.5}}),
            row("iid", 1, 32.0, budgets=budgets[0], tasks={"a": {"value": 0.4}}),
            row("aced", 1, 60.0, budgets=budgets[2], clean_share=0.8, tasks={"b": {"value": 1.0}}),
        )
    )
    iid, aced = groups
    assert [g.title for g in groups] == ["IID", "ACED"]
    assert (iid.is_baseline, aced.is_baseline) == (True, False)
    assert iid.average == Stat(30.0, pytest.approx(math.sqrt(8)), 2)
    assert iid.gain is None
    assert aced.gain == pytest.approx(25.0)  # (50 - 28 + 60 - 32) / 2
    assert aced.clean is not None
    assert aced.clean.mean == pytest.approx(0.85)
    assert aced.budgets["flops"].mean == 40.0
    assert aced.budgets["seconds"] == Stat(3.0, None, 1)
    assert aced.ratios == {"flops": 4.0, "seconds": 1.5}
    assert iid.tasks["a"].mean == pytest.approx(0.3)
    assert aced.tasks == {"a": Stat(0.5, None, 1), "b": Stat(1.0, None, 1)}
    assert aggregate.task_chances(results(row("x", 0, 1.0, tasks={"a": {"value": 0.2}, "b": {"value": 1}}))) == {
        "a": None,
        "b": None,
    }


def test_gain_compares_the_same_seeds() -> None:
    groups = group_rows(results(row("iid", 0, 10.0), row("iid", 1, 30.0), row("aced", 1, 33.0)))
    assert groups[1].gain == pytest.approx(3.0)
    # No seed in common: the means are compared.
    groups = group_rows(results(row("iid", 0, 10.0), row("iid", 1, 30.0), row("aced", 7, 33.0)))
    assert groups[1].gain == pytest.approx(13.0)
    groups = group_rows(results(row("iid", 0, 10.0), row("aced", 0, None)))
    assert groups[1].gain is None
    assert groups[1].average is None


def test_another_title_is_another_group() -> None:
    rows = [row("iid", 0, 10.0), {**row("iid", 0, 20.0), "title": "IID, 4x"}]
    groups = group_rows(results(*rows))
    assert [(g.title, g.is_baseline, g.gain) for g in groups] == [
        ("IID", True, None),
        ("IID, 4x", False, 10.0),
    ]


def test_runs_are_found_by_folder_and_then_by_method_and_seed() -> None:
    named = record("aced-long", [{"step": 1}], method="aced", seed=0)
    loose = record("whatever", [{"step": 1}], method="aced", seed=0)
    other = record("other", [{"step": 1}], method="rho", seed=0)
    groups = group_rows(
        results(row("aced", 0, 1.0), {**row("aced", 0, 2.0, run="runs/aced-long"), "title": "long"}),
        [other, named, loose],
    )
    assert groups[0].runs == [loose]
    assert groups[1].runs == [named]


def one_group(*runs: RunRecord) -> aggregate.Group:
    rows = [row("aced", run.seed, 1.0, run=f"runs/{run.folder.name}") for run in runs]
    return group_rows(results(*rows), runs)[0]


def test_curves_are_means_over_the_steps_that_all_runs_share() -> None:
    first = record("a", [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": math.nan}])
    second = record("b", [{"step": 2, "loss": 6.0}, {"step": 3, "loss": 1.0}, {"step": 4, "loss": 1.0}], seed=1)
    assert aggregate.curve(one_group(first, second), lambda line: line.loss) == [(2.0, 4.0)]
    assert aggregate.curve(one_group(first), lambda line: line.loss) == [(1.0, 4.0), (2.0, 2.0)]
    assert aggregate.curve(one_group(first), lambda line: line.kd) == []
    # No step in common: the first run stands for both.
    third = record("c", [{"step": 9, "loss": 6.0}], seed=1)
    assert aggregate.curve(one_group(first, third), lambda line: line.loss) == [(1.0, 4.0), (2.0, 2.0)]


def test_long_curves_are_thinned_by_averaging() -> None:
    run = record("a", [{"step": i, "loss": float(i % 2)} for i in range(1, 1001)])
    points = aggregate.curve(one_group(run), lambda line: line.loss, most=100)
    assert len(points) == 100
    assert points[0] == (5.5, 0.5)
    assert all(y == 0.5 for _, y in points)


def test_kind_shares_add_up_over_seeds() -> None:
    def kinds(clean: int, junk: int) -> dict[str, Any]:
        return {"chosen": {"clean": clean, "junk": junk}, "pool": {"clean": 30, "junk": 70}}

    first = record("a", [{"step": 1, "kinds": kinds(3, 1)}, {"step": 2, "kinds": kinds(4, 0)}, {"step": 3}])
    second = record("b", [{"step": 1, "kinds": kinds(1, 3)}, {"step": 2, "kinds": kinds(4, 0)}], seed=1)
    shares = aggregate.kind_shares(one_group(first, second))
    assert shares is not None
    assert shares.steps == [1.0, 2.0]
    assert shares.chosen == {"clean": [0.5, 1.0], "junk": [0.5, 0.0]}
    assert shares.pool == {"clean": pytest.approx(0.3), "junk": pytest.approx(0.7)}
    both = aggregate.kind_shares(one_group(first, second), most=1)
    assert both is not None
    assert both.chosen == {"clean": [0.75], "junk": [0.25]}
    assert aggregate.kind_shares(one_group(record("c", [{"step": 1}]))) is None


def test_phases_per_step_and_per_sample() -> None:
    lines = [{"step": 1}, {"step": 4, "seconds": {"train": 8.0}, "flops": {"scoring": 60.0}}]
    lines[1]["budgets"] = {"samples_trained": 20}
    first = record("a", lines)
    second = record("b", [{"step": 2, "seconds": {"train": 2.0, "load": 1.0}}], seed=1)
    group = one_group(first, second)
    assert aggregate.seconds_per_step(group) == {"train": 1.5, "load": 0.5}
    assert aggregate.flops_per_sample(group) == {"scoring": 3.0}


def test_accuracy_over_a_budget() -> None:
    from aced.runs.records import EvalLine

    def evals(*values: tuple[int, float, float]) -> list[EvalLine]:
        return [EvalLine(step=s, average=a, budgets={"flops": f}) for s, a, f in values]

    first = record("a", [{"step": 1}], evals=evals((5, 20.0, 1.0), (10, 30.0, 2.0)))
    second = record("b", [{"step": 1}], seed=1, evals=evals((5, 40.0, 3.0), (12, 50.0, 9.0)))
    assert aggregate.accuracy_over(one_group(first, second), "flops") == [(2.0, 30.0)]
    assert aggregate.accuracy_over(one_group(first, second), "seconds") == []
