"""What the gallery ranks: the pairs' own scores, or how unlike the others they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from aced.core.embeddings import Embeddings
from aced.core.selection import Score, select
from aced.lab.scenes import make_pool
from aced.pool.views import View
from aced.runs.gallery import write_gallery

POOL = make_pool(12, 1)
VIEW = View(32)


def embeddings(seed: int) -> Embeddings:
    image, text = F.normalize(torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(seed)), dim=2)
    return Embeddings(image, text, 10.0, -5.0)


@pytest.mark.parametrize("score", ["learnability", "easy-reference"])
def test_pairs_are_ranked_by_their_own_score(score: Score, tmp_path: Path) -> None:
    student, reference = embeddings(1), embeddings(2)
    write_gallery(tmp_path / "g", POOL, POOL.read(range(12), [VIEW]), student, reference, score=score, count=3)
    scores = select(student, reference, 1, score=score, strategy="top-k").scores
    found = json.loads((tmp_path / "g").read_text())
    order = [POOL.captions[i] for i in scores.argsort(descending=True).tolist()]
    assert [pair["caption"] for pair in found["most"]] == order[:3]
    assert [pair["caption"] for pair in found["least"]] == order[::-1][:3]


def test_a_diverse_draw_wants_near_copies_least(tmp_path: Path) -> None:
    reference = embeddings(2)
    for side in (reference.image, reference.text):
        side[[3, 7]] = side[11].clone()
    write_gallery(tmp_path / "g", POOL, POOL.read(range(12), [VIEW]), None, reference, score="diverse", count=2)
    found = json.loads((tmp_path / "g").read_text())
    copies = {POOL.captions[i] for i in (3, 7, 11)}
    assert {pair["caption"] for pair in found["least"]} < copies
    assert all(pair["score"] < -8 for pair in found["least"])  # two sides, each t x.x + c = 5 and more
    assert all(pair["score"] > -8 for pair in found["most"])
