"""Trackers get every line once, however often a run is stopped, and change nothing of it."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aced.config import Config, make_config
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool, make_tasks
from aced.runs.trackers import group
from aced.runs.trackers.boards import Service, TensorBoard
from aced.runs.trackers.group import Trackers, check_trackers, tracking
from aced.runs.trackers.tracker import eval_values, train_values
from aced.runtime.progress import Bars
from aced.train.run import fit as fit_module
from aced.train.run.fit import fit
from aced.train.run.fitted import Fitted
from aced.train.run.student import make_student
from run_fakes import inputs_of, lines_of, quiet, run_config, stopping_at
from wording import tells

STEPS = 6


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(400, 1)


def config_of(out: Path, *trackers: str, **keys: Any) -> Config:
    fixed: dict[str, Any] = {"run__log_every": 1, "run__checkpoint_every": 2, "train__steps": STEPS}
    return run_config(out, **(fixed | {"run__trackers": list(trackers)} | keys))


def run(config: Config, pool: Scenes, bars: Bars | None = None, *, tasks: bool = False, **how: Any) -> Fitted:
    inputs = inputs_of(config, pool)
    if tasks:
        inputs = replace(inputs, tasks=make_tasks("validation", n=20, retrieval_n=10)[:2])
    return fit(config, inputs, make_student(config), bars or quiet(), **how)


def interrupted(config: Config, pool: Scenes, at: int, **how: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(config, pool, stopping_at(at), **how)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run, by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    shown.Reload()
    return {tag: [(e.step, e.value) for e in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def test_tensorboard_shows_each_step_of_a_resumed_run_once(pool: Scenes, tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", "tensorboard", eval__every=2)
    interrupted(config, pool, 1, tasks=True)  # before the first checkpoint: it begins anew
    interrupted(config, pool, 5, tasks=True, resume=True)
    interrupted(config, pool, 5, tasks=True, resume=True)
    results = run(config, pool, tasks=True, resume=True).scores.results
    run(config, pool, tasks=True, resume=True)  # finished, and scored again
    shown, lines = scalars(tmp_path / "run"), lines_of(tmp_path / "run/metrics.jsonl")
    for name in ("loss", "lr", "grad_norm"):
        assert shown[name] == [(n, pytest.approx(line[name])) for n, line in enumerate(lines, start=1)]
    assert [step for step, _ in shown["pace/images_per_second"]] == [1, 2, 3, 4, 5, 6]
    assert shown["budgets/samples_trained"][-1] == (6, 6 * 16)
    assert [step for step, _ in shown["eval/average"]] == [2, 4, 6]
    for name, result in results.items():
        assert shown[f"eval/task/{name}"][-1] == (6, pytest.approx(100 * result.value))


def test_a_tracker_may_come_later_and_lines_rarer(pool: Scenes, tmp_path: Path) -> None:
    interrupted(config_of(tmp_path / "run"), pool, 5)
    later = config_of(tmp_path / "run", "tensorboard", run__log_every=3)
    run(later, pool, resume=True)
    assert [step for step, _ in scalars(tmp_path / "run")["loss"]] == [4, 6]
    assert [line["step"] for line in lines_of(tmp_path / "run/metrics.jsonl")] == [1, 2, 3, 4, 6]


def test_what_a_board_was_told_lies_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    write = RecordWriter.write

    def slow(self: Any, data: bytes) -> None:
        time.sleep(0.2)
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", slow)
    board = TensorBoard(tmp_path, 0)
    board.log("train", 1, {"loss": 1.5, "lr": 0.5})
    assert scalars(tmp_path) == {"loss": [(1, 1.5)], "lr": [(1, 0.5)]}
    board.close(failed=False)


# -- bits --------------------------------------------------------------------------------------------------------------


class Drawing:
    """A tracker that draws from every global generator, as no tracker should."""

    name, where = "drawing", "nowhere"

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        random.random(), np.random.rand(), torch.rand(1)

    def close(self, *, failed: bool) -> None:
        pass


def test_trackers_change_no_bit(pool: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config_of(tmp_path / "plain"), pool)
    run(config_of(tmp_path / "board", "tensorboard"), pool)
    monkeypatch.setattr(group, "_opened", lambda *_: Drawing())
    run(config_of(tmp_path / "drawn", "tensorboard"), pool)
    for other in ("board", "drawn"):
        for name in ("model/model.safetensors", f"checkpoints/step-{STEPS:08d}/train.safetensors"):
            assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / other / name).read_bytes(), (other, name)
        assert lines_of(tmp_path / "plain/metrics.jsonl") == lines_of(tmp_path / other / "metrics.jsonl")


def test_tensorboard_draws_nothing(pool: Scenes, tmp_path: Path) -> None:
    def states() -> list[Any]:
        numpy_state: Any = np.random.get_state()
        return [random.getstate(), numpy_state[1].tolist(), numpy_state[2], torch.get_rng_state().tolist()]

    config = config_of(tmp_path / "run", "tensorboard", train__steps=2)
    inputs, student, before = inputs_of(config, pool), make_student(config), states()
    fit(config, inputs, student, quiet())
    assert states() == before


# -- W&B and trackio: modules that record what is asked of them --------------------------------------------------------


class FakeModule(ModuleType):
    """Stands for `wandb` and `trackio`: runs by id or name, and the rows that each got."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked: list[dict[str, Any]] = []
        self.rows: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.ends: list[int] = []

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **asked: Any) -> Any:
        self.asked.append(asked)
        rows = self.rows.setdefault(asked.get("id") or asked["name"], [])
        return SimpleNamespace(
            log=lambda values, step: rows.append((step, values)),
            finish=lambda exit_code=0: self.ends.append(exit_code),
            offline=False,
            url="https://example.org/run",
            dir="nowhere",
        )


