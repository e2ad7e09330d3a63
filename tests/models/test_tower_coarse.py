"""A tower on smaller images: the position embedding, the values, the gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tower_fakes import TEXTS, candidates, images, write_config

from aced.errors import AcedError
from aced.models import Tower, load_tower
from aced.models.coarse import PartlyCoarse, Resized, check_side, embed_image, resize_positions

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tower:
    return load_tower(write_config(tmp_path_factory.mktemp("plain") / "plain.json", CONFIG), seed=1)


@pytest.fixture(scope="module")
def stem() -> Tower:
    return load_tower("aced-demo-s", seed=1)


def test_positions_are_resized_as_open_clip_resizes_them(plain: Tower) -> None:
    from open_clip.model import resize_pos_embed

    positions = plain.model.visual.positional_embedding.detach()

    class Model:
        class visual:
            grid_size = (3, 3)

    state = {"visual.positional_embedding": positions.clone()}
    resize_pos_embed(state, Model())
    torch.testing.assert_close(resize_positions(positions, (4, 4), (3, 3)), state["visual.positional_embedding"])


def test_positions_keep_their_class_token_and_their_corners() -> None:
    rows = torch.arange(16.0).reshape(4, 4)
    positions = torch.cat([torch.full((1, 1), 99.0), rows.reshape(16, 1)])
    small = resize_positions(positions, (4, 4), (2, 2))
    assert small[0].item() == 99
    square = small[1:].reshape(2, 2)
    assert (square[:, 1] > square[:, 0]).all()
    assert (square[1] > square[0]).all()
    assert square.mean().item() == pytest.approx(rows.mean().item(), abs=1e-4)


@pytest.mark.parametrize("name", ["plain", "stem"])
def test_at_its_own_size_nothing_changes(name: str, request: pytest.FixtureRequest) -> None:
    tower: Tower = request.getfixturevalue(name)
    batch = images(3, tower.view.size)
    torch.testing.assert_close(embed_image(tower, batch, tower.view.size), tower.embed_image(batch))


def test_smaller_images_are_the_mean_of_their_pixels(stem: Tower) -> None:
    """A flat picture of blocks looks the same at half the side, but for the position embedding."""
    small = images(3, 16)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    visual = stem.model.visual
    expected = F.normalize(stem.model.encode_image(stem.pixels(small)), dim=-1)
    torch.testing.assert_close(embed_image(stem, large, 16), expected)
    assert visual.trunk.positions((2, 2)).shape == (1, 4, 64)


@pytest.mark.parametrize("name", ["plain", "stem"])
def test_scoring_smaller_equals_one_batch_and_keeps_the_mode(name: str, request: pytest.FixtureRequest) -> None:
    tower: Tower = request.getfixturevalue(name)
    tower.train()
    batch = candidates([tower])
    side = tower.view.size // 2
    small, full = Resized(tower, side).score(batch, 2), tower.score(batch, 5)
    assert tower.training
    assert not small.image.requires_grad
    torch.testing.assert_close(small.image, embed_image(tower, batch.images[tower.view], side).detach())
    torch.testing.assert_close(small.text, full.text, rtol=1e-4, atol=1e-5)
    assert (small.image - full.image).abs().max() > 1e-3
    assert len(Resized(tower, side).score(batch[torch.arange(0)], 2)) == 0


@pytest.mark.parametrize(("batch", "share", "rows"), [(4, 0.5, [1, 3]), (5, 1.0, [0, 1, 2, 3, 4]), (10, 0.2, [4, 9])])
def test_the_coarse_rows_are_evenly_spread(batch: int, share: float, rows: list[int]) -> None:
    assert PartlyCoarse(16, share).rows(batch).nonzero().flatten().tolist() == rows


def test_training_partly_coarse_sees_each_row_as_it_should(plain: Tower) -> None:
    plain.partly = PartlyCoarse(32, 0.5)
    batch = candidates([plain], (*TEXTS, "a dog"))
    pixels = batch.images[plain.view]
    batch = replace(batch, coarse=plain.partly.rows(6))
    try:
        plain.train()
        mixed = plain.embed(batch).image
        plain.eval()
        full = plain.embed(batch).image
    finally:
        plain.partly = None
    small = embed_image(plain, pixels, 32)
    coarse = torch.arange(6) % 2 == 1
    torch.testing.assert_close(mixed[coarse], small[coarse])
    torch.testing.assert_close(mixed[~coarse], full[~coarse])
    torch.testing.assert_close(full, plain.embed_image(pixels))


def test_gradients_reach_the_position_embedding_through_the_resize(plain: Tower) -> None:
    positions = plain.model.visual.positional_embedding
    weight = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    batch = images(3, 64)

    def loss() -> torch.Tensor:
        return (embed_image(plain, batch, 32) * weight).sum()

    plain.zero_grad()
    loss().backward()
    assert positions.grad is not None
    direction = torch.randn(positions.shape, generator=torch.Generator().manual_seed(1))
    slope = float((positions.grad * direction).sum())
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            positions.add_(direction, alpha=sign * 1e-3)
            values.append(float(loss()))
            positions.sub_(direction, alpha=sign * 1e-3)
    assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=0.02)


def test_towers_that_cannot_are_told(stem: Tower, plain: Tower, tmp_path: Path) -> None:
    for tower, side in ((stem, 12), (stem, 40), (plain, 24)):
        with pytest.raises(AcedError, match=rf"scoring\.resolution .*{side}.*patch"):
            check_side(tower, side)
    check_side(stem, 16)
    config = CONFIG | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}}
    resnet = load_tower(write_config(tmp_path / "resnet.json", config), seed=1)
    with pytest.raises(AcedError, match="ModifiedResNet"):
        check_side(resnet, 16)
