"""What a reference's targets hold, against loops over pairs."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from teacher_targets import BATCH, COLUMNS, measured, targets

from aced.core.embeddings import Embeddings


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_targets_are_a_softmax_and_its_entropy() -> None:
    images, texts, own = unit(3, 4, 0), unit(5, 4, 1), torch.tensor([2, 0, 4])
    found = targets(images, texts, 7.0, own)
    for row in range(3):
        logits = [7.0 * float(images[row] @ text) for text in texts]
        whole = math.fsum(map(math.exp, logits))
        p = [math.exp(value) / whole for value in logits]
        assert float(found[0][row]) == pytest.approx(p[int(own[row])], rel=1e-5)
        assert float(found[1][row]) == pytest.approx(math.exp(-math.fsum(q * math.log(q) for q in p)), rel=1e-5)


def test_targets_without_knowledge_spread_over_all_captions_and_certain_ones_over_none() -> None:
    count = 2 * (BATCH + COLUMNS) + 5  # the rest is no whole batch
    right = torch.arange(count) % 2 == 0
    e = unit(count, 16, 3)
    blank = measured(Embeddings(e, e, 1e-9, 0.0), right, torch.Generator().manual_seed(0))
    assert blank["batches"] == 2
    assert blank["batch: perplexity"] == pytest.approx(BATCH, rel=1e-4)
    assert blank["columns: perplexity"] == pytest.approx(BATCH + COLUMNS, rel=1e-4)
    sure = measured(Embeddings(e, e, 1e4, 0.0), right, torch.Generator().manual_seed(0))
    assert sure["columns: own"] == pytest.approx(1, abs=1e-3)
    assert sure["columns: perplexity"] == pytest.approx(1, abs=1e-3)


def test_only_images_with_right_captions_count() -> None:
    """Wrong captions point the other way: their images would give their own caption nothing."""
    count = BATCH + COLUMNS
    right = torch.arange(count) % 3 == 0
    image = unit(count, 64, 4)
    text = torch.where(right[:, None], image, -image)
    found = measured(Embeddings(image, text, 200.0, 0.0), right, torch.Generator().manual_seed(0))
    assert found["batch: own"] > 0.999