@pytest.fixture(params=["wandb", "trackio"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeModule:
    fake = FakeModule(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    return fake


def test_a_service_gets_each_line_of_a_resumed_run_once(service: FakeModule, pool: Scenes, tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", service.__name__, eval__every=2)
    interrupted(config, pool, 1, tasks=True)
    interrupted(config, pool, 5, tasks=True, resume=True)
    run(config, pool, tasks=True, resume=True)
    run(config, pool, tasks=True, resume=True)
    (rows,) = service.rows.values()  # one run throughout
    lines = lines_of(tmp_path / "run/metrics.jsonl")
    assert [(step, row["loss"]) for step, row in rows if "loss" in row] == [(n["step"], n["loss"]) for n in lines]
    assert [step for step, row in rows if "eval/average" in row] == [2, 4, 6]
    assert all(asked["resume"] == "allow" and asked["config"]["train"]["steps"] == STEPS for asked in service.asked)
    if service.__name__ == "wandb":
        assert service.ends == [1, 1, 0, 0]
    assert [asked.get("project") for asked in service.asked] == ["aced"] * 4


def test_two_runs_are_two_of_a_service(service: FakeModule, pool: Scenes, tmp_path: Path) -> None:
    for out in ("one/run", "two/run"):
        run(config_of(tmp_path / out, service.__name__, train__steps=1), pool)
    assert len(service.rows) == 2


def test_a_service_is_told_no_step_twice_and_a_damaged_note_is_said(tmp_path: Path) -> None:
    told: list[int] = []

    def service(name: str) -> Service:
        found = Service(tmp_path, name)
        found._run = SimpleNamespace(log=lambda values, step: told.append(step))
        return found

    first = service("wandb")
    for kind, step in (("train", 5), ("train", 5), ("eval", 5)):
        first.log(kind, step, {})
    assert told == [5, 5]
    again = service("wandb")
    assert again.id == first.id
    again.log("train", 4, {})
    assert told == [5, 5]
    service("trackio").log("train", 4, {})
    assert told == [5, 5, 4]
    (tmp_path / "trackers.json").write_text('{"wan')
    with pytest.raises(AcedError, match=r"trackers\.json.*damaged"):
        Service(tmp_path, "wandb")


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("wandb", "pip install 'aced[wandb]'"),
        ("trackio", "pip install 'aced[trackio]'"),
        ("tensorboard", "tensorboard"),
    ],
)
def test_a_tracker_that_is_not_installed_is_told_with_its_extra(
    name: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(AcedError) as told:
        check_trackers([name])
    assert tells(str(told.value), f"run.trackers … '{name}'")
    assert remedy in str(told.value)


def test_an_unknown_tracker_is_told() -> None:
    with pytest.raises(AcedError, match=r"run\.trackers"):
        make_config({"run": {"trackers": ["mlflow"]}})
    config = make_config({"run": {"trackers": "tensorboard"}, "method": {"name": "iid"}})
    assert config.run.trackers == ["tensorboard"]


class Failing(Drawing):
    """A tracker that fails from its third line on."""

    name = "failing"
    lines = 0

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self.lines += 1
        if self.lines > 2:
            raise ConnectionError("no route\nto host")

    def close(self, *, failed: bool) -> None:
        raise ConnectionError("closed")


class Saying(Bars):
    """Bars that keep what is said."""

    def __init__(self) -> None:
        super().__init__(quiet().console)
        self.said: list[str] = []
        self.told_below: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def below(self, text: str) -> None:
        self.told_below.append(text)


def test_a_tracker_that_fails_is_left_out_and_told_once(
    pool: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, bars = Failing(), Saying()
    monkeypatch.setattr(group, "_opened", lambda *_: tracker)
    run(config_of(tmp_path / "run", "tensorboard"), pool, bars)
    assert tracker.lines == 3
    assert bars.said[0] == "failing: nowhere"
    assert len(bars.said) == 2
    assert tells(bars.said[1], "failing … step 3 … ConnectionError: … metrics.jsonl")
    assert len(lines_of(tmp_path / "run/metrics.jsonl")) == STEPS


def test_a_tracker_that_cannot_start_ends_the_run_in_a_sentence(
    service: FakeModule, pool: Scenes, tmp_path: Path
) -> None:
    def init(**_: Any) -> Any:
        raise PermissionError("no key")

    service.init = init  # type: ignore[method-assign]
    with pytest.raises(AcedError, match=rf"'{service.__name__}'.*PermissionError: no key"):
        run(config_of(tmp_path / "run", service.__name__), pool)


def test_trackers_that_are_open_are_closed_where_the_next_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    class Open(Drawing):
        def close(self, *, failed: bool) -> None:
            ended.append(failed)

    def opened(name: str, *_: Any) -> Drawing:
        if name == "wandb":
            raise AcedError("no")
        return Open()

    monkeypatch.setattr(group, "_opened", opened)
    monkeypatch.setattr(group, "check_trackers", lambda _: None)
    config = config_of(tmp_path, "tensorboard", "tensorboard", "wandb")
    with pytest.raises(AcedError), tracking(config.run.trackers, {}, 0, tmp_path / "none", tmp_path / "none", print):
        pass
    assert ended == [True]


def test_only_the_first_process_opens_trackers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fit_module, "tracking", lambda *_: pytest.fail("opened"))
    trainer: Any = SimpleNamespace(world=SimpleNamespace(first=False))
    metrics: Any = SimpleNamespace(trackers=Trackers([]))
    with fit_module._tracked(config_of(tmp_path, "tensorboard"), trainer, metrics, quiet()):
        pass


# -- values, and the line below the bar --------------------------------------------------------------------------------


def test_numbers_get_names_with_slashes() -> None:
    line = {"step": 4, "steps": 9, "loss": 1.5, "kd": None, "learnability": {"pool": 1, "chosen": 2.0}, "x": "word"}
    line |= {"clock": {"started": 1.0}, "flag": True, "kinds": {"pool": {"clean": 3}}}
    expected = {"loss": 1.5, "learnability/pool": 1.0, "learnability/chosen": 2.0, "kinds/pool/clean": 3.0}
    assert train_values(line) == expected
    scores = {"step": 4, "average": 12.5, "tasks": {"shape": {"value": 0.25, "chance": 0.1}}}
    assert eval_values(scores) == {"eval/average": 12.5, "eval/task/shape": 25.0}


def test_the_line_below_the_bar_tells_the_pace(pool: Scenes, tmp_path: Path) -> None:
    bars = Saying()
    run(config_of(tmp_path / "run", train__steps=3), pool, bars)
    *shown, last = bars.told_below
    assert last == ""
    assert len(shown) == 3
    for text in shown:
        speed, shares, invalid = text.split(" · ")
        assert float(speed.removesuffix(" images/s").replace(",", "")) > 0
        assert shares.split()[::2] == ["load", "score", "select", "train", "%"]
        assert invalid == "invalid 0 %"


def test_lines_have_what_a_status_needs(pool: Scenes, tmp_path: Path) -> None:
    run(config_of(tmp_path / "run", train__steps=2), pool)
    one, two = (json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert two["samples"] == {"total": 400, "read": 32, "unreadable": 0}
    assert one["clock"]["started"] == two["clock"]["started"] < one["clock"]["written"] < two["clock"]["written"]
