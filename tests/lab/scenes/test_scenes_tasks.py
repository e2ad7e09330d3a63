"""Tasks on scenes: right labels, right chance, and no picture in common with anything that is trained on."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from aced.evaluate.tasks import Classification, Retrieval, Task
from aced.lab.scenes import IMAGE_SIZE, make_curated, make_pool, make_tasks, vocabulary, world
from aced.lab.scenes.render import render
from aced.pool.views import View

VIEW = View(IMAGE_SIZE)


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {task.name: task for task in make_tasks("test")}


def classification(tasks: dict[str, Task], name: str) -> Classification:
    task = tasks[name]
    assert isinstance(task, Classification)
    return task


def bytes_of(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_there_are_at_least_ten_with_names_of_their_own() -> None:
    listed = make_tasks("test", n=20, retrieval_n=10)
    assert len({task.name for task in listed}) == len(listed) >= 10
    assert [task.name for task in make_tasks("validation", n=20, retrieval_n=10)] == [t.name for t in listed]


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("shape", 8),
        ("colour", 10),
        ("size", 3),
        ("texture", 4),
        ("position", 5),
        ("background", 6),
        ("colour and shape", 72),
        ("shape on grey", 8),
        ("shape on sketches", 8),
        ("colour and shape on noisy", 72),
        ("unseen combinations", 80),
    ],
)
def test_classification(tasks: dict[str, Task], name: str, classes: int) -> None:
    task = classification(tasks, name)
    assert len(task.classes) == len(set(task.classes)) == classes
    assert task.chance == pytest.approx(1 / classes)
    assert task.images(VIEW).shape == (600, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert task.labels.shape == (600,)
    assert task.labels.dtype == torch.int64
    shown = task.labels.unique()
    # Every class is shown, but of the 80 of the last task only the eight that are held out.
    assert len(shown) == (8 if name == "unseen combinations" else classes)
    assert all("{c}" in template for template in task.templates)


@pytest.mark.parametrize("name", ["image to text", "text to image"])
def test_retrieval(tasks: dict[str, Task], name: str) -> None:
    task = tasks[name]
    assert isinstance(task, Retrieval)
    assert task.direction == name.replace(" ", "_")
    assert task.chance == pytest.approx(1 / 300)
    assert task.images(VIEW).shape[0] == len(task.captions) == 300
    texts = [caption for captions in task.captions for caption in captions]
    assert len(set(texts)) == len(texts) == 300


def test_tasks_on_the_same_pictures_share_them(tasks: dict[str, Task]) -> None:
    photos = tasks["shape"].images
    for name in ("colour", "size", "texture", "position", "background", "colour and shape"):
        assert tasks[name].images is photos
    assert tasks["image to text"].images is tasks["text to image"].images
    assert len({id(task.images) for task in tasks.values()}) == 6
    assert photos(VIEW) is photos(VIEW)
    assert photos(View(16)) is photos(View(16))
    assert photos(View(16)).shape == (600, 3, 16, 16)


def test_every_word_is_in_the_vocabulary(tasks: dict[str, Task]) -> None:
    texts: list[str] = []
    for task in tasks.values():
        if isinstance(task, Classification):
            texts += [template.replace("{c}", name) for template in task.templates for name in task.classes]
        else:
            texts += [caption for captions in task.captions for caption in captions]
    assert {word for text in texts for word in re.findall(r"[a-z0-9]+", text)} <= set(vocabulary())
    assert "a picture of an orange ring" in texts


def test_splits_and_pools_share_no_picture(tasks: dict[str, Task]) -> None:
    validation = {task.name: task for task in make_tasks("validation")}
    trained = bytes_of(make_pool(2000, seed=0).pixels) | bytes_of(make_curated(2000, seed=0).pixels)
    for name, task in tasks.items():
        test = bytes_of(task.images(VIEW))
        assert not test & trained
        assert not test & bytes_of(validation[name].images(VIEW))


def test_same_seed_same_tasks(tasks: dict[str, Task]) -> None:
    again = {task.name: task for task in make_tasks("test")}
    other = {task.name: task for task in make_tasks("test", seed=1)}
    for name, task in tasks.items():
        assert torch.equal(again[name].images(VIEW), task.images(VIEW))
        assert not torch.equal(other[name].images(VIEW), task.images(VIEW))
        if isinstance(task, Classification):
            assert torch.equal(classification(again, name).labels, task.labels)


def object_mask(pixels: Tensor) -> Tensor:
    """`[n, h, w]`: the bright pixels; no background has a channel as bright."""
    return pixels.amax(1) > 140


@pytest.mark.parametrize("name", ["colour", "colour and shape", "unseen combinations"])
def test_colour_labels_match_the_pictures(tasks: dict[str, Task], name: str) -> None:
    task = classification(tasks, name)
    pixels = task.images(VIEW)
    mask = object_mask(pixels)[:, None].float()
    mean = (pixels * mask).sum((2, 3)) / mask.sum((2, 3))
    palette = torch.tensor(list(world.COLOURS.values()), dtype=torch.float32)
    seen = torch.cdist(mean, palette).argmin(1)
    named = [next(c for c in world.COLOURS if c in task.classes[label]) for label in task.labels.tolist()]
    right = [list(world.COLOURS)[i] == colour for i, colour in zip(seen.tolist(), named, strict=True)]
    assert sum(right) > 0.97 * len(right)


def test_background_labels_match_the_pictures(tasks: dict[str, Task]) -> None:
    task = classification(tasks, "background")
    border = task.images(VIEW).float()[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].median(2).values
    palette = torch.tensor(list(world.BACKGROUNDS.values()), dtype=torch.float32)
    assert (torch.cdist(border, palette).argmin(1) == task.labels).float().mean() > 0.97


def test_position_labels_match_the_pictures(tasks: dict[str, Task]) -> None:
    task = classification(tasks, "position")
    mask = object_mask(task.images(VIEW)).float()
    line = torch.arange(IMAGE_SIZE) - (IMAGE_SIZE - 1) / 2
    x, y = ((mask * axis).sum((1, 2)) / mask.sum((1, 2)) for axis in (line, line[:, None]))
    # The crescent's middle lies left of its circle's, by up to three pixels: hence the generous "centre".
    seen = torch.stack([-x, x, -y, y, torch.full_like(x, 3.0)], 1).argmax(1)
    assert (seen == task.labels).float().mean() > 0.93


def silhouettes(pixels: Tensor) -> Tensor:
    """`[n, 3, h, w]` sketches to `[n, 256]`: what the outlines' bounding boxes show, each at 16 x 16."""
    lit = (pixels.amax(1) > 100).float()
    out = []
    for image in lit:
        rows, columns = (image.amax(axis).nonzero().squeeze(1) for axis in (1, 0))
        box = image[None, None, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        out.append(torch.nn.functional.interpolate(box, (16, 16), mode="bilinear").flatten())
    return torch.stack(out)


def test_shape_labels_match_the_sketches(tasks: dict[str, Task]) -> None:
    """The nearest mean outline, taken from other scenes whose shape is known, is that of the label."""
    task = classification(tasks, "shape on sketches")
    assert torch.equal(task.labels, classification(tasks, "shape").labels)
    known = world.sample(400, world.generator("outlines"), single=True)
    outlines, shapes = silhouettes(render(known, "sketch")), known.attributes[:, world.FIRST + world.SHAPE]
    means = torch.stack([outlines[shapes == i].mean(0) for i in range(len(task.classes))])
    seen = torch.cdist(silhouettes(task.images(VIEW)), means).argmin(1)
    assert (seen == task.labels).float().mean() > 0.85
