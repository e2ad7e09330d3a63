"""Ways to decode: how near the quick ones come to Pillow's pixels, and that none is taken for another."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_fakes import pairs, picture
from PIL import Image

from aced.errors import AcedError
from aced.pool.decoding import DECODINGS, EXACT
from aced.pool.images import decode_image
from aced.pool.resizing import by_pillow, by_torch
from aced.pool.shards import open_shards
from aced.pool.views import View


def photo(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth picture with as much noise as a camera has."""
    seeds = draw.integers(0, 256, (max(1, height // 16), max(1, width // 16), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(seeds).resize((width, height), Image.Resampling.BICUBIC))
    return (smooth + draw.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)


def levels(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(np.int16) - other)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_shrinking_by_torch_differs_from_pillow_in_few_values_by_a_level(interpolation: Any) -> None:
    draw = np.random.default_rng(0)
    apart, far, count = 0, 0, 0
    for number in range(60):
        height, width = draw.integers(1, 700, 2).tolist()
        image = photo(draw, height, width) if number % 3 else draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        size = (int(draw.integers(1, width + 1)), int(draw.integers(1, height + 1)))
        found = levels(by_torch(image, size, interpolation), by_pillow(image, size, interpolation))
        assert found.max() <= 2, (image.shape, size)
        assert (found > 0).mean() < 0.02 or found.size < 1000, (image.shape, size)
        apart, far, count = apart + int((found > 0).sum()), far + int((found > 1).sum()), count + found.size
    assert apart < 0.005 * count
    assert far < 1e-5 * count


@pytest.mark.parametrize("value", [0, 255])
def test_a_flat_picture_stays_flat(value: int) -> None:
    assert (by_torch(np.full((300, 401, 3), value, np.uint8), (32, 45), "bicubic") == value).all()


@pytest.mark.parametrize(
    ("size", "interpolation"),
    [((50, 20), "bicubic"), ((20, 41), "bilinear"), ((80, 80), "bicubic"), ((9, 9), "nearest")],
)
def test_where_a_side_grows_and_for_nearest_it_is_pillow(size: tuple[int, int], interpolation: Any) -> None:
    image = photo(np.random.default_rng(1), 40, 49)
    assert np.array_equal(by_torch(image, size, interpolation), by_pillow(image, size, interpolation))


def test_neither_memory_layout_nor_threads_matter(recwarn: pytest.WarningsRecorder) -> None:
    image = photo(np.random.default_rng(2), 300, 421)
    part = image[7:280, 11:409]
    frozen = part.copy()
    frozen.flags.writeable = False
    expected = by_torch(part.copy(), (64, 50), "bicubic")
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for same in (part, frozen, np.asfortranarray(part)):
                assert np.array_equal(by_torch(same, (64, 50), "bicubic"), expected)
    finally:
        torch.set_num_threads(threads)
    assert not recwarn.list


@pytest.mark.parametrize("view", [View(64), View(64, "squash"), View(48).cropped(3)])
def test_a_view_keeps_its_place_whoever_resizes(view: View) -> None:
    image = photo(np.random.default_rng(3), 203, 311)
    assert levels(view.apply(image), view.apply(image, by_torch)).max() <= 1


def test_shards_decode_as_they_are_told(write_tar: Any) -> None:
    size = (320, 240)
    members = [(f"{n}.jpg", picture(n, size=size)) for n in range(4)] + [(f"{n}.txt", b"words") for n in range(4)]
    path, view = str(write_tar("d/0.tar", sorted(members))), View(32)
    found = {name: open_shards([path], decoding=name).read(range(4), [view]).images[view].numpy() for name in DECODINGS}
    expected = np.stack([view.apply(decode_image(picture(n, size=size))) for n in range(4)])
    assert np.array_equal(found["exact"], expected)
    assert 0 < levels(found["fast"], expected).max() <= 1
    assert levels(found["scaled"], expected).mean() < 1.5
    assert not np.array_equal(found["scaled"], found["fast"])
    assert np.array_equal(open_shards([path]).read(range(4), [view]).images[view].numpy(), found["fast"])


def test_what_is_kept_of_one_way_is_not_that_of_another(write_tar: Any) -> None:
    path = str(write_tar("d/0.tar", pairs(3)))
    sources = [
        open_shards([path], decoding=way, caption=caption, caption_choice=choice)
        for way in DECODINGS
        for caption in ("txt", "json:caption")
        for choice in ("whole", "first")
    ]
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert len({source.parts["0.tar"] for source in sources}) == len(sources)
    # Side-cars and checkpoints from before there were other ways are of exact pixels, and stay usable.
    assert EXACT.mark == ""


def test_an_unknown_way_is_refused(write_tar: Any, tmp_path: Path) -> None:
    with pytest.raises(AcedError, match=r"'quick'.*exact, fast"):
        open_shards([str(write_tar("0.tar", pairs(1)))], decoding="quick")


def test_other_forms_of_images_are_decoded_by_every_way(write_tar: Any) -> None:
    out = io.BytesIO()
    Image.fromarray(photo(np.random.default_rng(4), 60, 80)).save(out, "PNG")
    path = str(write_tar("d/0.tar", [("0.png", out.getvalue()), ("0.txt", b"words")]))
    for name in DECODINGS:
        assert len(open_shards([path], decoding=name).read([0], [View(32)])) == 1
