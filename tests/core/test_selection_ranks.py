"""Several ranks choose what one process chooses, and move little to do it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from aced.core.embeddings import Embeddings
from aced.core.selection import Selection, draw, select
from aced.core.selection_ranks import Scope
from rank_fakes import ThreadRanks, on_ranks


def embeddings(count: int, d: int, seed: int, bias: float = -3.0) -> Embeddings:
    g = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, count, d, generator=g)
    return Embeddings(F.normalize(image, dim=1), F.normalize(image + text, dim=1), 10.0, bias)


def spread(counts: list[int], size: int, *, seed: int = 0, **how: Any) -> list[tuple[Selection, ThreadRanks]]:
    """What each rank is told, and what it has exchanged."""
    student, reference = embeddings(sum(counts), 12, seed), embeddings(sum(counts), 20, seed + 1)
    starts = [sum(counts[:r]) for r in range(len(counts))]

    def work(ranks: ThreadRanks) -> tuple[Selection, ThreadRanks]:
        own = slice(starts[ranks.rank], starts[ranks.rank] + counts[ranks.rank])
        chosen = draw(
            student[own], reference[own], size, ranks, counts, generator=torch.Generator().manual_seed(seed), **how
        )
        return chosen, ranks

    return on_ranks(len(counts), work)


def whole(counts: list[int], size: int, *, seed: int = 0, **how: Any) -> Selection:
    student, reference = embeddings(sum(counts), 12, seed), embeddings(sum(counts), 20, seed + 1)
    return select(student, reference, size, generator=torch.Generator().manual_seed(seed), **how)


@pytest.mark.parametrize("counts", [[90], [45, 45], [23, 30, 17, 20], [1, 80, 5], [0, 50, 0, 40]])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("strategy", ["joint", "independent", "top-k"])
def test_global_is_what_one_process_chooses(counts: list[int], loss: str, strategy: str) -> None:
    how = {"loss": loss, "strategy": strategy, "chunks": 5}
    one = whole(counts, 23, seed=len(counts), **how)
    for chosen, _ in spread(counts, 23, seed=len(counts), **how):
        assert chosen.indices.tolist() == one.indices.tolist()
        assert chosen.chunk.tolist() == one.chunk.tolist()
        torch.testing.assert_close(chosen.gains, one.gains, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(chosen.scores, one.scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("score", ["easy-reference", "hard-student", "diverse"])
@pytest.mark.parametrize("seed", range(4))
def test_every_score_and_all_candidates(score: str, seed: int) -> None:
    one = whole([20, 20], 40, seed=seed, score=score)
    assert sorted(one.indices.tolist()) == list(range(40))
    for chosen, _ in spread([20, 20], 40, seed=seed, score=score):
        assert chosen.indices.tolist() == one.indices.tolist()


@pytest.mark.parametrize("scope", ["quota", "local"])
@pytest.mark.parametrize("size", [24, 22, 3])
def test_each_rank_gives_its_share(scope: Scope, size: int) -> None:
    results = spread([40, 40, 40, 40], size, scope=scope, chunks=4)
    rows = results[0][0].indices
    assert all(torch.equal(chosen.indices, rows) for chosen, _ in results)
    assert len(set(rows.tolist())) == size
    shares = torch.bincount(rows // 40, minlength=4).tolist()
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("strategy", ["joint", "independent"])
@pytest.mark.parametrize("scope", ["quota", "local"])
def test_a_rank_without_candidates_gives_none(scope: Scope, strategy: str, loss: str) -> None:
    results = spread([40, 0, 40], 30, scope=scope, strategy=strategy, loss=loss, chunks=4)
    rows = results[0][0].indices
    assert all(torch.equal(chosen.indices, rows) for chosen, _ in results)
    assert torch.bincount(rows // 40, minlength=2).tolist() == [10, 10]


def test_a_rank_that_lacks_candidates_gives_all_it_has() -> None:
    rows = spread([3, 40], 20, scope="quota")[0][0].indices
    assert sorted(rows.tolist())[:3] == [0, 1, 2]
    assert len(rows) == 13


def test_local_is_each_ranks_own_selection() -> None:
    student, reference = embeddings(80, 12, 0), embeddings(80, 20, 1)
    rows = spread([40, 40], 16, scope="local", chunks=4, temperature=0.0)[0][0].indices
    for r in range(2):
        own = slice(40 * r, 40 * r + 40)
        alone = select(student[own], reference[own], 8, chunks=4, temperature=0.0)
        assert rows[rows // 40 == r].tolist() == (alone.indices + 40 * r).tolist()


def test_quota_scores_against_all_that_was_chosen() -> None:
    """The gains by loops over pairs, given what the ranks chose before."""
    counts = [30, 30]
    models = (embeddings(60, 12, 0), embeddings(60, 20, 1))
    chosen = spread(counts, 12, scope="quota", chunks=3)[0][0]

    def score(i: int, j: int) -> float:
        value = 0.0
        for sign, e in zip((1.0, -1.0), models, strict=True):
            z = float(e.image[i] @ e.text[j]) * float(e.scale) + float(e.bias)
            value += sign * float(F.softplus(torch.tensor(-z if i == j else z)))
        return value

    for row, chunk, gain in zip(chosen.indices.tolist(), chosen.chunk.tolist(), chosen.gains.tolist(), strict=True):
        before = chosen.indices[chosen.chunk < chunk].tolist()
        expected = score(row, row) + sum(score(row, k) + score(k, row) for k in before)
        assert gain == pytest.approx(expected, abs=1e-4)


def test_ranks_move_winners_and_no_more() -> None:
    """All that a rank gives away grows with b d and n c, never with B d or B x B."""
    size, chunks, width = 32, 4, 2 * (12 + 20)
    moved = [ranks.moved for _, ranks in spread([200, 200], size, chunks=chunks)]
    # the scores of its own candidates, offers, the winners of all chunks but the last
    assert max(moved) <= 200 + 3 * size + width * (size - size // chunks)


@pytest.mark.parametrize("counts", [[30, 30], [20, 5, 0, 35]])
@pytest.mark.parametrize(
    ("scope", "beside", "each"),
    [
        ("global", ["gather"], ["gather", "sum"]),  # everyone's scores; offers and winners
        ("quota", ["gather", "gather"], ["gather"]),  # and what all have chosen; winners
        ("local", ["gather", "gather"], []),
    ],
)
@pytest.mark.parametrize("strategy", ["joint", "top-k"])
def test_no_exchange_is_made_that_is_not_needed(
    scope: str, beside: list[str], each: list[str], strategy: str, counts: list[int]
) -> None:
    chunks = 4 if strategy == "joint" else 1
    for _, ranks in spread(counts, 16, scope=scope, strategy=strategy, chunks=4):
        # Nobody is compared with the last chunk, so that its embeddings stay where they are.
        expected = [*beside, *(chunks * each)][: len(beside) + len(each) * chunks - bool(each)]
        assert sorted(ranks.exchanges) == sorted(expected)


@pytest.mark.parametrize(
    ("counts", "size", "how", "words"),
    [
        ([10, 10], 21, {}, "21 of 20.*2 ranks"),
        ([10, 10], 5, {"scope": "everyone"}, "scope 'everyone'.*global, quota, local"),
        ([10, 10], 5, {"loss": "hinge"}, "loss"),
    ],
)
def test_bad_input_is_refused_on_every_rank(counts: list[int], size: int, how: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        spread(counts, size, **how)
