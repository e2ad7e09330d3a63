from __future__ import annotations

import json
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aced.core.embeddings import Embeddings
from aced.core.selection import select
from aced.runs.ledger import Ledger, flops_per_trained_sample, selection_flops


def test_budgets_add_up() -> None:
    ledger = Ledger()
    assert ledger.budgets() == {"samples_trained": 0, "samples_loaded": 0, "flops": 0.0, "seconds": 0.0}
    ledger.samples_loaded += 50
    ledger.trained(10, forward_flops=7.0)
    ledger.trained(2, forward_flops=7.0)
    ledger.forward("scoring", 50, 7.0)
    ledger.forward("reference", 50, 100.0)
    ledger.forward("teacher", 10, 1000.0)
    ledger.forward("selection", 1, 13.0)
    ledger.cached_flops += 1e9
    ledger.seconds["load"] += 1.5
    ledger.seconds["train"] += 2.0
    assert ledger.flops == {
        "forward_backward": 12 * 7 * 3,
        "scoring": 350,
        "selection": 13,
        "reference": 5000,
        "teacher": 10000,
    }
    assert ledger.budgets() == {
        "samples_trained": 12,
        "samples_loaded": 50,
        "flops": 252 + 350 + 13 + 5000 + 10000,  # what the cache cost is no run's own
        "seconds": 3.5,
    }


def test_timed_adds_to_its_phase_alone() -> None:
    ledger = Ledger()
    for _ in range(2):
        with ledger.timed("score"):
            time.sleep(0.01)
    assert ledger.seconds["score"] >= 0.02
    assert sum(ledger.seconds.values()) == ledger.seconds["score"] == ledger.budgets()["seconds"]


def test_timed_counts_a_block_that_fails() -> None:
    def fail() -> None:
        time.sleep(0.01)
        raise KeyError("lost")

    ledger = Ledger()
    with pytest.raises(KeyError), ledger.timed("load"):
        fail()
    assert ledger.seconds["load"] >= 0.01


class Late:
    """A clock that tells nothing before it is waited for."""

    def __init__(self, *times: float) -> None:
        self.times = iter(times)

    def mark(self) -> float:
        return next(self.times)

    def between(self, start: float, end: float, *, wait: bool) -> float | None:
        return end - start if wait else None


def test_phases_are_told_by_the_clock_that_was_given() -> None:
    ledger = Ledger(clock=Late(1.0, 3.5, 10.0, 10.25))
    for phase in ("score", "train"):
        with ledger.timed(phase):  # type: ignore[arg-type]
            pass
    assert (ledger.seconds["score"], ledger.seconds["train"]) == (0.0, 0.0)
    twin = ledger.copy()
    assert ledger.budgets()["seconds"] == 2.75
    assert (ledger.seconds["score"], ledger.seconds["train"]) == (2.5, 0.25)
    assert twin.seconds["score"] == 0.0
    assert twin.state() == ledger.state()
    assert set(ledger.state()) == {"samples_trained", "samples_loaded", "flops", "cached_flops", "seconds"}


def test_state_survives_json_and_is_a_copy() -> None:
    ledger = Ledger()
    ledger.trained(3, 5.0)
    with ledger.timed("select"):
        pass
    state = ledger.state()
    assert Ledger(**json.loads(json.dumps(state))) == ledger
    ledger.trained(3, 5.0)
    assert state["flops"] == {**Ledger().flops, "forward_backward": 45.0}


def test_ledgers_share_nothing() -> None:
    one, other = Ledger(), Ledger()
    one.trained(1, 1.0)
    one.seconds["load"] += 1
    assert other == Ledger()


# The table of METHOD section 4 at f = 0.8 (B = 5 b) for a reference of r = 4 student forward passes.
R = 4.0


@pytest.mark.parametrize(
    ("row", "options", "forwards"),
    [
        ("IID", {"filtering_ratio": 0.0, "scores_student": False, "uses_reference": False}, (3, 3)),
        ("Softmax-KD", {"filtering_ratio": 0.0, "scores_student": False, "uses_reference": True}, (3 + R, 3)),
        ("I-ACID", {"filtering_ratio": 0.8, "scores_student": False, "uses_reference": True}, (3 + 5 * R, 3)),
        ("H-ACID", {"filtering_ratio": 0.8, "scores_student": True, "uses_reference": True}, (8 + 5 * R, 8)),
        ("hard-student", {"filtering_ratio": 0.8, "scores_student": True, "uses_reference": False}, (8, 8)),
    ],
)
def test_flops_per_trained_sample(row: str, options: dict, forwards: tuple[float, float]) -> None:
    got = [flops_per_trained_sample(**options, reference=R, cached=cached) for cached in (False, True)]
    assert got == pytest.approx(forwards)


def test_naive_learnability_costs_eight_thirds_of_iid() -> None:
    cost = {
        ratio: flops_per_trained_sample(
            filtering_ratio=ratio,
            reference=R,
            scores_student=ratio > 0,
            uses_reference=ratio > 0,
            cached=True,
        )
        for ratio in (0.0, 0.8)
    }
    assert cost[0.8] / cost[0.0] == pytest.approx(8 / 3)


@pytest.mark.parametrize(("size", "chunks"), [(20, 4), (20, 7), (20, 1), (3, 16), (17, 17)])
def test_selection_flops_are_those_of_torchs_counter(size: int, chunks: int) -> None:
    def unit(width: int) -> Embeddings:
        values = torch.nn.functional.normalize(torch.randn(2, 50, width), dim=2)
        return Embeddings(values[0], values[1], 10.0, -10.0)

    student, reference = unit(8), unit(12)
    with FlopCounterMode(display=False) as counter:
        select(student, reference, size, chunks=chunks)
    assert counter.get_total_flops() == selection_flops(50, size, chunks, [8, 12])
