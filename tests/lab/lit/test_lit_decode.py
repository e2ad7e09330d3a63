"""Beam search against the enumeration of every text, and greedy decoding against a plain loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from aced.lab.lit.decode import beam_search, greedy

END, VOCABULARY, LONGEST = 0, 4, 4


def table(seed: int, n: int) -> dict[tuple[int, ...], Tensor]:
    """Random logits of a model for every item and every text so far."""
    draw = torch.Generator().manual_seed(seed)
    return {
        (item, *text): 2 * torch.randn(VOCABULARY, generator=draw)
        for item in range(n)
        for length in range(LONGEST + 1)
        for text in itertools.product(range(VOCABULARY), repeat=length)
    }


class Model:
    """Looks its logits up; the prompt is one id long."""

    def __init__(self, seed: int, n: int = 3) -> None:
        self.logits = table(seed, n)
        self.calls = 0

    def __call__(self, ids: Tensor, items: Tensor) -> Tensor:
        self.calls += 1
        keys = [(item, *row[1:]) for item, row in zip(items.tolist(), ids.tolist(), strict=True)]
        return torch.stack([self.logits[key] for key in keys])

    def score(self, item: int, text: tuple[int, ...], power: float = 0.0) -> float:
        steps = [torch.log_softmax(self.logits[item, *text[:i]], dim=0)[one] for i, one in enumerate(text)]
        return float(sum(steps)) / len(text) ** power


def every_text() -> list[tuple[int, ...]]:
    """Every text that ends, or is cut at the longest."""
    words = range(1, VOCABULARY)
    ended = [(*text, END) for length in range(LONGEST) for text in itertools.product(words, repeat=length)]
    return ended + list(itertools.product(words, repeat=LONGEST))


def prompts(n: int = 3) -> Tensor:
    return torch.full((n, 1), 7)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
def test_a_beam_that_holds_everything_finds_the_best_of_all_texts(seed: int, power: float) -> None:
    model = Model(seed)
    found, scores = beam_search(model, prompts(), end=END, longest=LONGEST, beams=3**3, length_power=power)
    for item in range(3):
        best = max(every_text(), key=lambda text: model.score(item, text, power))
        written = (*found[item].tolist(), *[END] * LONGEST)[:LONGEST]
        assert written == (*best, *[END] * LONGEST)[:LONGEST]
        assert float(scores[item]) == pytest.approx(model.score(item, best, power), abs=1e-5)


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_a_narrow_beam_scores_what_it_wrote_and_no_better_than_the_best(beams: int) -> None:
    for seed in range(10):
        model = Model(seed)
        found, scores = beam_search(model, prompts(), end=END, longest=LONGEST, beams=beams)
        for item in range(3):
            text = tuple(found[item].tolist())
            whole = (*text, END) if END not in text and len(text) < LONGEST else text
            text = whole[: whole.index(END) + 1] if END in whole else whole
            assert float(scores[item]) == pytest.approx(model.score(item, text), abs=1e-5)
            assert float(scores[item]) <= max(model.score(item, other) for other in every_text()) + 1e-5


def test_a_wider_beam_wins_somewhere() -> None:
    gains = 0.0
    for seed in range(10):
        _, narrow = beam_search(Model(seed), prompts(), end=END, longest=LONGEST, beams=1)
        _, wide = beam_search(Model(seed), prompts(), end=END, longest=LONGEST, beams=27)
        gains += float((wide - narrow).clamp(min=0).sum())
    assert gains > 0.5


def test_greedy_takes_the_likeliest_id_at_each_step() -> None:
    for seed in range(6):
        model = Model(seed)
        found = greedy(model, prompts(), end=END, longest=LONGEST).tolist()
        for item in range(3):
            text: list[int] = []
            while len(text) < LONGEST and END not in text:
                text.append(int(model.logits[item, *text].argmax()))
            assert found[item] == (text + [END] * LONGEST)[: len(found[item])]


def test_banned_ids_are_never_written() -> None:
    for seed in range(6):
        model = Model(seed)
        assert 2 not in greedy(model, prompts(), end=END, longest=LONGEST, banned=(2,)).flatten()
        found, _ = beam_search(model, prompts(), end=END, longest=LONGEST, beams=4, banned=(2,))
        assert 2 not in found.flatten()


def test_items_do_not_see_each_other() -> None:
    model = Model(3)
    together, _ = beam_search(model, prompts(), end=END, longest=LONGEST, beams=2)
    model.logits = {(0, *key[1:]): value for key, value in model.logits.items() if key[0] == 2}
    alone, _ = beam_search(model, prompts(1), end=END, longest=LONGEST, beams=2)
    width = min(together.shape[1], alone.shape[1])
    assert together[2, :width].tolist() == alone[0, :width].tolist()


def test_the_search_ends_when_nothing_can_win_any_more() -> None:
    model = Model(0, n=1)
    for key in model.logits:
        model.logits[key] = torch.tensor([20.0, 0.0, 0.0, 0.0])
    found, _ = beam_search(model, prompts(1), end=END, longest=LONGEST, beams=3)
    assert found.tolist() == [[END]]
    assert model.calls == 1
