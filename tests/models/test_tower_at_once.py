"""Images that go through a tower at once on a CPU: no activation outgrows what the allocator recycles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aced.models import Tower, load_tower
from aced.models.at_once import BLOCK, images_at_once, largest_activation
from aced.models.modes import evaluating


class Convolutions(nn.Module):
    """Its largest activation is 12 channels of half the side, each a float: 3 * side^2 * 4 bytes an image."""

    def __init__(self, double: bool = False) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 12, 2, stride=2)
        self.narrow = nn.Conv2d(12, 2, 2, stride=2)
        self.head = nn.Linear(2, 5000)  # weights larger than any activation: they do not grow with the batch
        if double:
            self.double()

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.to(self.wide.weight.dtype)
        return self.head(self.narrow(self.wide(pixels)).mean(dim=(2, 3)))


@pytest.mark.parametrize("side", [16, 32])
@pytest.mark.parametrize("double", [False, True])
def test_the_largest_activation_is_the_widest_layer_s(side: int, double: bool) -> None:
    model = Convolutions(double)
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    expected = max(3 * side * side, 5000) * (8 if double else 4)
    with torch.no_grad():
        assert largest_activation(model, image) == expected
        assert images_at_once(model, model, image) == BLOCK // expected


def seen(tower: Tower, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images that reach the model."""
    sizes: list[int] = []
    real: Any = tower.model.encode_image

    def encode(pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        return real(pixels)

    monkeypatch.setattr(tower.model, "encode_image", encode)
    return sizes


@pytest.mark.parametrize("name", ["aced-demo-s", "aced-demo-m"])
def test_small_towers_take_a_whole_micro_batch_as_ever(name: str) -> None:
    """1,024 is the default of train.micro_batch; another split could change the last bits of a run."""
    tower = load_tower(name, seed=0)
    image = torch.zeros(1, 3, tower.view.size, tower.view.size, dtype=torch.uint8)
    with evaluating(tower), torch.no_grad():
        limit = images_at_once(tower.model, tower.embed_whole, image)
    assert limit is not None
    assert limit >= 1024


def test_parts_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = load_tower("aced-demo-s", seed=0)
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = tower.score_images(images, 64)
    monkeypatch.setitem(tower._at_once, 32, 16)
    sizes = seen(tower, monkeypatch)
    parts = tower.score_images(images, 64)
    assert sizes == [16, 16, 16, 2]
    assert torch.allclose(parts, whole, atol=1e-6)


def test_what_is_trained_is_never_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient caching embeds in training mode without gradient, and must draw what the second pass draws."""
    tower = load_tower("aced-demo-s", seed=0)
    monkeypatch.setitem(tower._at_once, 32, 4)
    sizes = seen(tower, monkeypatch)
    images = torch.zeros(9, 3, 32, 32, dtype=torch.uint8)
    with torch.no_grad():
        tower.train().embed_image(images)
        tower.eval().embed_image(images)
    tower.embed_image(images)
    assert sizes == [9, 4, 4, 1, 9]


def test_compiled_models_and_other_devices_have_no_limit() -> None:
    model = Convolutions()
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    model.narrow.compile(backend="eager")
    assert images_at_once(model, model, image) is None
    assert images_at_once(Convolutions().to("meta"), model, image) is None


def test_measuring_is_no_part_of_what_is_counted() -> None:
    """The FLOPs of a step are counted around the same method, on images of any size."""
    one, other = (load_tower("aced-demo-s", seed=0) for _ in range(2))
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    counts = []
    with torch.no_grad():
        other.eval().embed_image(images)  # measured before it is counted
        for tower in (one.eval(), other):
            with FlopCounterMode(display=False) as counter:
                tower.embed_image(images)
            counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    assert one.flops(16) == load_tower("aced-demo-s", seed=0).flops(16) == other.flops(16)


def test_the_limit_goes_by_the_size_of_the_images() -> None:
    tower = load_tower("aced-demo-s", seed=0).eval()
    with torch.no_grad():
        for side in (16, 32):
            tower.model.encode_image = lambda pixels: pixels.flatten(1)[:, :8] * 1.0  # type: ignore[method-assign]
            tower.embed_image(torch.zeros(2, 3, side, side, dtype=torch.uint8))
    small, large = tower._at_once[16], tower._at_once[32]
    assert small is not None
    assert large is not None
    assert small == pytest.approx(4 * large, rel=0.01)
