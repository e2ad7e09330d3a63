"""The most and the least learnable pairs of a super-batch, as pictures with captions, for the report."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.score_models import SCORES, Score
from aced.core.selection import select
from aced.files.atomic import write_atomic
from aced.pool.source import Candidates, Source


def write_gallery(
    path: Path,
    source: Source,
    candidates: Candidates,
    student: Embeddings | None,
    reference: Embeddings | None,
    *,
    score: Score,
    count: int = 24,
) -> None:
    """Write `gallery.json`: the `count` pairs of `candidates` with the highest and the lowest score.

    That is s_ii or, for a score of pairs only, g_i given the pairs that a draw without noise takes first.

    Args:
        path: the file.
        source: the source of the candidates; its kinds are shown, if it knows them.
        candidates: B pairs, read in the student's view.
        student: the trained student's embeddings of them, or None if the score needs none.
        reference: the reference's, or None if the score needs none.
        score: the method's score.
        count: pairs at either end.
    """
    scores = _scores(student, reference, score, len(candidates))
    order = scores.argsort(descending=True).tolist()
    count = min(count, len(order) // 2)
    pixels = next(iter(candidates.images.values()))
    kinds = source.kinds

    def pair(row: int) -> dict[str, Any]:
        return {
            "image": picture_url(pixels[row]),
            "caption": candidates.texts[row],
            "score": float(scores[row]),
            "kind": None if kinds is None else kinds[int(candidates.indices[row])],
        }

    ends = {"most": [pair(r) for r in order[:count]], "least": [pair(r) for r in order[::-1][:count]]}
    write_atomic(path, json.dumps(ends))


def _scores(student: Embeddings | None, reference: Embeddings | None, score: Score, count: int) -> Tensor:
    """`[B]` the value of each pair."""
    if not SCORES[score].within:
        return select(student, reference, 1, score=score, strategy="top-k").scores
    drawn = select(student, reference, count, score=score, chunks=count, temperature=0)
    return torch.empty_like(drawn.gains).scatter_(0, drawn.indices, drawn.gains)


def picture_url(pixels: Tensor) -> str:
    """`[3, H, W]` uint8 to a PNG data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).to(torch.uint8).numpy()).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
