"""How a run stands, read from its folder: every state, lines that are being written, and what is no run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import aced
from aced.config import dump_config
from aced.errors import AcedError
from aced.lab.scenes import make_pool
from aced.programs import status as program
from aced.runs import standing as reading
from aced.runs.run_folder import check_folder, holder, locked
from aced.runs.standing import as_json, read_status
from aced.train.run.fit import fit
from aced.train.run.student import make_student
from cli_fakes import Cli
from run_fakes import inputs_of, quiet, run_config

NOW = 1_000_000.0
"""What the clock says in these tests."""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading.time, "time", lambda: NOW)


@dataclass
class Run:
    """A run's folder written line by line: 10 steps a line, 64 pairs a step, a step of a second."""

    folder: Path
    steps: int = 100
    started: float = NOW - 1000
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        config = run_config(self.folder, run__seed=3, train__steps=self.steps)
        (self.folder / "config.toml").write_text(dump_config(config))

    def line(self, step: int, written: float, started: float | None = None, **values: Any) -> None:
        seconds = {"load": 0.1 * step, "score": 0.2 * step, "select": 0.1 * step, "train": 0.6 * step}
        line = {"step": step, "steps": self.steps, "loss": 3.0 - step / 100, "contrastive": 2.0, "kd": 0.25, "lr": 1e-3}
        line |= {"budgets": {"samples_trained": 64 * step, "seconds": step}, "flops": {}, "seconds": seconds}
        line |= {"faults": {"image_empty": 2, "image_turned": 50}, "scale": 10.0}
        line |= {"samples": {"total": 1000, "read": 100, "unreadable": 2}}
        line |= {"clock": {"started": started or self.started, "written": written}, **values}
        self.lines.append(line)
        self.write()

    def write(self, ending: str = "") -> None:
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        (self.folder / "metrics.jsonl").write_text(text + ending)

    def lock(self, text: str) -> None:
        (self.folder / "run.lock").write_text(text)

    def model(self) -> None:
        (self.folder / "model").mkdir()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three lines of 100 steps, at two seconds a step: what is outside the steps takes as long as they do."""
    made = Run(tmp_path / "run")
    for step, ago in ((10, 45), (20, 25), (30, 5)):
        made.line(step, NOW - ago)
    return made


# -- figures -----------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_run(run: Run) -> None:
    (run.folder / "checkpoints/step-00000020").mkdir(parents=True)
    facts = run.folder / "checkpoints/step-00000020/train.json"
    facts.write_text("{}")
    os.utime(facts, (NOW - 20, NOW - 20))
    scores = {"step": 20, "average": 12.5, "tasks": {}, "budgets": {}}
    (run.folder / "evals.jsonl").write_text(json.dumps(scores) + "\n")
    status = read_status(run.folder)
    assert (status.method, status.seed, status.step, status.steps) == ("iid", 3, 30, 100)
    assert status.pace is not None
    assert (status.pace.images, status.pace.step_seconds) == (pytest.approx(64), pytest.approx(1))
    assert status.pace.shares == pytest.approx({"load": 0.1, "score": 0.2, "select": 0.1, "train": 0.6})
    # 70 steps at two seconds by the clock, of which the five since the last line have passed.
    assert status.seconds_left == pytest.approx(70 * 2 - 5)
    assert (status.loss, status.contrastive, status.kd, status.lr) == (2.7, 2.0, 0.25, 1e-3)
    assert status.samples_trained == 64 * 30
    assert status.invalid is not None
    assert (status.invalid.share, status.invalid.reason) == (pytest.approx(0.02), "image_empty")
    assert status.evaluation == (20, 12.5)
    assert (status.checkpoint, status.checkpoint_age) == (20, pytest.approx(20))
    assert status.line_age == pytest.approx(5)
    assert (status.process, status.host) == (None, None)


def test_a_pause_of_the_run_is_no_slow_step(run: Run) -> None:
    # Another process goes on, after an hour, and then a step takes four seconds.
    run.lines = run.lines[:1]
    run.lines[0]["clock"]["written"] = NOW - 3600
    run.line(20, NOW - 41, started=NOW - 60)
    assert read_status(run.folder).seconds_left == pytest.approx(80)  # one line: the steps' own seconds
    run.line(30, NOW - 1, started=NOW - 60)
    status = read_status(run.folder)
    assert status.seconds_left == pytest.approx(70 * 4 - 1)
    assert status.pace is not None
    assert status.pace.step_seconds == pytest.approx(1)


def test_only_the_last_lines_count(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", steps=1000)
    for number in range(1, 31):
        slow = 90 * min(number, 10)  # the first steps were slow
        run.line(10 * number, NOW, seconds={"load": 0.0, "train": 10 * number + slow})
    pace = read_status(run.folder).pace
    assert pace is not None
    assert pace.step_seconds == pytest.approx(1)


def test_the_end_of_a_long_file_is_read_alone(run: Run) -> None:
    file = run.folder / "metrics.jsonl"
    old = b"what is this\n" * 100_000  # damage that lies far behind
    file.write_bytes(old + file.read_bytes())
    with pytest.raises(AcedError, match=r"metrics\.jsonl line 1 .*262,144 bytes.*JSON"):
        read_status(run.folder)
    many = b"".join(json.dumps({"step": n, "pad": "x" * 80}).encode() + b"\n" for n in range(1, 20_000))
    file.write_bytes(old + many)
    assert read_status(run.folder).step == 19_999


def test_lines_of_an_older_version_have_less(run: Run) -> None:
    for line in run.lines:
        del line["clock"], line["samples"], line["faults"]
    run.write()
    os.utime(run.folder / "metrics.jsonl", (NOW - 7, NOW - 7))
    status = read_status(run.folder)
    assert status.invalid is None
    assert status.line_age == pytest.approx(7)
    assert status.seconds_left == pytest.approx(70)


# -- lines that are being written --------------------------------------------------------------------------------------


def test_a_line_that_is_half_written_is_left_out(run: Run) -> None:
    half = json.dumps(run.lines[-1] | {"step": 40})
    for cut in range(1, len(half)):
        run.write(half[:cut])
        assert read_status(run.folder).step == 30
    run.write(half)
    assert read_status(run.folder).step == 40
    (run.folder / "evals.jsonl").write_text('{"step": 20, "aver')
    assert read_status(run.folder).evaluation is None


def test_any_other_half_line_is_damage(run: Run) -> None:
    run.write('{"step": 35, "lo\n' + json.dumps(run.lines[-1] | {"step": 40}) + "\n")
    with pytest.raises(AcedError, match=r"metrics\.jsonl line 4 .*JSON"):
        read_status(run.folder)


def test_no_line_yet(run: Run) -> None:
    for content in ("", '{"step": 1'):
        (run.folder / "metrics.jsonl").write_text(content)
        os.utime(run.folder / "config.toml", (NOW - 2, NOW - 2))
        status = read_status(run.folder)
        assert (status.state, status.step, status.loss, status.pace, status.line_age) == (
            "starting",
            0,
            None,
            None,
            None,
        )
    (run.folder / "metrics.jsonl").unlink()
    assert read_status(run.folder).state == "starting"


# -- states ------------------------------------------------------------------------------------------------------------

HERE = socket.gethostname()


@pytest.mark.parametrize(
    ("last", "model", "lock", "state", "why"),
    [
        (30, False, f"process 7 on {HERE}\n", "killed", ""),
        (30, False, f"process 7 on {HERE}\ninterrupted\n", "interrupted", ""),
        (30, False, f"process 7 on {HERE}\nstopped by SIGTERM\n", "stopped", "SIGTERM"),
        (30, False, f"process 7 on {HERE}\nfailed: Step 31: the loss is nan.\n", "failed", "Step 31: the loss is nan."),
        (100, True, f"process 7 on {HERE}\n", "finished", ""),
        (100, False, f"process 7 on {HERE}\n", "killed", ""),  # while it was scored
        (30, False, "process 7 on elsewhere\n", "running", ""),  # of another machine, and 5 s old
        (100, False, "process 7 on elsewhere\n", "scoring", ""),
        (100, True, "process 7 on elsewhere\n", "finished", ""),
        (30, False, "", "running", ""),
    ],
)
def test_the_states_of_a_run(last: int, model: bool, lock: str, state: str, why: str, run: Run) -> None:
    if last > 30:
        run.line(last, NOW - 5)
    if model:
        run.model()
    run.lock(lock)
    status = read_status(run.folder)
    assert (status.state, status.why) == (state, why)
    assert as_json(status)["under_way"] == (state in ("running", "scoring"))
    assert (status.seconds_left is None) == (state != "running")


def test_a_run_elsewhere_that_writes_nothing_is_silent(run: Run) -> None:
    run.lock("process 7 on elsewhere\n")
    run.lines[-1]["clock"]["written"] = NOW - 99
    run.write()
    assert read_status(run.folder).state == "running"  # ten pauses of ten seconds
    run.lines[-1]["clock"]["written"] = NOW - 101
    run.write()
    status = read_status(run.folder)
    assert (status.state, bool(status.why)) == ("silent", True)


HOLDING = """
import sys
from pathlib import Path
from aced.runs.run_folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    said = sys.stdin.readline()
    if said:
        raise eval(said)
