"""Types in which embeddings are stored: what comes back, and how near it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from aced.cache.rowcodec import BLOCK, DTYPES, decode, encode, layout, row_bytes


def unit(n: int, d: int, seed: int = 0) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def there_and_back(rows: Tensor, dtype: str) -> Tensor:
    return decode("image", encode("image", rows, dtype), dtype)


def by_loops(row: list[float]) -> list[float]:
    """int8 in blocks of 64 as the module's docstring says, one number at a time, in float64."""
    out: list[float] = []
    for start in range(0, len(row), 64):
        block = row[start : start + 64]
        scale = float(np.float16(max(abs(x) for x in block) / 127))
        out += [scale * max(-127, min(127, round(x / scale))) if scale else 0.0 for x in block]
    length = sum(x * x for x in out) ** 0.5
    return [x / length for x in out]


@pytest.mark.parametrize("d", [3, 64, 96, 130])
def test_int8_is_what_the_loops_say(d: int) -> None:
    rows = unit(7, d)
    found = there_and_back(rows, "int8")
    assert torch.allclose(found, torch.tensor([by_loops(row) for row in rows.tolist()]), atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 70), (5, 3, 70), (0, 70)])
def test_layout_and_bytes(dtype: str, shape: tuple[int, ...]) -> None:
    stored = encode("image", torch.randn(shape), dtype)
    assert {name: (str(a.dtype), a.shape) for name, a in stored.items()} == layout("image", shape[:-1], 70, dtype)
    count = int(np.prod(shape[:-1]))
    assert sum(a.nbytes for a in stored.values()) == count * row_bytes(70, dtype)
    assert decode("image", stored, dtype).shape == shape


def test_float32_is_exact_and_the_others_are_near() -> None:
    rows = unit(500, 512)
    assert torch.equal(there_and_back(rows, "float32"), rows)
    worst = {dtype: float(1 - (there_and_back(rows, dtype) * rows).sum(1).min()) for dtype in ("float16", "int8")}
    assert worst["float16"] < 1e-6
    assert worst["int8"] < 5e-5
    for dtype in DTYPES:
        assert torch.allclose(there_and_back(rows, dtype).norm(dim=1), torch.ones(500), atol=1e-6)


def test_a_few_large_dimensions_do_not_spoil_the_rest() -> None:
    """As in CLIP models. With one scale for a row the error would be several times as large."""
    rows = 0.01 * torch.randn(200, 512, generator=torch.Generator().manual_seed(1))
    rows[:, 133] += 0.8
    rows = torch.nn.functional.normalize(rows, dim=1)
    error = (there_and_back(rows, "int8") - rows).norm(dim=1).mean()
    whole = torch.round(rows * 127 / rows.abs().amax(1, keepdim=True))
    one_scale = (torch.nn.functional.normalize(whole, dim=1) - rows).norm(dim=1).mean()
    assert error < one_scale / 2
    assert BLOCK == 64


def test_zeros_and_extremes_survive() -> None:
    rows = torch.zeros(2, 128)
    rows[0, 0] = 1.0
    rows[1, 127] = -1.0
    assert torch.equal(there_and_back(rows, "int8"), rows)
