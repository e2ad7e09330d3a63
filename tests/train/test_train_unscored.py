"""A task that cannot be scored never ends a run, and averages over different tasks are not compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from aced.config import Config
from aced.errors import AcedError
from aced.evaluate.tasks import Classification, Task, TaskResult
from aced.evaluate.zeroshot import Scores, score_all
from aced.lab.scenes import Scenes, make_pool, make_tasks
from aced.models import load_tower
from aced.pool.views import View
from aced.report import load_run, results_table, write_report
from aced.report.shared_tasks import on_shared_tasks
from aced.runs.run_results import parse_results, results_of
from aced.runs.standing import read_status
from aced.runtime.progress import Bars
from aced.train.best import best_model, keep_best
from aced.train.run.fit import fit
from aced.train.run.fitted import Fitted
from aced.train.run.inputs import make_eval_tasks
from aced.train.run.student import make_student
from cli_fakes import Cli
from run_fakes import inputs_of, lines_of, quiet, run_config
from wording import tells

Images = Callable[[View], torch.Tensor]


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(400, 1)


@pytest.fixture(scope="module")
def good() -> Task:
    return make_tasks("validation", n=20, retrieval_n=10)[0]


def failing(error: BaseException, name: str = "lost", start: int = 1) -> Task:
    """A task whose images cannot be had from the `start`-th time on that they are asked for."""
    asked: list[View] = []

    def images(view: View) -> torch.Tensor:
        asked.append(view)
        if len(asked) >= start:
            raise error
        return torch.zeros(2, 3, view.size, view.size, dtype=torch.uint8)

    return Classification(name, images, torch.tensor([0, 1]), ["a", "b"], ["{c}"], 0.5)


def run(config: Config, pool: Scenes, tasks: list[Task], bars: Bars | None = None, **how: Any) -> Fitted:
    inputs = replace(inputs_of(config, pool), tasks=tasks)
    return fit(config, inputs, make_student(config), bars or quiet(), **how)


FAULTS = {
    "a tar is gone": AcedError("eval/0.tar cannot be read (No such file or directory)."),
    "the system refuses": PermissionError(13, "Permission denied", "eval/0.tar"),
    "memory": MemoryError(),
    "memory of torch": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"
    ),
    "memory of a device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "a bug": IndexError("index 7 is out of range"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_task_that_fails_costs_neither_the_run_nor_the_others(
    case: str, pool: Scenes, good: Task, tmp_path: Path
) -> None:
    config = run_config(tmp_path / "run", eval__every=2, train__steps=4, run__checkpoint_every=2)
    fitted = run(config, pool, [failing(FAULTS[case]), good])
    plain = run(run_config(tmp_path / "plain", train__steps=4), pool, [good])
    assert list(fitted.scores.results) == [good.name]
    assert fitted.scores.results == plain.scores.results
    assert fitted.scores.average == plain.scores.average == 100 * fitted.scores.results[good.name].value
    assert list(fitted.scores.failed) == ["lost"]
    (line,) = lines_of(tmp_path / "run/evals.jsonl")
    assert (line["step"], list(line["tasks"]), line["failed"]) == (2, [good.name], fitted.scores.failed)
    assert (tmp_path / "run/checkpoints/step-00000004").is_dir()
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("run", "plain")]
    assert weights[0] == weights[1]


def test_the_reason_says_what_and_for_a_bug_where(pool: Scenes) -> None:
    tower = make_student(run_config(Path("unused")))
    reasons = {case: score_all(tower, [failing(error, case)]).failed[case] for case, error in FAULTS.items()}
    assert reasons["a tar is gone"] == str(FAULTS["a tar is gone"])
    assert "eval/0.tar" in reasons["the system refuses"]
    assert reasons["memory"] == reasons["memory of torch"] == reasons["memory of a device"]
    assert "memory" in reasons["memory"].lower()
    assert reasons["a bug"].startswith("IndexError: index 7")
    assert Path(__file__).name in reasons["a bug"]


def test_ctrl_c_while_a_task_is_scored_is_no_fault_of_the_task(pool: Scenes, good: Task, tmp_path: Path) -> None:
    config = run_config(tmp_path / "run", train__steps=2, run__checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        run(config, pool, [failing(KeyboardInterrupt())])
    # The model is there, and yet the run has not ended well.
    load_tower(str(tmp_path / "run/model"))
    assert read_status(tmp_path / "run").state == "interrupted"
    assert run(config, pool, [good], resume=True).scores.results
    assert read_status(tmp_path / "run").state == "finished"
    assert not list((tmp_path / "run").glob(".*"))


def test_the_model_is_there_before_it_is_scored(pool: Scenes, tmp_path: Path) -> None:
    seen: list[bool] = []

    def images(view: View) -> torch.Tensor:
        seen.append((tmp_path / "run/model/tower.json").is_file())
        return torch.zeros(1, 3, view.size, view.size, dtype=torch.uint8)

    task = Classification("t", images, torch.tensor([0]), ["a"], ["{c}"], 1.0)
    run(run_config(tmp_path / "run"), pool, [task])
    assert seen == [True]


def test_each_reason_is_said_once(pool: Scenes, tmp_path: Path) -> None:
    console = Console(record=True, width=300, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    config = run_config(tmp_path / "run", eval__every=1, train__steps=5)
    run(config, pool, [failing(AcedError("It is gone."), start=3)], Bars(console))
    said = console.export_text()
    assert said.count("It is gone.") == 1
    assert "step 3" in said
    assert "lost" in said


# -- the best model ----------------------------------------------------------------------------------------------------


def scores(**values: float | None) -> Scores:
    results = {k: TaskResult(v, 0.1, 10, "acc1") for k, v in values.items() if v is not None}
    return Scores(results, {k: "gone" for k, v in values.items() if v is None})


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        # The mean of what is left would be .9, but on `a`, which both scored, the second is worse.
        ([scores(a=0.9, b=0.1), scores(a=0.8, b=None)], 1),
        ([scores(a=0.9, b=0.1), scores(a=0.95, b=None)], 2),
        ([scores(a=0.5, b=None), scores(a=0.6, b=0.0)], 2),
        ([scores(a=0.5, b=None), scores(a=0.4, b=1.0)], 1),
        ([scores(a=0.5, b=None), scores(a=None, b=1.0)], 1),  # nothing that both scored: the first stays
        ([scores(a=0.5, b=0.5), scores(a=None, b=None)], 1),
        ([scores(a=None, b=None), scores(a=0.1, b=0.1)], 2),
        ([scores(a=0.5, b=0.5), scores(a=0.4, c=0.4)], 2),  # other tasks were asked for
    ],
)
def test_best_models_are_compared_on_what_both_scored(evaluations: list[Scores], best: int, tmp_path: Path) -> None:
    student = make_student(run_config(tmp_path))
    for step, found in enumerate(evaluations, 1):
        keep_best(tmp_path / "best", student, found, step)
    kept = best_model(tmp_path / "best")
    assert kept is not None
    assert kept[1]["step"] == best
    assert len(list((tmp_path / "best").iterdir())) == 1


def test_the_average_counts_what_was_asked_for() -> None:
    """Of the 13 scenes tasks ten count; with one of these lost, nine do, and not all twelve."""
    names = [task.name for task in make_tasks("validation", n=8, retrieval_n=4)]
    from aced.evaluate.stability.suite import counted

    kept = counted(names)
    values: dict[str, float | None] = {name: 0.5 if name in kept else 0.0 for name in names}
    assert scores(**values).average == 50.0
    assert scores(**(values | {kept[0]: None})).average == 50.0
    assert scores(**dict.fromkeys(names)).average is None


# -- results, reports, status ------------------------------------------------------------------------------------------


def test_a_run_whose_tasks_all_fail_ends_well(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [failing(AcedError("Gone."), "a"), failing(AcedError("Gone."), "b")]
    monkeypatch.setattr("aced.train.run.inputs.make_eval_tasks", lambda *_: tasks)
    folder = tmp_path / "run"
    words = [
        "data.scenes_size=100",
        "train.batch=8",
        "train.steps=2",
        "run.threads=1",
        f"run.out={folder}",
        "eval.every=1",
    ]
    ended = cli("train", "scenes", "method.name=iid", "student.model=aced-demo-s", *words)
    assert ended.status == 0, ended.err
    assert tells(ended.out, "a … Gone.")
    (row,) = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    assert (row["average"], row["tasks"], row["failed"]) == (None, {}, {"a": "Gone.", "b": "Gone."})
    (line,) = lines_of(folder / "evals.jsonl")
    assert (line["average"], line["failed"]) == (None, row["failed"])
    assert "Gone" in (folder / "report.html").read_text(encoding="utf-8")
    status = read_status(folder)
    assert (status.state, status.evaluation, status.unscored) == ("finished", None, ("a", "b"))
    assert cli("status", folder).status == 0
    assert cli("status", folder, "--json").status == 0
    assert cli("report", folder, "--out", tmp_path / "page.html").status == 0


def row(method: str, seed: int = 0, **values: float | None) -> dict[str, Any]:
    found = scores(**values)
    tasks = {name: {"value": r.value, "chance": 0.0, "n": 10} for name, r in found.results.items()}
    row = {"method": method, "title": method, "seed": seed, "average": found.average, "tasks": tasks}
    return row | {"failed": found.failed, "budgets": {"samples_trained": 10.0, "seconds": 1.0}}


def test_averages_over_other_tasks_are_not_compared() -> None:
    """One method lost its worst task: its own average is the higher one, and on what both scored it is the lower."""
    rows = [row("iid", a=0.6, b=0.1, c=0.5), row("aced", a=0.5, b=None, c=0.5)]
    assert rows[1]["average"] > rows[0]["average"]
    found, _ = on_shared_tasks(parse_results({"rows": rows, "reference": {"average": 30.0, "tasks": rows[0]["tasks"]}}))
    assert [r.average for r in found.rows] == [pytest.approx(55.0), pytest.approx(50.0)]
    assert found.reference is not None
    assert found.reference.average == pytest.approx(55.0)
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table({"rows": rows}))
    assert "-5.0" in console.export_text().replace("−", "-")
    # Where nothing is lost nothing is computed anew, whatever the averages are of.
    whole = [row("iid", a=0.6, b=0.1) | {"average": 12.5}, row("aced", a=0.5, c=0.1)]
    same, _ = on_shared_tasks(parse_results({"rows": whole}))
    assert [r.average for r in same.rows] == [12.5, pytest.approx(30.0)]


def test_an_evaluation_that_lacks_a_task_is_no_point_of_the_curve(pool: Scenes, good: Task, tmp_path: Path) -> None:
    config = run_config(tmp_path / "run", eval__every=1, train__steps=4, run__log_every=1)
    calls: list[int] = []

    def images(view: View) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:  # at the second step alone
            raise OSError(5, "Input/output error", "eval/0.tar")
        return torch.zeros(2, 3, view.size, view.size, dtype=torch.uint8)

    flaky = Classification("flaky", images, torch.tensor([0, 1]), ["a", "b"], ["{c}"], 0.5)
    run(config, pool, [flaky, good])
    record = load_run(tmp_path / "run")
    assert [sorted(line.tasks) for line in record.evals] == [["flaky", good.name], [good.name], ["flaky", good.name]]
    results = parse_results(results_of([record]))
    _, (shown,) = on_shared_tasks(results, [record])
    assert [line.average is None for line in shown.evals] == [False, True, False]
    write_report(tmp_path / "page.html", results_of([record]), [record])


# -- tasks that cannot be loaded ---------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))
    from task_fakes import picture, prompts, write_task

    for name in ("one", "two"):
        members = [(f"{i}.{s}", c) for i in range(4) for s, c in (("jpg", picture(i)), ("cls", b"%d" % (i % 2)))]
        write_task(tmp_path / "tasks" / name, members, **prompts(2))
    return tmp_path / "tasks"


def test_a_broken_task_is_refused_before_a_run_and_left_out_of_one_that_goes_on(
    pool: Scenes, folders: Path, tmp_path: Path
) -> None:
    config = run_config(tmp_path / "run", eval__tasks=[str(folders), str(folders / "two")], train__steps=2)
    assert [task.name for task in make_eval_tasks(config)] == ["one", "two"]
    (folders / "one/classnames.txt").write_text("a\n", encoding="utf-8")
    with pytest.raises(AcedError, match="1 classes"):
        make_eval_tasks(config)
    first = run(config, pool, [])
    assert first.scores == Scores()
    said: list[str] = []
    tasks = make_eval_tasks(config, said.append)
    assert [task.name for task in tasks] == ["one", "two"]
    assert len(said) == 1
    assert str(folders / "one") in said[0]
    found = run(config, pool, tasks, resume=True).scores
    assert (list(found.results), list(found.failed)) == (["two"], ["one"])
    shutil.rmtree(folders / "two")
    assert [task.name for task in make_eval_tasks(config)] == ["one", "two"]
    # A place that the run did not have before is a mistake on the command line.
    other = config.model_copy(update={"eval": config.eval.model_copy(update={"tasks": [str(tmp_path / "tsks")]})})
    with pytest.raises(AcedError, match="folder"):
        make_eval_tasks(other)


def test_two_tasks_of_one_name_are_refused_before_the_run(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "one", tmp_path / "more/wds_one")
    config = run_config(tmp_path / "run", eval__tasks=[str(folders), str(tmp_path / "more")])
    with pytest.raises(AcedError, match=r"'one'.*twice"):
        make_eval_tasks(config)


def test_a_folder_that_goes_during_a_run_is_a_task_that_failed(
    pool: Scenes, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aced.evaluate.tar_images._KEPT_BYTES", 0)  # as of a large task, decoded each time
    config = run_config(tmp_path / "run", eval__tasks=[str(folders)], eval__every=1, train__steps=3)

    class Removing(Bars):
        def below(self, text: str) -> None:  # once a step
            if (folders / "one").is_dir():
                shutil.rmtree(folders / "one")

    found = run(config, pool, make_eval_tasks(config), Removing(Console(quiet=True))).scores
    assert (list(found.results), list(found.failed)) == (["two"], ["one"])
    assert [sorted(line["tasks"]) for line in lines_of(tmp_path / "run/evals.jsonl")] == [["one", "two"], ["two"]]
