"""How often the processes of a job exchange something in a step, counted by `benchmarks/collectives.py`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from launch import torchrun

from aced.methods import METHODS, Method

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks/collectives.py"
CHUNKS = 4
TWO = [
    *(f"{name} global" for name in METHODS),
    *(f"{name} global live" for name in ("aced", "jest", "sigmoid-kd")),
    *(f"{name} {scope}" for name in ("aced", "h-acid") for scope in ("quota", "local")),
    *(f"aced global {key}" for key in ("reuse", "cascade", "predict", "early", "all", "softmax", "fsdp", "caching")),
]
FOUR = ["iid global", "aced global", "aced-iidistill global", "aced global all", "fm-kd global"]
ROWS = [(2, name) for name in TWO] + [(4, name) for name in FOUR]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], dict[str, dict[str, int]]]:
    found = {}
    for ranks, names in ((2, TWO), (4, FOUR)):
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        job = torchrun(str(SCRIPT), ranks, "--json", folder / "found.json", "--job", *names, cwd=folder)
        assert job.status == 0, job.output[-3000:]
        found |= {(ranks, name): calls for name, calls in json.loads((folder / "found.json").read_text()).items()}
    return found


def beside(method: Method, words: list[str]) -> Counter[str]:
    """What a step exchanges beside its draws, but for the inputs that move.

    One of numbers at the start, the texts, what the ranks say of each other's texts, and the ledger at the end.
    """
    calls, distilled = Counter({"gather": 2, "sum_rows": 1, "sum": 1}), [name for name, _ in method.distillations]
    # The sums over columns of a softmax, in DRRho's loss too; what CABS and DISSect choose by; what was embedded to be
    # remembered, to score and in training.
    calls["gather"] += ("softmax" in distilled) + ("softmax" in words) + (method.loss == "drrho")
    calls["gather"] += method.concepts is not None or method.history
    calls["gather"] += {"reuse": 2, "predict": 1, "early": 1, "all": 3}.get(words[-1], 0)
    # Projections are large, and FSDP2 leaves the student's own scale and bias to us.
    calls["sum"] += bool(method.columns or "features" in distilled or "fsdp" in words)
    return calls


@pytest.mark.parametrize(("ranks", "name"), ROWS)
def test_a_step_exchanges_what_it_must(ranks: int, name: str, counted: Any) -> None:
    words, method = name.split(), METHODS[name.split()[0]]
    found = Counter(counted[ranks, name]["beside"])
    moved = found.pop("exchange", 0)
    assert found == beside(method, words)
    # It may be that every rank has its share among its own; nothing moves where candidates are taken as they come.
    chooses = method.chooses or method.distill_on == "iid"
    assert moved <= (chooses and "global" in words)


@pytest.mark.parametrize(("ranks", "name"), ROWS)
def test_a_draw_exchanges_at_most_twice_a_chunk(ranks: int, name: str, counted: Any) -> None:
    words, method = name.split(), METHODS[name.split()[0]]
    draws = 0 if method.score is None else 1 + any(key in words for key in ("cascade", "early", "all"))
    chunks = CHUNKS if method.strategy == "joint" else 1
    each = {"global": 2 * chunks, "quota": chunks + 1, "local": 2}[words[1]]
    assert sum(counted[ranks, name]["draw"].values()) == draws * each


def test_inputs_do_move(counted: Any) -> None:
    assert sum("exchange" in counted[row]["beside"] for row in ROWS) > len(ROWS) / 3