"""


@pytest.fixture
def other(run: Run) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run's folder, as a run does."""
    env = os.environ | {"PYTHONPATH": str(Path(aced.__file__).parents[1])}
    command = [sys.executable, "-c", HOLDING, str(run.folder)]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=env, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="whether a lock is held is known on Linux alone")
def test_a_lock_is_seen_and_left_alone(run: Run, other: subprocess.Popen[str]) -> None:
    run.lines[-1]["clock"]["written"] = NOW - 9999
    run.write()
    status = read_status(run.folder)
    assert (status.state, status.process, status.host) == ("running", other.pid, HERE)
    with pytest.raises(AcedError, match=f"process {other.pid} on {HERE}"):
        check_folder(run.folder, resume=True)
    assert read_status(run.folder).state == "running"
    other.send_signal(signal.SIGKILL)
    other.wait()
    before = (run.folder / "run.lock").read_bytes()
    check_folder(run.folder, resume=True)
    assert (run.folder / "run.lock").read_bytes() == before  # a look is no new run
    assert read_status(run.folder).state == "killed"


@pytest.mark.parametrize(
    ("raised", "state", "why"),
    [
        ("KeyboardInterrupt()", "interrupted", ""),
        ("__import__('aced.runtime.stopping').runtime.stopping.Stopped(10, 'step 7 is saved')", "stopped", "SIGUSR1"),
        ("__import__('aced.runtime.stopping').runtime.stopping.Stopped(2)", "interrupted", ""),
        ("ValueError('two\\nlines')", "failed", "ValueError: two lines"),
        ("__import__('aced').AcedError('Disk full.')", "failed", "Disk full."),
        ("MemoryError()", "failed", "MemoryError"),
    ],
)
def test_how_a_process_ended_is_in_the_lock(
    raised: str, state: str, why: str, run: Run, other: subprocess.Popen[str]
) -> None:
    other.communicate(raised + "\n")
    status = read_status(run.folder)
    assert (status.state, status.why) == (state, why)
    with locked(run.folder):  # the next one begins with a new page
        pass
    by = holder(run.folder)
    assert by is not None
    assert (by.process, by.ending) == (os.getpid(), "")


