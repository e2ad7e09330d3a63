"""examples/slurm.sh with stand-ins for SLURM and torchrun: who gets which signal, and when the job is queued again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples/slurm.sh"
TOOLS = {
    "scontrol": 'if [ "$1" = show ]; then echo first; echo second; else echo "scontrol $*" >> "$LOG"; fi',
    # Of a step, scancel signals what srun has started.
    "scancel": 'echo "scancel $*" >> "$LOG"; kill -TERM "$(cat "$LOG.torchrun")"',
    "srun": 'while [ "$1" != torchrun ]; do shift; done; exec "$@"',
    "torchrun": """
echo "torchrun $*" >> "$LOG"; echo "grace $TORCH_ELASTIC_SHUTDOWN_TIMEOUT" >> "$LOG"
trap 'echo checkpoint >> "$LOG"; exit ${AFTER_TERM:-1}' TERM
echo $$ > "$LOG.torchrun.new"; mv "$LOG.torchrun.new" "$LOG.torchrun"
if [ -n "$ENDS" ]; then exit "$ENDS"; fi
while :; do sleep 0.05; done
""",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in TOOLS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def submit(place: Path, number: int | None = None, **env: str) -> tuple[int, list[str]]:
    """Run the script, with a signal once torchrun works; its status, and what was called."""
    known = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "32"}
    path = f"{place}{os.pathsep}{os.environ['PATH']}"
    log = place / "log"
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "my.toml", "run.out=a b"],
        env={**os.environ, **known, "ENDS": "", "PATH": path, "LOG": str(log), **env},
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 300
        while number is not None and not (place / "log.torchrun").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        if number is not None:
            process.send_signal(number)
        return process.wait(300), log.read_text().splitlines()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_that_is_signalled_is_queued_again(number: int, place: Path) -> None:
    status, called = submit(place, number)
    assert status == 1
    assert called[0].endswith("--rdzv-endpoint first:29500 -m aced train --resume my.toml data.workers=4 run.out=a b")
    assert called[1:] == ["grace 240", "scancel --signal=TERM 77", "checkpoint", "scontrol requeue 77"]


def test_a_job_that_ends_well_behind_the_signal_is_not(place: Path) -> None:
    status, called = submit(place, signal.SIGUSR1, AFTER_TERM="0")
    assert status == 0
    assert called[-1] == "checkpoint"


@pytest.mark.parametrize("ends", [0, 1])
def test_a_job_that_ends_by_itself_is_not(ends: int, place: Path) -> None:
    status, called = submit(place, ENDS=str(ends))
    assert status == ends
    assert not any("requeue" in line for line in called)
