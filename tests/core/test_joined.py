"""The texts of several models go round in one exchange, and come back as gradients in another, with numbers beside."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from core_losses import embed
from torch import Tensor

from aced.core import losses
from aced.core.embeddings import Embeddings
from aced.core.joined import Joined
from aced.core.shares import Share
from rank_fakes import ThreadRanks, on_ranks

SPREADS = [[9], [5, 4], [2, 6, 0, 1], [0, 9]]


def part(e: Embeddings, own: slice) -> Embeddings:
    """Rows of a float32 copy, as leaves."""
    image, text = (side[own].float().clone().requires_grad_() for side in (e.image, e.text))
    return Embeddings(image, text, torch.tensor(7.0, requires_grad=True), -3.0)


def loss(student: Share, other: Share, teachers: Sequence[Share]) -> Tensor:
    by_pair = (student.own.text * student.own.image).sum()  # as in feature matching, which wants one's own texts alone
    return losses.sigmoid(student) + losses.softmax_kd(other.scaled(5.0, 0.0), teachers) + by_pair


def work(ranks: ThreadRanks, counts: list[int], backwards: list[int]) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """The gradients of this rank's embeddings of two batches, the sums of its numbers, and the exchanges of both."""
    shares = []
    for seed, each in enumerate((counts, backwards)):
        start = sum(each[: ranks.rank])
        own = slice(start, start + each[ranks.rank])
        narrow = embed(sum(each), width=3, seed=seed + 7)
        teacher = Embeddings(narrow.image[own].bfloat16(), narrow.text[own].bfloat16(), 9.0, 0.0)
        shares.append((Share(part(embed(sum(each), seed=seed), own), each, ranks, torch.float32), teacher, each))
    student, other = (share for share, _, _ in shares)
    teacher = Share(shares[1][1], backwards, ranks, torch.float32)
    joined = Joined(ranks, [student, other], [teacher])
    exchanges = list(ranks.exchanges)
    loss(student, other, [teacher]).backward()
    forward = ranks.exchanges[len(exchanges) :]
    numbers = [torch.tensor(0.1 * (ranks.rank + 1) * number) for number in range(1, 8)]  # more than a row holds
    sums = joined.add_up(numbers)
    gradients = [side.grad for share in (student, other) for side in (share.own.image, share.own.text)]
    return gradients, sums, [*exchanges, "loss", *forward, "end", *ranks.exchanges[len(exchanges) + len(forward) :]]  # type: ignore[return-value]


@pytest.mark.parametrize("counts", SPREADS, ids=str)
def test_ranks_get_the_gradients_of_one_process(counts: list[int]) -> None:
    backwards = counts[::-1]  # the batch that is distilled on may be spread otherwise
    ((wanted, _, _),) = on_ranks(1, lambda ranks: work(ranks, [9], [9]))
    found = on_ranks(len(counts), lambda ranks: work(ranks, counts, backwards))
    for number, want in enumerate(wanted):
        got = torch.cat([gradients[number] for gradients, _, _ in found])
        assert torch.allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("counts", SPREADS, ids=str)
def test_numbers_ride_along_and_are_the_same_on_every_rank(counts: list[int]) -> None:
    found = on_ranks(len(counts), lambda ranks: work(ranks, counts, counts))
    share = sum(range(1, len(counts) + 1))
    for _, sums, exchanges in found:
        assert [v.item() for v in sums] == pytest.approx([0.1 * share * number for number in range(1, 8)])
        assert torch.equal(torch.stack(sums), torch.stack(found[0][1]))
        if len(counts) > 1:  # the column sums of the softmax are the only others
            assert exchanges == ["gather", "loss", "gather", "end", "sum"]


def test_there_may_be_no_numbers() -> None:
    def alone(ranks: ThreadRanks) -> list[Tensor]:
        own = part(embed(6), slice(3 * ranks.rank, 3 * ranks.rank + 3))
        share = Share(own, [3, 3], ranks, torch.float32)
        joined = Joined(ranks, [share])
        losses.sigmoid(share).backward()
        return joined.add_up([])

    assert on_ranks(2, alone) == [[], []]
