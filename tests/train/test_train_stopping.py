"""A run that ends early, by a signal or a fault, leaves its last complete step, and goes on from there to the bit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from early_ends import STEPS, BeforeStep, same_run, steps_in

from aced.cli import cli_ending as ending
from aced.config import Config
from aced.errors import AcedError, told
from aced.evaluate.tasks import Task
from aced.lab.scenes import Scenes, make_pool
from aced.runs.run_folder import holder
from aced.runtime import stopping
from aced.runtime.stopping import SIGNALS, Stopped, deferred, leave_to_parent, watching
from aced.train.guard import Guard
from aced.train.run import fit as fit_module
from aced.train.run import loop, run_scores
from aced.train.run.fit import fit
from aced.train.run.fitted import Fitted
from aced.train.run.student import make_student
from cli_fakes import Cli
from run_fakes import inputs_of, lines_of, quiet, run_config, with_holes
from wording import tells


@pytest.fixture(autouse=True)
def _listening() -> Iterator[None]:
    """A suite that was started with `&` ignores SIGINT, and so would the runs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(400, 1)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    from aced.lab.scenes import make_tasks

    return make_tasks("validation", n=20, retrieval_n=10)[:2]


def run(
    config: Config,
    pool: Scenes,
    tasks: list[Task] | None = None,
    *,
    resume: bool = False,
    cache: Path | None = None,
) -> Fitted:
    inputs = replace(inputs_of(config, pool, cache), tasks=tasks or [])
    return fit(config, inputs, make_student(config), quiet(), resume=resume)


