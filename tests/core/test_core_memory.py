"""The watcher of allocations itself, which other tests trust."""

from __future__ import annotations

import torch
from core_memory import Allocations


def test_sees_a_square_matrix_and_its_end() -> None:
    a = torch.ones(100, 3)
    with Allocations() as record:
        for _ in range(5):
            b = a @ a.T
            del b
        a.T.reshape(-1)
    assert record.largest == 10_000
    assert 40_000 <= record.peak < 50_000


def test_sees_what_autograd_keeps() -> None:
    a = torch.ones(1000, requires_grad=True)
    with Allocations() as record:
        total = torch.stack([(a * i).exp().sum() for i in range(50)]).sum()
        kept = record.peak
        total.backward()
    assert record.largest == 1000
    assert 50 * 4000 <= kept < 60 * 4000
