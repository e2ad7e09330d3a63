"""torchrun with a few gloo ranks on one machine, and everything it started gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aced

HERE = Path(__file__).parent
_MARK = "ACED_TEST_JOB"
"""In the environment of each process of a job, because ranks have process groups of their own."""


@dataclass(frozen=True)
class Job:
    """How a job ended."""

    status: int
    output: str
    seconds: float


def torchrun(script: str, ranks: int, *words: object, seconds: float = 600, cwd: Path | None = None, **env: str) -> Job:
    """Run a script of this folder in `ranks` processes of one thread.

    The limit only bounds a hang, so it is far above what a job takes on a busy machine. A job beyond it fails with its
    output and the stack of each of its threads.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    start, mark = time.monotonic(), uuid.uuid4().hex
    process = subprocess.Popen(
        [*command, str(HERE / script), *map(str, words)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (Path(aced.__file__).parents[1], HERE, HERE.parent))),
            "PYTHONFAULTHANDLER": "1",  # SIGABRT prints the stacks
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            _MARK: mark,
            **env,
        },
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = _output(process, mark, seconds)
    finally:
        process.kill()
        for left in _processes(mark):
            _send(left, signal.SIGKILL)
        process.wait()
    return Job(process.returncode, output, time.monotonic() - start)


def _output(process: subprocess.Popen[str], mark: str, seconds: float) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=seconds)[0]
    for hung in sorted(_processes(mark), key=lambda number: number == process.pid):  # torchrun last: it ends the others
        _send(hung, signal.SIGABRT)
    time.sleep(2)
    for left in _processes(mark):
        _send(left, signal.SIGKILL)
    raise AssertionError(f"The job did not end within {seconds:g} s:\n{process.communicate()[0]}")


def _processes(mark: str) -> Iterator[int]:
    """The living processes of a job."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or belongs to another user
            if f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes():
                yield int(folder.name)


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
