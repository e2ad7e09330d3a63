"""Quotas by source: how many each source gives, and which, against loops over sources and pairs."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.quotas import apportioned, in_chunks, places_by_source, shared_out
from aced.core.ranks import Alone
from aced.core.selection import draw, select
from rank_fakes import on_ranks

COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=7).filter(lambda counts: sum(counts) > 0)
SOURCES = torch.tensor([3, 0, 3, 3, 7, 3, 0, 3, 3, 3] * 4)
"""Of 40 candidates 4 are of source 7, 8 of source 0 and 28 of source 3."""


def embeddings(count: int, width: int, seed: int) -> Embeddings:
    noise = torch.randn(2, count, width, generator=torch.Generator().manual_seed(seed))
    return Embeddings(F.normalize(noise[0], dim=1), F.normalize(noise[0] + noise[1], dim=1), 9.0, -4.0)


def pair(count: int = 40, seed: int = 0) -> tuple[Embeddings, Embeddings]:
    return embeddings(count, 5, 2 * seed), embeddings(count, 9, 2 * seed + 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_source(rows: Tensor) -> dict[int, int]:
    return {source: int((SOURCES[rows] == source).sum()) for source in (0, 3, 7)}


# -- how many ----------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(counts=COUNTS, data=st.data())
def test_quotas_are_the_exact_shares_rounded_by_their_remainders(counts: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(0, sum(counts)))
    found = apportioned(size, counts)
    exact = [Fraction(size * count, sum(counts)) for count in counts]
    assert sum(found) == size
    assert all(0 <= quota <= count for quota, count in zip(found, counts, strict=True))
    assert all(quota in (math.floor(share), math.ceil(share)) for quota, share in zip(found, exact, strict=True))
    more = [source for source, share in enumerate(exact) if found[source] > share]
    less = [source for source, share in enumerate(exact) if found[source] < share]
    rest = [share - math.floor(share) for share in exact]
    for up, down in itertools.product(more, less):
        assert rest[up] > rest[down] or (rest[up] == rest[down] and up < down)


def test_nothing_is_shared_among_sources_that_have_nothing() -> None:
    assert apportioned(0, [0, 0]) == [0, 0]


@settings(max_examples=200, deadline=None)
@given(counts=COUNTS, seed=st.integers(0, 99), data=st.data())
def test_drawn_quotas_are_the_exact_shares_rounded(counts: list[int], seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, sum(counts)))
    found = shared_out(size, counts, generator(seed))
    assert sum(found) == size
    for quota, count in zip(found, counts, strict=True):
        share = Fraction(size * count, sum(counts))
        assert quota in (math.floor(share), math.ceil(share))
        assert 0 <= quota <= count


def test_over_many_draws_every_source_gets_its_exact_share() -> None:
    """Largest remainders would give the two small sources nothing, ever."""
    counts, size, draws, source = [1, 298, 1, 20], 64, 4000, generator(2)
    found = torch.tensor([shared_out(size, counts, source) for _ in range(draws)]).double().mean(0)
    wanted = size * torch.tensor(counts).double() / sum(counts)
    assert apportioned(size, counts)[0] == apportioned(size, counts)[2] == 0
    assert ((found - wanted).abs() < 5 * math.sqrt(0.25 / draws)).all()


def test_whole_shares_draw_nothing() -> None:
    source = generator()
    before = source.get_state()
    assert shared_out(20, [8, 28, 4], source) == [4, 14, 2]
    assert torch.equal(source.get_state(), before)


@settings(max_examples=200, deadline=None)
@given(quotas=COUNTS, chunks=st.integers(1, 20))
def test_every_chunk_has_its_part_of_every_quota(quotas: list[int], chunks: int) -> None:
    dealt = in_chunks(quotas, chunks)
    assert [sum(of) for of in zip(*dealt, strict=True)] == quotas
    for numbers in (*zip(*dealt, strict=True), [sum(of) for of in dealt]):
        assert max(numbers) - min(numbers) <= 1
    sizes = [sum(of) for of in dealt]
    assert sizes == sorted(sizes, reverse=True)


def test_candidates_are_found_by_their_source() -> None:
    places = places_by_source(SOURCES, torch.device("cpu"))
    assert [rows.tolist() for rows in places] == [
        [row for row, source in enumerate(SOURCES.tolist()) if source == wanted] for wanted in (0, 3, 7)
    ]


# -- which -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("strategy", ["joint", "independent", "top-k"])
@pytest.mark.parametrize("size", [1, 7, 20, 39, 40])
def test_each_source_gives_its_quota(strategy: str, loss: str, temperature: float, size: int) -> None:
    how: dict[str, Any] = {"strategy": strategy, "loss": loss, "temperature": temperature, "chunks": 6}
    chosen = select(*pair(), size, sources=SOURCES, generator=generator(), **how)
    assert len(set(chosen.indices.tolist())) == size
    assert list(by_source(chosen.indices).values()) == shared_out(size, [8, 28, 4], generator())
    sizes = torch.bincount(chosen.chunk).tolist()
    assert sizes == torch.bincount(select(*pair(), size, generator=generator(), **how).chunk).tolist()


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_independent_scores_take_each_sources_own_best(loss: str) -> None:
    chosen = select(*pair(), 20, sources=SOURCES.tolist(), loss=loss, strategy="top-k")
    everyones = select(*pair(), 20, loss=loss, strategy="top-k").scores
    assert torch.equal(chosen.scores, everyones)
    wanted = []
    for source, quota in ((0, 4), (3, 14), (7, 2)):
        own = [row for row in range(40) if SOURCES[row] == source]
        wanted += sorted(own, key=lambda row: -float(everyones[row]))[:quota]
    assert chosen.indices.tolist() == wanted
    assert wanted != select(*pair(), 20, loss=loss, strategy="top-k").indices.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_a_joint_draw_is_each_sources_own_given_what_all_have_chosen(seed: int) -> None:
    """The greedy draw by loops over pairs: in every chunk each source's best, by gains against all earlier chunks."""
    student, reference = pair(seed=seed)
    chosen = select(student, reference, 20, sources=SOURCES, chunks=5, temperature=0.0)

    def score(i: int, j: int) -> float:
        value = 0.0
        for sign, e in ((1.0, student), (-1.0, reference)):
            z = float(e.image[i] @ e.text[j]) * float(e.scale) + float(e.bias)
            value += sign * math.log1p(math.exp(-z if i == j else z))
        return value

    taken: list[int] = []
    gains: list[float] = []
    for quotas in in_chunks([4, 14, 2], 5):
        found = []
        for source, quota in zip((0, 3, 7), quotas, strict=True):
            left = [row for row in range(40) if SOURCES[row] == source and row not in taken]
            value = {i: score(i, i) + math.fsum(score(i, k) + score(k, i) for k in taken) for i in left}
            best = sorted(left, key=lambda row: -value[row])[:quota]
            found += best
            gains += [value[row] for row in best]
        taken += found
    assert chosen.indices.tolist() == taken
    assert chosen.gains.tolist() == pytest.approx(gains, abs=1e-4)


