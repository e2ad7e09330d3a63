"""The demo family's vision tower."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aced.errors import AcedError
from aced.lab.family.stem_vit import SIZES, StemBlock, StemViT


def _small(**options: int) -> StemViT:
    torch.manual_seed(0)
    return StemViT(width=32, layers=2, heads=2, **options)


def test_the_stem_is_two_convolutions() -> None:
    model, x = _small(), torch.randn(2, 3, 24, 40)
    first = model.stem1.weight.view(48, 3, 4, 4)
    # Channels come patch by patch: upper left, upper right, lower left, lower right.
    second = model.stem2.weight.view(32, 2, 2, 48).permute(0, 3, 1, 2)
    y = F.conv2d(F.relu(F.conv2d(x, first, model.stem1.bias, stride=4)), second, model.stem2.bias, stride=2)
    patches, grid = model._patches(x)
    mine = model.stem2(F.relu(model.stem1(patches)).flatten(2))
    assert grid == (3, 5)
    assert (mine - y.flatten(2).transpose(1, 2)).abs().max() < 1e-5


def test_attention_is_the_textbook_one() -> None:
    torch.manual_seed(0)
    block, x = StemBlock(32, 4, 2.0), torch.randn(3, 7, 32)
    q, k, v = block.qkv(block.norm1(x)).view(3, 7, 3, 4, 8).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, dim=-1)
    y = x + block.proj((weights @ v).transpose(1, 2).reshape(3, 7, 32))
    y = y + block.fc2(F.relu(block.fc1(block.norm2(y))))
    assert (block(x) - y).abs().max() < 1e-5


@pytest.mark.parametrize("size", [8, 16, 32, 40, 64])
def test_other_sizes_get_their_positions_interpolated(size: int) -> None:
    model = _small()
    assert model(torch.randn(2, 3, size, size)).shape == (2, 32)
    positions = model.positions((size // 8, size // 8))
    assert positions.shape == (1, (size // 8) ** 2, 32)
    if size == 32:
        assert positions is model.pos_embed


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(AcedError, match=r"30x32.* 8"):
        _small()(torch.zeros(1, 3, 30, 32))


def test_pooling_and_head_as_timm_asks_for_them() -> None:
    model, x = _small(), torch.randn(2, 3, 32, 32)
    tokens = model.forward_features(x)
    assert tokens.shape == (2, 16, 32)
    assert torch.equal(model(x), tokens.mean(1))
    model.reset_classifier(0, global_pool="")
    assert torch.equal(model(x), tokens)
    model.reset_classifier(5, global_pool="avg")
    assert model(x).shape == (2, 5)
    assert model.get_classifier().out_features == 5
    with pytest.raises(AcedError, match="'map'"):
        model.reset_classifier(0, global_pool="map")


def test_checkpointing_changes_no_gradient() -> None:
    model, x = _small(), torch.randn(2, 3, 32, 32)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_tokens_start_at_a_scale_that_trains() -> None:
    model = _small()
    tokens = model.stem2(F.relu(model.stem1(model._patches(torch.randn(8, 3, 32, 32))[0])).flatten(2))
    assert 0.5 < tokens.std().item() < 2.0


def test_timm_builds_every_size_and_has_no_pretrained_weights() -> None:
    from aced.models import import_open_clip

    import_open_clip()
    import timm

    for name, size in SIZES.items():
        assert timm.create_model(name).num_features == size["width"]
    with pytest.raises(AcedError, match="weights"):
        timm.create_model("aced_stem_vit_s", pretrained=True)
