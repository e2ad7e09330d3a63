"""Zero-shot tasks on scenes that no pool contains, in two splits: one for choosing settings, one to report."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from aced.evaluate.tasks import Classification, Retrieval, Task
from aced.lab.scenes import render, shifts, world
from aced.lab.scenes import scene_captions as captions
from aced.lab.scenes.scene_pool import in_view
from aced.lab.scenes.world import COLOUR, FIRST, GROUND, POSITION, SHAPE, SIZE, TEXTURE
from aced.pool.views import View

Split = Literal["test", "validation"]

_TASK_NOISE = 40.0
"""Standard deviation of the noise of the noisy task, in levels of 255: colour and shape still show."""


@dataclass(eq=False)
class ScenePictures:
    """The images of one or more tasks, rendered on first use and kept.

    Tasks with the same images hold the same object, so that these are embedded once for all.
    """

    make: Callable[[], Tensor]
    _views: dict[View, Tensor] = field(default_factory=dict, repr=False)
    _pixels: Tensor | None = field(default=None, repr=False)

    def __call__(self, view: View) -> Tensor:
        """All n pictures, `[n, 3, size, size]` uint8."""
        if view not in self._views:
            self._views[view] = in_view(self._rendered(), view)
        return self._views[view]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the pixels."""
        return hashlib.sha256(self._rendered().numpy().tobytes()).hexdigest()[:24]

    def _rendered(self) -> Tensor:
        if self._pixels is None:
            self._pixels = self.make()
        return self._pixels


def make_tasks(split: Split = "test", n: int = 600, seed: int = 0, retrieval_n: int = 300) -> list[Task]:
    """All tasks of a split; splits share no image with each other or with any pool.

    Args:
        split: `validation` for choosing settings, `test` to report.
        n: pictures for each set of classification tasks.
        seed: another seed gives other pictures of the same tasks.
        retrieval_n: pictures, and captions, of the retrieval tasks.
    """
    plan = world.sample(n, world.generator(split, seed, "plan"), single=True)
    unseen = world.sample(n, world.generator(split, seed, "unseen"), unseen=True)
    photos = ScenePictures(lambda: render.render(plan))
    noisy = ScenePictures(
        lambda: shifts.add_noise(render.render(plan), _TASK_NOISE, world.generator(split, seed, "noise"))
    )
    return [
        _classify("shape", photos, plan, "shape"),
        _classify("colour", photos, plan, "colour"),
        _classify("size", photos, plan, "size"),
        _classify("texture", photos, plan, "texture"),
        _classify("position", photos, plan, "position"),
        _classify("background", photos, plan, "background"),
        _classify_pairs("colour and shape", photos, plan, world.SEEN),
        *_retrieve(split, seed, retrieval_n),
        _classify("shape on grey", ScenePictures(lambda: shifts.grey(render.render(plan))), plan, "shape"),
        _classify("shape on sketches", ScenePictures(lambda: render.render(plan, "sketch")), plan, "shape"),
        _classify_pairs("colour and shape on noisy", noisy, plan, world.SEEN),
        _classify_pairs("unseen combinations", ScenePictures(lambda: render.render(unseen)), unseen, world.ALL_PAIRS),
    ]


_COLUMNS = {
    "shape": FIRST + SHAPE,
    "colour": FIRST + COLOUR,
    "size": FIRST + SIZE,
    "texture": FIRST + TEXTURE,
    "position": FIRST + POSITION,
    "background": GROUND,
}
_CLASSES: dict[str, tuple[str, ...]] = {
    "shape": world.SHAPES,
    "colour": tuple(world.COLOURS),
    "size": tuple(world.SIZES),
    "texture": world.TEXTURES,
    "position": tuple(captions.place_name(i) for i in range(len(world.POSITIONS))),
    "background": tuple(world.BACKGROUNDS),
}


def _classify(name: str, images: ScenePictures, plan: world.ScenePlan, attribute: str) -> Classification:
    classes = _CLASSES[attribute]
    return Classification(
        name=name,
        images=images,
        labels=plan.attributes[:, _COLUMNS[attribute]].clone(),
        classes=classes,
        templates=captions.PROMPTS[attribute],
        chance=1 / len(classes),
    )


def _classify_pairs(
    name: str, images: ScenePictures, plan: world.ScenePlan, pairs: list[tuple[int, int]]
) -> Classification:
    index = {pair: i for i, pair in enumerate(pairs)}
    shown = plan.attributes[:, [FIRST + COLOUR, FIRST + SHAPE]].tolist()
    return Classification(
        name=name,
        images=images,
        labels=torch.tensor([index[colour, shape] for colour, shape in shown]),
        classes=tuple(captions.pair_name(*pair) for pair in pairs),
        templates=captions.PROMPTS["pair"],
        chance=1 / len(pairs),
    )


def _retrieve(split: Split, seed: int, n: int) -> list[Retrieval]:
    """Both directions over one set: scenes that all differ, each with a caption that describes it completely."""
    drawn = world.sample(n + n // 4 + 8, world.generator(split, seed, "retrieval"))
    draw = random.Random(world.named_seed(split, seed, "retrieval captions"))
    chosen: dict[tuple[int, ...], int] = {}
    for i, row in enumerate(drawn.attributes.tolist()):
        chosen.setdefault(tuple(row), i)
    plan = drawn[torch.tensor(list(chosen.values())[:n])]
    texts = [[captions.describe(row, draw, must=captions.ATTRIBUTES)] for row in plan.attributes.tolist()]
    images = ScenePictures(lambda: render.render(plan))
    return [
        Retrieval("image to text", images, texts, "image_to_text", chance=1 / n),
        Retrieval("text to image", images, texts, "text_to_image", chance=1 / n),
    ]
