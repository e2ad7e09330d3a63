"""What a run left that ended early, and whether two runs are one to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from run_fakes import lines_of

STEPS = 6
"""Of the runs that are compared."""

BeforeStep = Callable[[int, Callable[[], object]], None]


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("*"))


def same_run(one: Path, other: Path) -> None:
    """Weights, moments, counts, lines and scores of two runs, to the bit."""
    last = f"checkpoints/step-{STEPS:08d}"
    for name in ("model/model.safetensors", f"{last}/train.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("metrics.jsonl", "evals.jsonl"):
        assert (one / name).exists() == (other / name).exists(), name
        if (one / name).exists():
            assert lines_of(one / name) == lines_of(other / name)
    facts = [json.loads((folder / last / "train.json").read_text()) for folder in (one, other)]
    for content in facts:
        del content["config"]["run"], content["ledger"]["seconds"], content["config"]["data"]["lost_tars"]
    assert facts[0] == facts[1]