def config_of(out: Path, method: str = "iid", trained: dict[str, Path] | None = None, **keys: Any) -> Config:
    return run_config(out, method, trained, **{"train__steps": STEPS, "run__log_every": 1, **keys})


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_behind_its_step(
    number: int, pool: Scenes, tmp_path: Path, before_step: BeforeStep
) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    run(config_of(tmp_path / "whole"), pool)
    before_step(3, lambda: signal.raise_signal(number))
    with pytest.raises(Stopped) as stopped:
        run(config_of(tmp_path / "halves"), pool)
    assert stopped.value.number == number
    assert stopped.value.status == (130 if number == signal.SIGINT else 75)
    assert f"step 4 of {STEPS}" in str(stopped.value)
    assert steps_in(tmp_path / "halves") == [4]
    by = holder(tmp_path / "halves")
    assert by is not None
    assert by.ending == ("interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}")
    run(config_of(tmp_path / "halves"), pool, resume=True)
    same_run(tmp_path / "whole", tmp_path / "halves")
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_a_second_signal_ends_it_at_once(
    pool: Scenes, tmp_path: Path, before_step: BeforeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(stopping, "ECHO", 0.0)
    before_step(3, twice)
    with pytest.raises(Stopped) as stopped:
        run(config_of(tmp_path / "run"), pool)
    assert stopped.value.number == signal.SIGTERM
    assert steps_in(tmp_path / "run") == []


def test_a_second_ctrl_c_is_an_ordinary_one(
    pool: Scenes, tmp_path: Path, before_step: BeforeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "ECHO", 0.0)
    before_step(3, lambda: (signal.raise_signal(signal.SIGINT), signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        run(config_of(tmp_path / "run"), pool)


def test_a_signal_that_comes_twice_at_once_is_one(
    pool: Scenes, tmp_path: Path, before_step: BeforeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a scheduler signals a process and its group; the tests' machine may be slow."""
    monkeypatch.setattr(stopping, "ECHO", 600.0)
    before_step(3, lambda: [signal.raise_signal(number) for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT)])
    with pytest.raises(Stopped) as stopped:
        run(config_of(tmp_path / "run"), pool)
    assert (stopped.value.number, stopped.value.status) == (signal.SIGTERM, 75)
    assert steps_in(tmp_path / "run") == [4]


def test_a_program_that_has_stopped_ignores_what_comes_behind(
    cli: Cli, tmp_path: Path, before_step: BeforeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: list[Any] = []
    monkeypatch.setattr(ending, "leave_in_peace", lambda: (stopping.leave_in_peace(), handlers.append(_handlers())))
    before_step(3, lambda: signal.raise_signal(signal.SIGTERM))
    words = ["data.scenes_size=100", "train.batch=16", "train.steps=6", f"run.out={tmp_path / 'run'}", "run.threads=1"]
    assert cli("train", "scenes", "method.name=iid", *words).status == 75
    assert handlers == [[signal.SIG_IGN] * len(SIGNALS)]


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


def test_a_signal_that_is_ignored_stays_ignored(pool: Scenes, tmp_path: Path, before_step: BeforeStep) -> None:
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        before_step(3, lambda: [signal.raise_signal(number) for number in handlers])
        run(config_of(tmp_path / "run"), pool)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert steps_in(tmp_path / "run") == [STEPS]


def test_a_run_in_another_thread_takes_no_signals(pool: Scenes, tmp_path: Path) -> None:
    ended: list[Fitted] = []
    thread = threading.Thread(target=lambda: ended.append(run(config_of(tmp_path / "run"), pool)))
    thread.start()
    thread.join(300)
    assert ended[0].ledger.samples_trained == 16 * STEPS


def test_a_signal_in_the_last_checkpoint_is_not_lost(
    pool: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = loop.save_checkpoint

    def signalled(*args: Any) -> Path:
        signal.raise_signal(signal.SIGTERM)
        return save(*args)

    monkeypatch.setattr(loop, "save_checkpoint", signalled)
    with pytest.raises(Stopped):
        run(config_of(tmp_path / "run"), pool)
    assert steps_in(tmp_path / "run") == [STEPS]
    assert not (tmp_path / "run/model").exists()


@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_signal_cuts_an_evaluation_short_which_is_made_up_for(
    when: str, pool: Scenes, tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, Any] = {"eval__every": 2, "run__keep_best": True}
    run(config_of(tmp_path / "whole", **keys), pool, tasks)
    score, calls = run_scores._write_scores, []

    def signalled(trainer: Any, *rest: Any) -> None:
        calls.append(trainer.step)
        if trainer.step == 4 and when == "before":
            signal.raise_signal(signal.SIGTERM)
        score(trainer, *rest)
        if trainer.step == 4:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(run_scores, "_write_scores", signalled)
    with pytest.raises(Stopped):
        run(config_of(tmp_path / "halves", **keys), pool, tasks)
    monkeypatch.setattr(run_scores, "_write_scores", score)
    assert steps_in(tmp_path / "halves") == [4]
    assert calls == [2, 4]
    run(config_of(tmp_path / "halves", **keys), pool, tasks, resume=True)
    assert [line["step"] for line in lines_of(tmp_path / "halves/evals.jsonl")] == [2, 4]
    same_run(tmp_path / "whole", tmp_path / "halves")


def test_a_signal_before_an_evaluation_leaves_it_for_later(
    pool: Scenes, tasks: list[Task], tmp_path: Path, before_step: BeforeStep
) -> None:
    keys: dict[str, Any] = {"eval__every": 2}
    run(config_of(tmp_path / "whole", **keys), pool, tasks)
    before_step(3, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        run(config_of(tmp_path / "halves", **keys), pool, tasks)
    assert [line["step"] for line in lines_of(tmp_path / "halves/evals.jsonl")] == [2]
    run(config_of(tmp_path / "halves", **keys), pool, tasks, resume=True)
    same_run(tmp_path / "whole", tmp_path / "halves")


def by_another_process(number: int, pids: list[int]) -> None:
    subprocess.run(["kill", f"-{number}", *map(str, pids)], check=True)


def test_a_signal_for_the_whole_group_leaves_the_loading_processes_to_the_run(
    pool: Scenes, tmp_path: Path, before_step: BeforeStep
) -> None:
    def to_all() -> None:
        workers = [child.pid for child in multiprocessing.active_children() if child.pid]
        assert len(workers) == 2
        for number in SIGNALS:
            by_another_process(number, workers)
        signal.raise_signal(signal.SIGINT)

    run(config_of(tmp_path / "whole"), pool)
    before_step(3, to_all)
    with pytest.raises(Stopped):
        run(config_of(tmp_path / "halves", data__workers=2), pool)
    assert steps_in(tmp_path / "halves") == [4]
    run(config_of(tmp_path / "halves"), pool, resume=True)
    same_run(tmp_path / "whole", tmp_path / "halves")


def test_a_loading_process_ends_when_its_parent_says_so() -> None:
    ready, told_ready = multiprocessing.Pipe()

    def load() -> None:
        leave_to_parent()
        told_ready.send(True)
        time.sleep(600)

    child = multiprocessing.get_context("fork").Process(target=load, daemon=True)
    child.start()
    assert ready.recv()
    by_another_process(signal.SIGTERM, [child.pid or 0])
    child.join(0.3)
    assert child.is_alive()
    child.terminate()
    child.join(300)
    assert child.exitcode == 0


def test_a_process_forked_within_dies_of_a_signal_as_any_other() -> None:
    # Such as one that indexes tars, which its pool ends by SIGTERM.
    with watching():
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGTERM)
                time.sleep(60)
            finally:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_the_command_says_what_is_saved(cli: Cli, tmp_path: Path, before_step: BeforeStep) -> None:
    words = ["train", "scenes", "method.name=iid", "data.scenes_size=100", "train.batch=8", "train.steps=6"]
    words += ["run.threads=1", f"run.out={tmp_path / 'run'}", "eval.every=0"]
    before_step(1, lambda: signal.raise_signal(signal.SIGUSR1))
    ended = cli(*words)
    assert ended.status == 75
    assert tells(ended.err.splitlines()[-1], "aced: … SIGUSR1 … step 2 of 6 … --resume")
    before_step(3, _fails(AcedError("The data have melted.")))
    ended = cli(*words, "--resume")
    assert ended.status == 2
    assert tells(ended.err.splitlines()[-1], "aced: The data have melted. … Step 3 … --resume")
    before_step(4, lambda: signal.raise_signal(signal.SIGINT))
    ended = cli(*words, "--resume")
    assert ended.status == 130
    assert tells(ended.err, "aced: interrupted … step 5 of 6")


def test_a_command_that_loads_ends_at_once(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aced.programs import train as program

    monkeypatch.setattr(program, "make_inputs", lambda *_: signal.raise_signal(signal.SIGTERM))
    ended = cli("train", "scenes", "method.name=iid", f"run.out={tmp_path / 'run'}", "run.threads=1")
    assert ended.status == 75
    assert tells(ended.err, "aced: … SIGTERM … 'aced train ... --resume'")
    assert not (tmp_path / "run").exists()


def test_outside_steps_a_signal_ends_at_once() -> None:
    with pytest.raises(Stopped), watching():
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), watching():
        signal.raise_signal(signal.SIGINT)


def test_a_block_that_never_looked_is_ended_behind_it() -> None:
    reached: list[bool] = []

    def block() -> None:
        with deferred():
            signal.raise_signal(signal.SIGUSR2)
            reached.append(True)

    with pytest.raises(Stopped):
        block()
    assert reached


# -- by the clock ------------------------------------------------------------------------------------------------------


def test_checkpoints_by_the_clock(pool: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aced.train import wishes

    now = [0.0]
    take = loop.train_step

    def a_minute(*args: Any) -> Any:
        now[0] += 60
        return take(*args)

    monkeypatch.setattr(loop, "train_step", a_minute)
    monkeypatch.setattr(wishes.time, "monotonic", lambda: now[0])
    run(config_of(tmp_path / "run", run__checkpoint_minutes=2.0, run__keep=9), pool)
    assert steps_in(tmp_path / "run") == [2, 4, 6]
    # What is written by the number of steps counts as well; 0 writes none.
    run(config_of(tmp_path / "both", run__checkpoint_minutes=2.0, run__checkpoint_every=3, run__keep=9), pool)
    assert steps_in(tmp_path / "both") == [2, 3, 5, 6]
    run(config_of(tmp_path / "none", run__checkpoint_minutes=0.0, run__keep=9), pool)
    assert steps_in(tmp_path / "none") == [6]


# -- faults ------------------------------------------------------------------------------------------------------------


class Fault(Exception):
    """What no code knows."""


def _fails(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def _in_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    from aced.train import step

    usable = step._usable

    def failing(trainer: Any, candidates: Any) -> Any:
        pool = usable(trainer, candidates)
        if trainer.step == 4:
            raise AcedError("The data have melted.")
        return pool

    monkeypatch.setattr(step, "_usable", failing)


def _in_the_loss(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The fifth step's loss is NaN; whether each step that was launched was refused."""
    from aced.train.replica import Replica, UpdateVerdict

    judge, refused = Replica.judge, []

    def failing(self: Replica, loss: torch.Tensor, *others: Any) -> UpdateVerdict:
        verdict = judge(self, loss * torch.nan if len(refused) == 4 else loss, *others)
        refused.append(bool(verdict.refused))
        return verdict

    monkeypatch.setattr(Replica, "judge", failing)
    return refused


def _in_the_loss_told_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, noticed as on a GPU: when the next step, whose passes have been launched, comes to its update."""
    refused = _in_the_loss(monkeypatch)
    make = fit_module.make_trainer

    def late(*parts: Any) -> Any:
        trainer = make(*parts)
        trainer.guard = Guard(behind=1)
        update = trainer.replica.update

        def updating(optimizer: Any, verdict: Any) -> None:
            update(optimizer, verdict)
            assert refused in ([False] * trainer.step + [False], [False] * 4 + [True])

        monkeypatch.setattr(trainer.replica, "update", updating)
        return trainer

    monkeypatch.setattr(fit_module, "make_trainer", late)


CHEAP = {"scoring__cascade": 0.5, "scoring__reuse": 4, "scoring__resolution": 16}
GUESSED = {"scoring__reuse": 4, "scoring__unseen": "predict", "scoring__refresh": 1.0}
WAYS: list[tuple[str, dict[str, Any]]] = [
    ("iid", {}),
    ("aced", {}),
    ("aced", CHEAP),
    ("i-aced", {"scoring__cascade": 1.0}),
    ("aced", GUESSED),
]


@pytest.mark.parametrize(("method", "keys"), WAYS)
@pytest.mark.parametrize("log_every", [2, 5])
def test_a_step_that_fails_leaves_the_one_before(
    log_every: int,
    method: str,
    keys: dict[str, Any],
    pool: Scenes,
    tmp_path: Path,
    trained: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = with_holes(pool, 9)
    cache = tmp_path / "cache" if keys is GUESSED else None
    keys = {"data__max_bad_share": 0.5, "run__log_every": log_every, **keys}
    run(config_of(tmp_path / "whole", method, trained, **keys), source, cache=cache)
    for where in (_in_reading, _in_the_loss, _in_the_loss_told_late):
        config = config_of(tmp_path / where.__name__, method, trained, **keys)
        with monkeypatch.context() as patch:
            where(patch)
            with pytest.raises(AcedError) as failed:
                run(config, source, cache=cache)
        assert steps_in(tmp_path / where.__name__) == [4]
        assert str(failed.value).startswith("Step 5: " if where != _in_reading else "The data")
        assert told(failed.value).startswith(f"{failed.value} Step 4 ")
        run(config, source, resume=True, cache=cache)
        same_run(tmp_path / "whole", tmp_path / where.__name__)


def test_no_checkpoint_of_half_an_update(pool: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aced.train.replica import Replica

    update, calls = Replica.update, []

    def failing(self: Replica, *parts: Any) -> None:
        update(self, *parts)
        calls.append(1)
        if len(calls) == 4:
            raise Fault

    monkeypatch.setattr(Replica, "update", failing)
    with pytest.raises(Fault) as failed:
        run(config_of(tmp_path / "run"), pool)
    assert steps_in(tmp_path / "run") == []
    assert "saved" not in told(failed.value)


def test_no_checkpoint_of_infinite_weights(pool: Scenes, tmp_path: Path, before_step: BeforeStep) -> None:
    config = config_of(tmp_path / "run")
    student = make_student(config)

    def poison() -> None:
        with torch.no_grad():
            next(student.parameters()).view(-1)[0] = torch.inf

    before_step(3, poison)
    with pytest.raises(AcedError, match=r"Step 4: .*nan"):
        fit(config, inputs_of(config, pool), student, quiet())
    assert steps_in(tmp_path / "run") == []


def test_what_a_forward_pass_changes_of_a_model_is_put_back(tmp_path: Path) -> None:
    from aced.train.run.leaving import running_statistics

    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.LayerNorm(3))
    assert len(running_statistics(model)) == 3  # mean, variance and number of batches


def test_a_disk_that_is_full_for_the_checkpoint_too(
    pool: Scenes, tmp_path: Path, before_step: BeforeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aced.train.run import leaving

    before_step(3, _fails(AcedError("The first reason.")))
    monkeypatch.setattr(leaving, "write_checkpoint", _fails(AcedError("Disk full while writing x.")))
    with pytest.raises(AcedError) as failed:
        run(config_of(tmp_path / "run"), pool)
    assert tells(told(failed.value), "The first reason. Step 3 … Disk full")


def test_a_fault_before_the_first_step_leaves_nothing(pool: Scenes, tmp_path: Path, before_step: BeforeStep) -> None:
    before_step(0, _fails(AcedError("no")))
    with pytest.raises(AcedError) as failed:
        run(config_of(tmp_path / "run"), pool)
    assert told(failed.value) == "no"
    assert steps_in(tmp_path / "run") == []


def test_a_fault_in_an_evaluation_leaves_the_step_and_the_evaluation_is_made_up_for(
    pool: Scenes, tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, Any] = {"eval__every": 4}
    run(config_of(tmp_path / "whole", **keys), pool, tasks)
    with monkeypatch.context() as patch:
        patch.setattr(run_scores, "_write_scores", _fails(MemoryError()))
        with pytest.raises(MemoryError):
            run(config_of(tmp_path / "halves", **keys), pool, tasks)
    assert steps_in(tmp_path / "halves") == [4]
    run(config_of(tmp_path / "halves", **keys), pool, tasks, resume=True)
    same_run(tmp_path / "whole", tmp_path / "halves")


@pytest.fixture(autouse=True)
def no_handler_left() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before
