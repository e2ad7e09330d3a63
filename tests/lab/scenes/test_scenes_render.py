"""Rendering: the same picture however the batch is cut, and attributes that can be seen in it."""

from __future__ import annotations

import pytest
import torch

from aced.lab.scenes import shifts, world
from aced.lab.scenes.render import render
from aced.lab.scenes.world import BLOCK, COLOUR, COUNT, FIRST, GROUND, POSITION, SHAPE, SIZE, TEXTURE


@pytest.fixture(scope="module")
def plan() -> world.ScenePlan:
    return world.sample(330, world.generator("test of rendering"))


@pytest.mark.parametrize("style", ["paint", "sketch"])
def test_chunks_do_not_change_pictures(plan: world.ScenePlan, style: str) -> None:
    whole = render(plan, style, chunk=len(plan))  # type: ignore[arg-type]
    for chunk in (7, 64, 256):
        assert torch.equal(render(plan, style, chunk=chunk), whole)  # type: ignore[arg-type]


def test_a_scene_alone_is_the_scene_in_a_batch(plan: world.ScenePlan) -> None:
    whole = render(plan)
    for rows in ([320, 3, 128, 3], [0], [329]):
        assert torch.equal(render(plan[torch.tensor(rows)]), whole[rows])


VALUES = {
    GROUND: len(world.BACKGROUNDS),
    FIRST + SHAPE: len(world.SHAPES),
    FIRST + COLOUR: len(world.COLOURS),
    FIRST + SIZE: len(world.SIZES),
    FIRST + TEXTURE: len(world.TEXTURES),
    FIRST + POSITION: len(world.POSITIONS),
}


@pytest.mark.parametrize("column", VALUES)
def test_every_value_of_an_attribute_looks_different(column: int) -> None:
    """With all else equal, noise and jitter too, two values differ plainly in at least eight pixels."""
    plan = world.sample(40, world.generator("looks", column), single=True)
    pictures = []
    for value in range(VALUES[column]):
        plan.attributes[:, column] = value
        pictures.append(render(plan).float())
    for i, one in enumerate(pictures):
        for two in pictures[:i]:
            plain = ((one - two).abs().amax(1) > 25).sum((1, 2))
            assert (plain >= 8).float().mean() > 0.95


def test_large_is_larger_than_medium_than_small() -> None:
    plan = world.sample(300, world.generator("sizes"), single=True)
    plan.attributes[:, FIRST + TEXTURE] = 0
    plan.attributes[:, FIRST + POSITION] = 4
    areas = []
    for size in range(3):
        plan.attributes[:, FIRST + SIZE] = size
        areas.append((render(plan).amax(1) > 140).float().sum((1, 2)))
    assert (areas[1] > 1.4 * areas[0]).all()
    assert (areas[2] > 1.4 * areas[1]).all()


def test_two_objects_are_on_their_sides() -> None:
    plan = world.sample(2000, world.generator("sides"))
    plan = plan[plan.attributes[:, COUNT] == 2]
    plan.attributes[:, [FIRST + TEXTURE, FIRST + BLOCK + TEXTURE]] = 0
    palette = torch.tensor(list(world.COLOURS.values()), dtype=torch.float32)
    pixels = render(plan).float()
    for block in (FIRST, FIRST + BLOCK):
        colour = palette[plan.attributes[:, block + COLOUR]]
        near = ((pixels - colour[:, :, None, None]).abs().amax(1) < 40).float()
        line = torch.arange(32) - 15.5
        x, y = ((near * axis).sum((1, 2)) / near.sum((1, 2)) for axis in (line, line[:, None]))
        side = torch.stack([-x, x, -y, y], 1).argmax(1)
        assert (side == plan.attributes[:, block + POSITION]).float().mean() > 0.98


def test_redraw_moves_little_and_keeps_the_attributes(plan: world.ScenePlan) -> None:
    again = world.redraw(plan, world.generator("again"), 0.3)
    assert torch.equal(again.attributes, plan.attributes)
    assert (again.jitter - plan.jitter).abs().max() <= 0.3
    assert again.jitter.abs().max() <= 1
    assert (again.tape != plan.tape).all()


def test_grey_has_no_colour_and_keeps_luminance(plan: world.ScenePlan) -> None:
    pixels = render(plan[:50])
    grey = shifts.grey(pixels)
    assert grey.dtype == torch.uint8
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert (grey[:, 0].float() - pixels.float().mean(1)).abs().mean() < 30


def test_noise_has_the_level_asked_for() -> None:
    flat = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    spread = shifts.add_noise(flat, 20.0, world.generator("level")).float().std()
    assert 19 < spread < 21


def test_spoiling_touches_every_picture(plan: world.ScenePlan) -> None:
    pixels = render(plan)
    spoilt = shifts.spoil(pixels, world.generator("spoil"))
    assert torch.equal(spoilt, shifts.spoil(pixels, world.generator("spoil")))
    assert (spoilt != pixels).flatten(1).any(1).all()


def test_streams_of_other_names_are_others() -> None:
    names = [("pool", 1), ("pool", 2), ("test", 1), ("validation", 1), ("pool", 1, "plan")]
    assert len({world.named_seed(*name) for name in names}) == len(names)
