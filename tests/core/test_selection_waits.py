"""The trainer's own draw never waits for a device: on one that holds no numbers it comes to its end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from one_device import OneDevice
from torch import Tensor

from aced.core import gains, products
from aced.core.embeddings import Embeddings
from aced.core.ranks import Alone
from aced.core.selection import Selection, draw, select

COUNT, SIZE = 37, 11
EVERY = [
    how
    for how in itertools.product(
        ("learnability", "easy-reference", "hard-student", "diverse"),
        ("sigmoid", "softmax"),
        ("joint", "independent", "top-k"),
    )
    if how[0] != "diverse" or how[2] == "joint"
]


class Echo:
    """A rank that hears nothing: what others would give has the right shape."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        assert len(rows) == counts[self.rank]
        return rows.new_empty(sum(counts), *rows.shape[1:])

    def sum(self, values: Tensor) -> Tensor:
        return torch.empty_like(values)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no such device
    monkeypatch.setattr(products, "multiplies_narrow", lambda values: values.dtype == torch.bfloat16)
    monkeypatch.setattr(gains, "_TILE", 200)  # several tiles, and noise in several parts
    with OneDevice():
        yield


def model(count: int, width: int, dtype: torch.dtype = torch.float32) -> Embeddings:
    image, text = torch.empty(2, count, width, dtype=dtype, device="meta")
    return Embeddings(image, text, torch.empty((), device="meta").exp(), torch.empty(1, device="meta"))


def check(chosen: Selection, size: int, count: int) -> None:
    assert chosen.indices.shape == chosen.gains.shape == (size,)
    assert chosen.scores.shape == (count,)
    results = (chosen.indices, chosen.gains, chosen.scores, chosen.finite())
    assert {value.device.type for value in results} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("score", "loss", "strategy"), EVERY)
def test_no_draw_waits(score: Any, loss: Any, strategy: Any, dtype: torch.dtype, nowhere: None) -> None:
    chosen = draw(
        model(COUNT, 8, dtype),
        model(COUNT, 12, dtype),
        SIZE,
        Alone(),
        [COUNT],
        score=score,
        loss=loss,
        strategy=strategy,
        chunks=4,
        generator=torch.Generator(),
    )
    check(chosen, SIZE, COUNT)


@pytest.mark.parametrize("counts", [[20, 17], [5, 0, 30, 2]])
@pytest.mark.parametrize("scope", ["global", "quota", "local"])
@pytest.mark.parametrize(("score", "loss", "strategy"), EVERY)
def test_no_draw_of_several_ranks_waits(
    score: Any, loss: Any, strategy: Any, scope: Any, counts: list[int], nowhere: None
) -> None:
    for rank, own in enumerate(counts[:2]):
        chosen = draw(
            model(own, 8),
            model(own, 12),
            SIZE,
            Echo(rank, len(counts)),
            counts,
            scope=scope,
            score=score,
            loss=loss,
            strategy=strategy,
            chunks=4,
            generator=torch.Generator(),
        )
        shares = [SIZE // len(counts) + (r < SIZE % len(counts)) for r in range(len(counts))]
        size = SIZE if scope == "global" else sum(min(share, had) for share, had in zip(shares, counts, strict=True))
        check(chosen, size, sum(counts))


def test_the_public_function_looks_at_its_input(nowhere: None) -> None:
    """So it must wait; and the device that the other tests draw on does notice."""
    with pytest.raises(RuntimeError, match="meta"):
        select(model(COUNT, 8), model(COUNT, 12), SIZE, generator=torch.Generator())


def test_an_operand_of_another_device_is_noticed(nowhere: None) -> None:
    on, off = torch.empty(3, 3, device="meta"), torch.empty(3, 3)
    for mixed in (lambda: on @ off, lambda: off[torch.empty(2, dtype=torch.int64, device="meta")]):
        with pytest.raises(RuntimeError, match=r"cpu.*meta"):
            mixed()
