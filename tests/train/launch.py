"""torchrun with a few gloo ranks on one machine, and everything it started gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import aced

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Job:
    """How a job ended."""

    status: int
    output: str
    seconds: float


def torchrun(script: str, ranks: int, *words: object, seconds: float = 150, cwd: Path | None = None, **env: str) -> Job:
    """Run a script of this folder in `ranks` processes of one thread; a job that takes too long is killed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, str(HERE / script), *map(str, words)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (Path(aced.__file__).parents[1], HERE, HERE.parent))),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            **env,
        },
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        # Ranks outlive a torchrun that is killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return Job(process.returncode, output, time.monotonic() - start)
