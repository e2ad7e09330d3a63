"""`aced train` on several ranks that evaluate together, for test_train_evaluating_program.py.

`evaluating_program.py MODE RANK WORDS...`: MODE is what happens to RANK: `none`; `crash` (the processes that decode the
images of the task `selection` for it die); `signal` (SIGUSR1 while it embeds images at step 2); `raise` (it fails
while it embeds at step 2, beside any task).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from aced.errors import AcedError
from aced.evaluate import tar_images
from aced.train import evaluating
from aced.train.run import run_scores


def main(mode: str, rank: int, words: list[str]) -> None:
    read, step = tar_images.read_member, [0]
    own = int(os.environ["RANK"]) == rank

    def reading(tar: Path, *rest: Any) -> bytes:
        if own and mode == "crash" and "selection" in str(tar) and multiprocessing.parent_process() is not None:
            os._exit(7)
        return read(tar, *rest)

    embed, make = run_scores.embed_together, evaluating._Shared._own

    def at_step(*arguments: Any, **named: Any) -> Any:
        step[0] = named["step"]
        return embed(*arguments, **named)

    def making(*arguments: Any) -> Any:
        if own and step[0] == 2 and mode == "signal":
            os.kill(os.getpid(), signal.SIGUSR1)
        if own and step[0] == 2 and mode == "raise":
            raise AcedError("The disk of this machine has melted; buy another one.")
        yield from make(*arguments)

    tar_images.read_member = reading  # type: ignore[assignment]
    run_scores.embed_together = at_step  # type: ignore[assignment]
    evaluating._Shared._own = making  # type: ignore[method-assign]
    sys.argv = ["aced", *words]
    from aced.cli import main as cli

    cli()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
