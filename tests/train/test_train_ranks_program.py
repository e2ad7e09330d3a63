"""`aced train` under torchrun: it ends with one reason when a rank fails, and is resumed by any number of ranks."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from launch import Job, torchrun
from safetensors.torch import load_file

import aced
from aced.config import dump_config
from run_fakes import run_config
from wording import tells

pytestmark = pytest.mark.slow

STEPS, EVERY, AT = 6, 2, 3
"""Steps of a run, between checkpoints, and the step (from 0) at which a rank fails: after the checkpoint of 2."""

CHEAP = {
    "data__workers": 1,
    "data__scenes_size": 160,  # an epoch is two steps, so that what the student has embedded is used again
    "scoring__cascade": 0.4,
    "scoring__early": True,
    "scoring__reuse": 3,
}
"""What is decided over all ranks before loading, and what they remember together."""

OUR_TRACEBACK = re.compile(f'File "{re.escape(str(Path(aced.__file__).parent))}')
"""torchrun prints a traceback of its own, and the checkout's folder may be called anything."""


@dataclass
class Runs:
    """Runs of one config in folders of their own."""

    place: Path
    reference: Path

    def __call__(
        self,
        name: str,
        ranks: int,
        *words: str,
        mode: str = "none",
        rank: int = 1,
        step: int = AT,
        resume: bool = False,
        **keys: Any,
    ) -> Job:
        config = run_config(
            self.place / name,
            "aced",
            {"large": self.reference},
            **{"train__steps": STEPS, "run__checkpoint_every": EVERY, "run__log_every": 1, **keys},
            reference__cache=str(self.place / "cache"),
        )
        file = self.place / f"{name}.toml"
        file.write_text(dump_config(config))
        more = ["--resume"] if resume else []
        log = self.place / f"{name}.log"
        return torchrun("ranks_program.py", ranks, mode, rank, step, log, "train", file, *words, *more)

    def steps(self, name: str) -> dict[int, list[list[int]]]:
        """Candidates and batch of each step; of a step that was taken twice both must agree."""
        found: dict[int, list[list[int]]] = {}
        for line in (self.place / f"{name}.log").read_text().splitlines():
            step, *positions = json.loads(line)
            assert found.setdefault(step, positions) == positions
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, trained: dict[str, Path]) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), trained["large"])


@pytest.fixture(scope="module")
def straight(runs: Runs) -> Job:
    """A run on two ranks that nothing happens to."""
    job = runs("straight", 2, **CHEAP)
    assert job.status == 0, job.output[-3000:]
    return job


@pytest.fixture(scope="module")
def killed(runs: Runs) -> Job:
    return runs("killed", 2, mode="kill", **CHEAP)


def test_the_first_rank_writes_and_prints(straight: Job, runs: Runs) -> None:
    folder = runs.place / "straight"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[-1]["budgets"]["samples_trained"] == 16 * STEPS  # of all ranks
    assert all((folder / name).exists() for name in ("model", "results.json", "report.html", "gallery.json"))
    assert len(re.findall("2 processes.*1 CPU thread", straight.output)) == 1
    assert straight.output.count("Figures:") == 1
    assert "Warning" not in straight.output


def test_a_killed_rank_ends_the_job_with_its_reason(killed: Job) -> None:
    assert killed.status != 0
    assert "Signal 9 (SIGKILL)" in killed.output  # torchrun's, of the rank that died
    # torchrun may end the other rank before that one has noticed.
    assert killed.output.count("aced: process 0 of 2") <= 1
    assert not OUR_TRACEBACK.search(killed.output)


def test_a_resumed_job_is_the_one_that_was_not_killed(killed: Job, straight: Job, runs: Runs) -> None:
    shutil.copytree(runs.place / "killed", runs.place / "other")
    shutil.copy(runs.place / "killed.log", runs.place / "other.log")
    job = runs("killed", 2, resume=True, **CHEAP)
    assert job.status == 0, job.output[-3000:]
    # The one that is left may have saved the step before, and may have been ended by torchrun before that.
    assert re.search("step [23]", job.output)
    assert runs.steps("killed") == runs.steps("straight")
    assert "chooser.memory.sample" in load_file(runs.place / f"killed/checkpoints/step-{STEPS:08d}/train.safetensors")
    for name in ("model/model.safetensors", f"checkpoints/step-{STEPS:08d}/train.safetensors"):
        assert (runs.place / "killed" / name).read_bytes() == (runs.place / "straight" / name).read_bytes(), name