# -- no run ------------------------------------------------------------------------------------------------------------


def test_what_is_no_run_is_told(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AcedError, match="none"):
        read_status(tmp_path / "none")
    with pytest.raises(AcedError, match=f"{tmp_path} .* {run.folder}"):
        read_status(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AcedError, match=r"empty.*config\.toml"):
        read_status(tmp_path / "empty")
    for content, words in (("[run", "damaged"), ("[run]\nseed = 1\n", "config")):
        (run.folder / "config.toml").write_text(content)
        with pytest.raises(AcedError, match=words):
            read_status(run.folder)


# -- a run of its own --------------------------------------------------------------------------------------------------


def test_a_run_is_read_when_it_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading.time, "time", time.monotonic)
    config = run_config(tmp_path / "run", train__steps=4)
    fit(config, inputs_of(config, make_pool(400, 1)), make_student(config), quiet())
    results = {"rows": [{"method": "iid", "average": 17.5, "run": "."}]}
    (tmp_path / "run/results.json").write_text(json.dumps(results))
    status = read_status(tmp_path / "run")
    assert (status.state, status.step, status.checkpoint) == ("finished", 4, 4)
    assert status.evaluation == (4, 17.5)
    assert status.samples_trained == 64
    assert (status.process, status.host) == (os.getpid(), HERE)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_prints_what_is_known(run: Run, cli: Cli) -> None:
    ended = cli("status", run.folder)
    assert ended.status == 0
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert lines == [
        f"{run.folder}: running",
        "method iid, seed 3",
        "step 30 of 100 (30 %), about 2.25 min left",
        "pace 64 images/s, 1 s a step",
        "time load 10 score 20 select 10 train 60 %",
        "loss 2.7 (contrastive 2, distillation 0.25)",
        "rate 0.001",
        "invalid 2 % of the samples, most often image_empty",
        "last line 5 s ago",
    ]


def test_brackets_in_a_path_are_no_markup(tmp_path: Path, cli: Cli) -> None:
    Run(tmp_path / "runs [red]x").lock(f"process 7 on {HERE}\nfailed: data.shards = ['[bold]a']\n")
    out = cli("status", tmp_path / "runs [red]x").out
    assert "runs [red]x: failed (data.shards = ['[bold]a'])" in " ".join(out.split())


