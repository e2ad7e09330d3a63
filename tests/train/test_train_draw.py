"""The draw with a run's settings: what it counts and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from aced.core.embeddings import Embeddings
from aced.core.selection import select
from aced.errors import AcedError
from aced.methods import METHODS
from aced.runs.ledger import Ledger
from aced.train.distributed import World
from aced.train.scoring.draw import draw


def embeddings(count: int, width: int, seed: int) -> Embeddings:
    g = torch.Generator().manual_seed(seed)
    image, text = F.normalize(torch.randn(2, count, width, generator=g), dim=2)
    return Embeddings(image, text, 10.0, -5.0)


def moment(count: int, loss: str = "sigmoid", method: str = "h-acid") -> Any:
    settings = SimpleNamespace(scope="global", loss=loss, chunks=4, temperature=1.0)
    return SimpleNamespace(
        settings=settings,
        method=METHODS[method],
        world=World(),
        ledger=Ledger(),
        step=4,
        counts=[count],
        sources=None,
        generator=torch.Generator().manual_seed(7),
    )


@pytest.mark.parametrize("count", [60, 400, 401])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("method", ["h-acid", "h-acid-independent"])
def test_what_is_drawn_and_counted_is_of_one_kind_at_every_size(count: int, loss: Any, method: str) -> None:
    t, pair = moment(count, loss, method), (embeddings(count, 8, 0), embeddings(count, 12, 1))
    with FlopCounterMode(display=False) as counter:
        chosen = draw(t, "learnability", 20, *pair)
    assert t.ledger.flops["selection"] == counter.get_total_flops()
    how = {"loss": loss, "strategy": t.method.strategy, "chunks": 4}
    public = select(*pair, 20, generator=torch.Generator().manual_seed(7), **how)
    assert torch.equal(chosen.indices, public.indices)
    assert torch.equal(chosen.gains, public.gains)


@pytest.mark.parametrize("count", [60, 500])
def test_embeddings_that_are_no_numbers_are_refused_with_the_step(count: int) -> None:
    student, reference = embeddings(count, 8, 0), embeddings(count, 12, 1)
    text = reference.text.clone()
    text[33, 2] = torch.nan
    with pytest.raises(AcedError, match=r"Step 5: .*reference.*text.* 33"):
        draw(moment(count), "learnability", 20, student, replace(reference, text=text))


def test_rho_loss_takes_the_pairs_whose_loss_training_can_still_reduce_most() -> None:
    student, small = embeddings(30, 8, 0), embeddings(30, 8, 1)

    def loss(e: Embeddings, i: int) -> float:
        product = math.fsum(a * b for a, b in zip(e.image[i].tolist(), e.text[i].tolist(), strict=True))
        return math.log1p(math.exp(-(10.0 * product - 5.0)))

    assert METHODS["rho-loss"].needs_peer
    chosen = draw(moment(30, method="rho-loss"), "learnability", 6, student, small)
    reducible = [loss(student, i) - loss(small, i) for i in range(30)]
    assert chosen.indices.tolist() == sorted(range(30), key=reducible.__getitem__, reverse=True)[:6]


def test_fewer_candidates_than_are_wanted_are_all_taken() -> None:
    chosen = draw(moment(9), "learnability", 20, embeddings(9, 8, 0), embeddings(9, 12, 1))
    assert sorted(chosen.indices.tolist()) == list(range(9))
