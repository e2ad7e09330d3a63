"""Rows as bytes: whatever was packed comes out of it."""

from __future__ import annotations

import pytest
import torch

from aced.pool.loader.packing import packed, unpacked

TYPES = (torch.uint8, torch.bool, torch.int64, torch.int32, torch.float32, torch.bfloat16, torch.float16, torch.int8)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_what_is_packed_comes_out(n: int) -> None:
    """In every type, at addresses that no type but bytes likes, of rows that do not lie together."""
    g = torch.Generator().manual_seed(n)
    tensors = {}
    for number, dtype in enumerate(TYPES):
        for shape in ((), (3,), (3, 2, 1), (0,)):
            values = (100 * torch.rand(n, *shape, generator=g)).to(dtype)
            tensors[number, shape] = values if number % 2 else values.repeat_interleave(2, 0)[::2]
    rows = packed(tensors)
    assert rows.shape == (n, sum(v[:1].nbytes if n else v.new_zeros(1, *v.shape[1:]).nbytes for v in tensors.values()))
    order = torch.randperm(n, generator=g)
    for key, values in unpacked(rows[order], tensors).items():
        assert values.dtype == tensors[key].dtype
        assert torch.equal(values, tensors[key][order])
