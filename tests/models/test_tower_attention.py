"""`SelfAttention` is `nn.MultiheadAttention`, and only quicker."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aced.models.attention import SelfAttention, quicken_attention


def _pair(**options: object) -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(32, 4, **{"batch_first": True, **options})
    nn.init.normal_(plain.in_proj_bias)
    ours = nn.Sequential(copy.deepcopy(plain))
    quicken_attention(ours)
    return plain, ours[0]


def _causal(length: int) -> torch.Tensor:
    return torch.full((length, length), float("-inf")).triu(1)


@pytest.mark.parametrize("mask", [None, _causal(9)], ids=["all", "causal"])
@pytest.mark.parametrize("train", [True, False])
def test_results_and_gradients_are_torchs(mask: torch.Tensor | None, train: bool) -> None:
    plain, ours = _pair()
    assert type(ours) is SelfAttention
    found = []
    for module in (plain, ours):
        x = torch.randn(5, 9, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = module.train(train)(x, x, x, need_weights=False, attn_mask=mask)[0]
        with torch.no_grad():
            assert torch.allclose(module(x, x, x, need_weights=False, attn_mask=mask)[0], y, atol=1e-6)
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, *module.parameters()])))
    for theirs, mine in zip(*found, strict=True):
        assert torch.allclose(theirs, mine, rtol=1e-5, atol=1e-5)


def test_bf16_autocast() -> None:
    plain, ours = _pair()
    x = torch.randn(3, 9, 32)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, mine = (m(x, x, x, need_weights=False, attn_mask=_causal(9))[0] for m in (plain, ours))
    assert theirs.dtype == mine.dtype
    assert (theirs - mine).abs().max() < 0.02


def test_everything_else_is_left_to_torch() -> None:
    plain, ours = _pair()
    x, y = torch.randn(3, 9, 32), torch.randn(3, 5, 32)
    assert torch.equal(plain(x, y, y)[1], ours(x, y, y)[1])
    boolean = _causal(9).isinf()
    options = {"need_weights": False, "attn_mask": boolean}
    assert torch.equal(plain(x, x, x, **options)[0], ours(x, x, x, **options)[0])
    padding = torch.zeros(3, 9, dtype=torch.bool)
    padding[:, 6:] = True
    assert torch.equal(*(m(x, x, x, key_padding_mask=padding, need_weights=False)[0] for m in (plain, ours)))


@pytest.mark.parametrize("options", [{"batch_first": False}, {"dropout": 0.1}, {"kdim": 16}, {"add_bias_kv": True}])
def test_other_kinds_stay_as_they_are(options: dict[str, object]) -> None:
    model = nn.Sequential(nn.MultiheadAttention(32, 4, **{"batch_first": True, **options}))
    quicken_attention(model)
    assert type(model[0]) is nn.MultiheadAttention
    assert list(model.state_dict()) == [f"0.{name}" for name in model[0].state_dict()]
