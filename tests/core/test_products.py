"""Logits on tensor cores, emulated: sums of exact products in float32, in another order than the CPU's."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aced.core import gains, losses, products
from aced.core.embeddings import Embeddings
from aced.core.products import multiplies_narrow, write_logits
from aced.core.selection import select

NARROW = (torch.bfloat16, torch.float16)
SCALE, BIAS = 11.3, -7.1  # neither of which bfloat16 can say


def unit(count: int, width: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator), dim=1).to(dtype)


def tensor_cores(rows: Tensor, other: Tensor) -> Tensor:
    """Sixteen dimensions at a time from the last on, their exact products summed into a float32 accumulator."""
    assert rows.dtype == other.dtype
    assert rows.dtype in NARROW
    total = torch.zeros(len(rows), other.shape[1])
    for part in reversed(torch.arange(rows.shape[1]).split(16)):
        total += rows[:, part].float() @ other[part].float()
    return total


@pytest.fixture
def on_tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "multiplies_narrow", lambda values: values.dtype in NARROW)
    monkeypatch.setattr(products, "narrow_product", tensor_cores)


def models(count: int, seed: int, dtype: torch.dtype) -> tuple[Embeddings, Embeddings]:
    """A student and a reference, in both of which images and texts agree about halfway."""
    made = []
    for number, width in ((2 * seed, 64), (2 * seed + 1, 96)):
        image = unit(count, width, number, torch.float32)
        text = F.normalize(image + unit(count, width, number + 1000, torch.float32), dim=1)
        made.append(Embeddings(image.to(dtype), text.to(dtype), SCALE, BIAS))
    return made[0], made[1]


def logits(chosen: Tensor, rows: Tensor) -> Tensor:
    out = torch.full((len(chosen), len(rows)), torch.nan)
    write_logits(out, chosen, rows, torch.tensor(SCALE))
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *NARROW])
def test_a_cpu_multiplies_in_float32_to_the_bit(dtype: torch.dtype) -> None:
    side, chosen = unit(40, 33, 0, dtype), unit(7, 33, 1, dtype)
    assert torch.equal(logits(chosen, side), (chosen.float() * SCALE) @ side.float().T)


@pytest.mark.parametrize("dtype", NARROW)
def test_tensor_cores_add_no_rounding(dtype: torch.dtype, on_tensor_cores: None) -> None:
    side, chosen = unit(200, 768, 0, dtype), unit(50, 768, 1, dtype)
    got = logits(chosen, side)
    want = SCALE * (chosen.double() @ side.double().T)
    # Some ulps of the scale, the largest number in it: bfloat16 anywhere on the way would be off by a hundredth.
    torch.testing.assert_close(got.double(), want, atol=4e-6, rtol=0)


@pytest.mark.parametrize("dtype", NARROW)
def test_embeddings_that_came_by_way_of_float32_are_the_same(dtype: torch.dtype, on_tensor_cores: None) -> None:
    side, chosen = unit(60, 64, 0, dtype), unit(9, 64, 1, dtype)
    assert torch.equal(logits(chosen.float(), side), logits(chosen, side))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("seed", range(3))
def test_tensor_cores_choose_the_same_but_for_near_ties(
    dtype: torch.dtype, loss: Any, seed: int, on_tensor_cores: None
) -> None:
    narrow = models(600, seed, dtype)
    wide = [replace(e, image=e.image.float(), text=e.text.float()) for e in narrow]
    # Without noise, gains say by how little a place was missed.
    got, want = (select(*pair, 120, loss=loss, chunks=6, temperature=0) for pair in (narrow, wide))
    torch.testing.assert_close(got.scores, want.scores, atol=2e-5, rtol=1e-5)
    differ = (got.indices != want.indices).nonzero().flatten()
    same = int(differ[0]) if len(differ) else len(got.indices)
    torch.testing.assert_close(got.gains[: same + 1], want.gains[: same + 1], atol=1e-4, rtol=1e-5)
    generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
    drawn = [
        set(select(*pair, 120, loss=loss, chunks=6, generator=g).indices.tolist())
        for pair, g in zip((narrow, wide), generators, strict=True)
    ]
    assert len(drawn[0] & drawn[1]) >= 119  # a near-tie moves one place at most


def test_one_model_may_be_narrow_and_the_other_wide(on_tensor_cores: None) -> None:
    student, reference = models(200, 0, torch.bfloat16)
    wide = replace(reference, image=reference.image.float(), text=reference.text.float())
    got, want = (select(student, e, 40, temperature=0, chunks=4) for e in (wide, reference))
    torch.testing.assert_close(got.gains, want.gains, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "capability", "hip", "narrow"),
    [
        (torch.bfloat16, (9, 0), None, True),
        (torch.float16, (8, 0), None, True),
        (torch.float32, (9, 0), None, False),
        (torch.bfloat16, (7, 5), None, False),
        (torch.bfloat16, (9, 0), "6.2", False),
    ],
)
def test_which_gpus_multiply_in_the_embeddings_type(
    dtype: torch.dtype, capability: tuple[int, int], hip: str | None, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    values: Any = SimpleNamespace(is_cuda=True, dtype=dtype, device=torch.device("cuda"))
    assert multiplies_narrow(values) is narrow
    assert not multiplies_narrow(torch.ones(2, 2, dtype=dtype))


def test_an_older_torch_multiplies_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    values: Any = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, device=torch.device("cuda"))
    assert multiplies_narrow(values)
    monkeypatch.setattr(products, "_mm_overloads", lambda: ["default", "out"])
    assert not multiplies_narrow(values)


@pytest.mark.parametrize("module", [gains, losses])
def test_tiles_are_larger_on_a_gpu_and_bounded(module: Any) -> None:
    assert module._TILE < module._GPU_TILE <= 1 << 24