def test_json_is_for_scripts(run: Run, cli: Cli) -> None:
    ended = cli("status", run.folder, run.folder, "--json")
    one, two = json.loads(ended.out)
    assert one == two
    assert (one["state"], one["step"], one["under_way"]) == ("running", 30, True)
    assert one["pace"]["images_per_second"] == pytest.approx(64)
    assert one["pace"]["train"] == pytest.approx(0.6)
    assert one["invalid"] == {"share": pytest.approx(0.02), "reason": "image_empty"}
    assert ended.out.count("\n") == 1


def test_what_is_wrong_is_one_sentence(tmp_path: Path, cli: Cli) -> None:
    ended = cli("status", tmp_path / "none")
    assert ended.status == 2
    assert ended.err.startswith("aced: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""


def test_a_run_that_is_not_there_hides_no_other(run: Run, tmp_path: Path, cli: Cli) -> None:
    for words in ([tmp_path / "none", run.folder], [run.folder, tmp_path / "none"]):
        ended = cli("status", *words)
        assert ended.status == 2
        assert ended.out == cli("status", run.folder).out
        assert str(tmp_path / "none") in ended.err
        assert str(run.folder) not in ended.err
        assert ended.err.count("\n") == 1
    both = cli("status", tmp_path / "one", tmp_path / "two").err
    assert all(str(tmp_path / name) in both for name in ("one", "two"))


def test_json_has_an_object_for_a_run_that_is_not_there(run: Run, tmp_path: Path, cli: Cli) -> None:
    ended = cli("status", tmp_path / "none", run.folder, "--json")
    assert ended.status == 2
    missing, there = json.loads(ended.out)
    assert there == json.loads(cli("status", run.folder, "--json").out)[0]
    assert (missing["run"], missing["under_way"]) == (str(tmp_path / "none"), False)
    assert missing["why"] in ended.err


@pytest.mark.parametrize("terminal", [True, False])
def test_following_goes_on_without_a_run_that_is_not_there(
    terminal: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    missing = tmp_path / "later"
    console = Console(force_terminal=terminal, width=100)
    said: list[str] = []

    def ends(_: float) -> None:
        said.append(capsys.readouterr().out)  # a run that cannot be read is named before the others end
        run.lock(f"process 7 on {HERE}\n")

    monkeypatch.setattr(program.time, "sleep", ends)
    with pytest.raises(AcedError, match="later"):
        program.status_program([missing, run.folder], console, follow=True)
    assert str(missing) in said[0]
    assert "killed" in capsys.readouterr().out

    def sleep(_: float) -> None:  # meanwhile the run begins
        if not missing.exists():
            Run(missing).line(10, NOW - 1)
        for folder in (missing, run.folder):
            (folder / "run.lock").write_text(f"process 7 on {HERE}\n")

    (run.folder / "run.lock").unlink()
    monkeypatch.setattr(program.time, "sleep", sleep)
    program.status_program([missing, run.folder], console, follow=True)
    assert str(missing) in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("in_json", [True, False])
def test_following_ends_with_the_run(
    terminal: bool, in_json: bool, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            run.line(40, NOW - 1)
        if len(looks) == 4:
            run.lock(f"process 7 on {HERE}\n")

    monkeypatch.setattr(program.time, "sleep", sleep)
    console = Console(force_terminal=terminal, width=100)
    program.status_program([run.folder], console, in_json=in_json, follow=True, every=3)
    out = capsys.readouterr().out
    assert looks == [3, 3, 3, 3]
    if in_json:
        assert [json.loads(line)[0]["state"] for line in out.splitlines()] == ["running"] * 4 + ["killed"]
    elif not terminal:
        assert [line.split()[1] for line in out.splitlines() if line.strip().startswith("step")] == ["30", "40", "40"]
    assert "killed" in out


def test_ctrl_c_ends_following_quietly(run: Run, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program.time, "sleep", sleep)
    ended = cli("status", run.folder, "--follow")
    assert (ended.status, ended.err) == (0, "")


def test_a_status_needs_nothing_heavy(run: Run) -> None:
    code = (
        f"import sys; sys.argv = ['aced', 'status', {str(run.folder)!r}]\n"
        "from aced.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0, ended.code\n"
        "print('modules:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    env = os.environ | {"PYTHONPATH": str(Path(aced.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    loaded = set(done.stdout.rpartition("modules:")[2].split())
    assert {"aced", "rich"} <= loaded
    assert not loaded & {"torch", "open_clip", "torchvision", "timm", "numpy", "PIL", "matplotlib", "tensorboard"}