def test_one_pick_of_a_source_has_the_probabilities_of_its_own_draw() -> None:
    """Of source 7 two of four are drawn: the first with probability proportional to exp(g)."""
    models, draws = pair(), 1000
    scores = select(*models, 1, strategy="top-k").scores[SOURCES == 7].double()
    source = generator(1)
    seen = torch.zeros(40)
    for _ in range(draws):
        rows = select(*models, 20, sources=SOURCES, strategy="independent", generator=source).indices
        seen[rows[SOURCES[rows] == 7][0]] += 1
    found, wanted = seen[SOURCES == 7].double() / draws, scores.softmax(0)
    assert torch.equal(seen[SOURCES != 7], torch.zeros(36))
    assert (found - wanted).abs().max() < 5 * math.sqrt(0.25 / draws)


@pytest.mark.parametrize("strategy", ["joint", "independent", "top-k"])
def test_a_single_source_is_a_draw_without_sources_to_the_bit(strategy: Any) -> None:
    one, other = (
        select(*pair(), 13, strategy=strategy, chunks=4, generator=generator(3), sources=sources)
        for sources in (None, torch.full((40,), 5))
    )
    assert torch.equal(one.indices, other.indices)
    assert torch.equal(one.gains, other.gains)
    assert one.sizes == other.sizes


def test_the_numbers_of_sources_have_no_meaning() -> None:
    names = torch.tensor([2, 9, 9, 9])  # ascending where 0, 3 and 7 are
    relabelled = torch.where(SOURCES == 0, -5, torch.where(SOURCES == 3, 100, 2**40))
    one, other = (select(*pair(), 20, sources=of, generator=generator()).indices for of in (SOURCES, relabelled))
    assert torch.equal(one, other)
    assert len(select(*pair(4), 2, sources=names, generator=generator()).indices) == 2


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "tells"),
    [
        ([0] * 39, "39"),
        (torch.zeros(40), "float32"),
        (torch.zeros(40, 1, dtype=torch.int64), "40, 1"),
        (["web", "aerial"] * 20, "list"),  # names, as one is tempted to give them
        ([0, None] * 20, "list"),
        ([[0], [0, 1]] * 20, "list"),
        ("a" * 40, "str"),
    ],
)
def test_sources_of_another_form_are_refused(sources: Any, tells: str) -> None:
    with pytest.raises(ValueError, match=rf"sources.* 40 .*{tells}"):
        select(*pair(), 8, sources=sources)


def test_several_ranks_are_refused() -> None:
    def work(ranks: Any) -> str:
        own = slice(20 * ranks.rank, 20 * ranks.rank + 20)
        with pytest.raises(ValueError, match=r"sources.* 2\b") as caught:
            draw(*(e[own] for e in pair()), 8, ranks, [20, 20], sources=SOURCES)
        return str(caught.value)

    assert len(set(on_ranks(2, work))) == 1
    assert len(draw(*pair(), 8, Alone(), [40], sources=SOURCES).indices) == 8
