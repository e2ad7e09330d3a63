"""`aced train` on several ranks, for test_train_caching_ranks.py, which notes who embeds which tar.

`caching_program.py LOG FAILING WORDS...`: each rank appends `rank tar` to LOG when it begins a side-car; rank FAILING
raises an error at its second one (-1: none does).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from aced.cache.making import _Making
from aced.cache.sidecar import Part
from aced.errors import AcedError
from aced.train.run import inputs


def main(log: Path, failing: int, words: list[str]) -> None:
    rank, begun, write = os.environ["RANK"], list[str](), _Making.write

    def noting(self: _Making, path: Path, part: Part, *rest: Any) -> None:
        begun.append(part.name)
        with log.open("a") as file:
            file.write(f"{rank} {part.name}\n")
        if rank == str(failing) and len(begun) == 2:
            raise AcedError("The disk of this machine has melted; buy another one.")
        write(self, path, part, *rest)

    _Making.write = noting  # type: ignore[method-assign]
    inputs.make_eval_tasks = lambda *_: []  # scoring takes longer than such a run
    sys.argv = ["aced", *words]
    from aced.cli import main as cli

    cli()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