def test_another_number_of_ranks_gets_the_same_batches(killed: Job, straight: Job, runs: Runs) -> None:
    if not (runs.place / "other").exists():
        pytest.skip("needs the copy of the killed run")
    job = runs("other", 4, resume=True, run__parallel="fsdp", **CHEAP)
    assert job.status == 0, job.output[-3000:]
    assert "2 processes with 1 CPU thread" in job.output
    assert runs.steps("other") == runs.steps("straight")
    one, other = (load_file(runs.place / name / "model/model.safetensors") for name in ("straight", "other"))
    assert one.keys() == other.keys()
    assert all(one[key].shape == other[key].shape for key in one)


def test_a_signal_for_one_rank_ends_all_behind_the_same_step(straight: Job, runs: Runs) -> None:
    job = runs("signalled", 2, mode="signal", rank=1, **CHEAP)
    assert job.status != 0
    assert job.output.count("aced: ") == 1
    assert tells(job.output, f"aced: … SIGUSR1 … step {AT + 1} of {STEPS}")
    assert "exitcode  : 75" in job.output  # torchrun's report; its own status is 1, whatever its processes end with
    assert not OUR_TRACEBACK.search(job.output)
    assert (runs.place / f"signalled/checkpoints/step-{AT + 1:08d}").is_dir()
    job = runs("signalled", 2, resume=True, **CHEAP)
    assert job.status == 0, job.output[-3000:]
    assert runs.steps("signalled") == runs.steps("straight")
    for name in ("model/model.safetensors", f"checkpoints/step-{STEPS:08d}/train.safetensors"):
        assert (runs.place / "signalled" / name).read_bytes() == (runs.place / "straight" / name).read_bytes(), name


def test_sigterm_for_torchrun_saves_a_sharded_student(runs: Runs) -> None:
    job = runs("preempted", 2, mode="preempt", rank=0, run__parallel="fsdp")
    assert job.status != 0
    assert len(re.findall("aced: .*SIGTERM.* step ", job.output)) == 1
    assert not OUR_TRACEBACK.search(job.output)
    steps = [int(path.name[-8:]) for path in (runs.place / "preempted/checkpoints").iterdir()]
    assert AT < max(steps) <= AT + 2  # the step at which it came, or the next


def test_a_rank_that_raises_ends_the_job_with_one_sentence(runs: Runs) -> None:
    job = runs("raised", 2, mode="raise", rank=1)
    assert job.status != 0
    sentence = "aced: process 1 of 2: The disk of this machine has melted; buy another one.\n"
    assert job.output.count(sentence) == 1
    assert job.output.count("aced: ") == 1
    # The first rank has lost the other one, and holds all that is needed.
    assert (runs.place / f"raised/checkpoints/step-{AT:08d}").is_dir()
    assert not OUR_TRACEBACK.search(job.output)


def test_a_rank_that_hangs_ends_the_job_at_the_time_limit(runs: Runs) -> None:
    job = runs("hung", 2, mode="hang", rank=1, run__timeout=4)
    assert job.status != 0
    assert job.output.count("aced: process 0 of 2") == 1
    assert "imed out" in job.output


def test_a_rank_may_be_late_for_the_first_step(runs: Runs) -> None:
    """As one is that compiles longer, or whose first batch takes longer to load."""
    job = runs("late", 2, mode="late", step=0, run__timeout=10)
    assert job.status == 0, job.output[-3000:]


def test_a_rank_that_is_stopped_is_missed_long_before_the_time_limit(runs: Runs) -> None:
    job = runs("stopped", 2, mode="stop", rank=1, run__timeout=300)
    assert job.status != 0
    assert len(re.findall(r"aced: process 0 of 2: .*process 1 of 2.* \d", job.output)) == 1
    assert "--resume" in job.output
    assert job.output.count("aced: ") == 1


@pytest.mark.parametrize(
    ("mode", "said"),
    [("stall", r"hang: for \d+ s .*run\.timeout.*data\.workers=0"), ("crash", r"status 7.*data\.workers=0")],
)
def test_a_loading_process_that_fails_ends_the_job_with_its_reason(mode: str, said: str, runs: Runs) -> None:
    job = runs(mode, 2, mode=mode, rank=1, data__workers=1, run__timeout=15)
    assert job.status != 0
    assert re.search(rf"aced: process 1 of 2: .*{said}", job.output), job.output[-3000:]
    assert job.output.count("aced: ") == 1
    assert not OUR_TRACEBACK.search(job.output)


def test_a_batch_that_ranks_cannot_share_is_refused_once(runs: Runs) -> None:
    job = runs("uneven", 3)
    assert job.status != 0
    assert job.output.count("aced: ") == 1
    assert tells(job.output, "16 … 3 processes … train.batch")
    assert not (runs.place / "uneven").exists()
