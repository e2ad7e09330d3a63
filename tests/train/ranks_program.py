"""`aced train` on several ranks, for test_train_ranks_program.py, with a fault at one step of one rank.

`ranks_program.py MODE RANK STEP LOG WORDS...`: MODE is what happens to RANK at STEP (from 0): `none`, `kill`, `raise`,
`bug`, `hang`, `signal` (SIGUSR1), `preempt` (SIGTERM for torchrun) or `stop` (by SIGSTOP; signs of life then come every
0.5 s, and ten may be missed); or to its loading processes, at once: `stall` or `crash`. The first rank appends the
positions of each step's super-batch to LOG.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import get_worker_info

from aced.errors import AcedError
from aced.lab.scenes import Scenes
from aced.pool.source import Candidates
from aced.pool.views import View
from aced.train import heartbeat
from aced.train.run import inputs, loop
from aced.train.step import Outcome, Trainer, train_step


def preempt() -> None:
    """SIGTERM for torchrun, which passes it on: returns when it has come back."""
    came, before = [], signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        came.append(number)
        before(number, frame)  # type: ignore[operator,misc]

    signal.signal(signal.SIGTERM, handle)
    os.kill(os.getppid(), signal.SIGTERM)
    while not came:
        time.sleep(0.01)
    signal.signal(signal.SIGTERM, before)


def main(mode: str, rank: int, step: int, log: Path, words: list[str]) -> None:
    def faulty(t: Trainer, batches: Iterator[Candidates]) -> Outcome:
        if (t.world.rank, t.step) == (rank, step):
            if mode == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if mode == "raise":
                raise AcedError("The disk of this machine has melted; buy another one.")
            if mode == "bug":
                raise KeyError("a bug")
            if mode == "hang":
                signal.signal(signal.SIGTERM, signal.SIG_DFL)  # torchrun need not wait 30 s until it kills
                time.sleep(600)
            if mode == "late":
                time.sleep(12)
            if mode == "signal":
                os.kill(os.getpid(), signal.SIGUSR1)
            if mode == "preempt":
                preempt()
            if mode == "stop":
                # It goes on later, so that torchrun's SIGTERM, which a stopped process does not see, ends it then.
                subprocess.Popen(["sh", "-c", f"sleep 15; kill -CONT {os.getpid()}"], start_new_session=True)
                os.kill(os.getpid(), signal.SIGSTOP)
        outcome = train_step(t, batches)
        if t.world.first:
            chosen = sorted(outcome.candidates[outcome.rows].tolist())
            with log.open("a") as file:
                file.write(json.dumps([outcome.step, outcome.candidates.tolist(), chosen]) + "\n")
        return outcome

    read = Scenes.read

    def faulty_read(self: Scenes, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        if (os.environ["RANK"], get_worker_info() is not None) == (str(rank), True):
            if mode == "stall":
                time.sleep(600)
            os._exit(7)
        return read(self, indices, views)

    if mode in ("stall", "crash"):
        Scenes.read = faulty_read  # type: ignore[method-assign]
    if mode == "stop":
        heartbeat.PAUSE, heartbeat.MISSED = 0.5, 10
    loop.train_step = faulty  # type: ignore[assignment]
    inputs.make_eval_tasks = lambda *_: []  # scoring takes longer than such a run
    sys.argv = ["aced", *words]
    from aced.cli import main as cli

    cli()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
