"""Captions and questions on built-in scenes, balanced so that guessing without the image is near chance.

Every kind of question has a closed list of answers, and a set has equally many of each answer. Words of a question that
reveal something about the image are drawn so that they hint at the answer as little as possible.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from aced.lab.lit.texts import TextExamples
from aced.lab.scenes import render, world
from aced.lab.scenes import scene_captions as captions
from aced.lab.scenes.scene_pool import Scenes
from aced.lab.scenes.world import COLOUR, COUNT, FIRST, GROUND, POSITION, SECOND, SHAPE, SIZE, TEXTURE

VERSION = 1
"""Increased whenever the same seed would give another question."""

TWO_SHARE = 0.4
"""Share of scenes with two objects: more than in the pools, because counting and placing need them."""
REFERENCES = 5
"""Captions of a test image: the first represents a person, the others are the references."""

_COLOURS, _GROUNDS, _SIZES = tuple(world.COLOURS), tuple(world.BACKGROUNDS), tuple(world.SIZES)


_T = TypeVar("_T")


@dataclass(frozen=True)
class SceneQuestion:
    """A question about one scene: its sort, its words, and the answer."""

    type: str
    question: str
    answer: str


Ask = Callable[[Sequence[int], random.Random], tuple[str, str] | None]
"""A row of `Plan.attributes` to a question and its answer, or None where the question does not fit the scene."""


def _pick(draw: random.Random, options: Sequence[_T]) -> _T:
    """One of the options; written out because `Random.choice` may change between Python versions."""
    return options[int(draw.random() * len(options))]


def _of_one(column: int, names: Sequence[str], *forms: str) -> Ask:
    """A question about the only object (or the background)."""

    def ask(row: Sequence[int], draw: random.Random) -> tuple[str, str] | None:
        if row[COUNT] != 1:
            return None
        return _pick(draw, forms), names[row[column]]

    return ask


def _count(row: Sequence[int], draw: random.Random) -> tuple[str, str] | None:
    form = _pick(draw, ("how many objects are there?", "how many shapes are in the picture?"))
    return form, "one" if row[COUNT] == 1 else "two"


def _place(row: Sequence[int], draw: random.Random) -> tuple[str, str] | None:
    """Where one of two objects is, named by its colour and shape."""
    if row[COUNT] != 2:
        return None
    block = _pick(draw, (FIRST, SECOND))
    thing = f"{_COLOURS[row[block + COLOUR]]} {world.SHAPES[row[block + SHAPE]]}"
    form = _pick(draw, (f"where is the {thing}?", f"on which side is the {thing}?"))
    return form, world.POSITIONS[row[block + POSITION]]


def _colour_of(row: Sequence[int], draw: random.Random) -> tuple[str, str] | None:
    """The colour of one of two objects, named by its shape."""
    if row[COUNT] != 2:
        return None
    block = _pick(draw, (FIRST, SECOND))
    return f"what colour is the {world.SHAPES[row[block + SHAPE]]}?", _COLOURS[row[block + COLOUR]]


def _shape_at(row: Sequence[int], draw: random.Random) -> tuple[str, str] | None:
    """The shape of one of two objects, named by its place."""
    if row[COUNT] != 2:
        return None
    block = _pick(draw, (FIRST, SECOND))
    where = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
    return f"what shape is {where[world.POSITIONS[row[block + POSITION]]]}?", world.SHAPES[row[block + SHAPE]]


_CLAIMS: tuple[tuple[int, tuple[str, ...], str], ...] = (
    (FIRST + COLOUR, _COLOURS, "is the object {word}?"),
    (FIRST + SHAPE, world.SHAPES, "is there a {word}?"),
    (FIRST + SIZE, _SIZES, "is the object {word}?"),
    (FIRST + TEXTURE, world.TEXTURES, "is the object {word}?"),
    (GROUND, _GROUNDS, "is the background {word}?"),
    (FIRST + POSITION, world.POSITIONS, "is the object at the {word}?"),
)


def _claim(row: Sequence[int], draw: random.Random) -> tuple[str, str] | None:
    """Whether the only object has an attribute; the words asked for are as frequent with "yes" as with "no"."""
    if row[COUNT] != 1:
        return None
    column, names, form = _pick(draw, _CLAIMS)
    true = row[column]
    if draw.random() < 0.5:
        return form.format(word=names[true]), "yes"
    other = (true + 1 + int(draw.random() * (len(names) - 1))) % len(names)
    return form.format(word=names[other]), "no"


SORTS: dict[str, tuple[Ask, tuple[str, ...]]] = {
    "attribute: colour": (
        _of_one(FIRST + COLOUR, _COLOURS, "what colour is the object?", "which colour does the shape have?"),
        _COLOURS,
    ),
    "attribute: shape": (
        _of_one(FIRST + SHAPE, world.SHAPES, "what shape is the object?", "which shape is this?"),
        world.SHAPES,
    ),
    "attribute: size": (_of_one(FIRST + SIZE, _SIZES, "what size is the object?", "how large is the shape?"), _SIZES),
    "attribute: pattern": (
        _of_one(FIRST + TEXTURE, world.TEXTURES, "what pattern is on the object?", "which pattern has the shape?"),
        world.TEXTURES,
    ),
    "attribute: background": (
        _of_one(GROUND, _GROUNDS, "what colour is the background?", "which colour is behind the object?"),
        _GROUNDS,
    ),
    "attribute: colour of one of two": (_colour_of, _COLOURS),
    "attribute: shape of one of two": (_shape_at, world.SHAPES),
    "count": (_count, ("one", "two")),
    "position": (
        _of_one(FIRST + POSITION, world.POSITIONS, "where is the object?", "in which part is the shape?"),
        world.POSITIONS,
    ),
    "position of one of two": (_place, ("left", "right", "top", "bottom")),
    "yes/no": (_claim, ("yes", "no")),
}
"""Kinds of questions: how to ask one, and its possible answers."""


def chance(types: Sequence[str]) -> float:
    """Accuracy of guessing evenly among the possible answers of each question."""
    return sum(1 / len(SORTS[name][1]) for name in types) / len(types)


def ask(attributes: Sequence[Sequence[int]], per_scene: int, draw: random.Random) -> list[list[SceneQuestion]]:
    """At most `per_scene` questions on each scene, of different kinds, every answer of a kind equally often.

    The answer used least so far is preferred, and the surplus at the end is dropped, so the answers of a kind are
    equally frequent.
    """
    asked: list[list[SceneQuestion]] = []
    given: dict[str, Counter[str]] = {name: Counter(dict.fromkeys(SORTS[name][1], 0)) for name in SORTS}
    for row in attributes:
        offers = []
        for name, (form, answers) in SORTS.items():
            made = form(row, draw)
            if made is not None:
                # Times the number of answers, so that a kind with few of them is asked as often as one with many.
                offers.append((given[name][made[1]] * len(answers), draw.random(), SceneQuestion(name, *made)))
        chosen = [offer for _, _, offer in sorted(offers, key=lambda one: one[:2])[:per_scene]]
        for one in chosen:
            given[one.type][one.answer] += 1
        asked.append(chosen)
    return _levelled(asked, given)


def _levelled(asked: list[list[SceneQuestion]], given: dict[str, Counter[str]]) -> list[list[SceneQuestion]]:
    """Leave out the last questions whose answers occur too often."""
    most = {name: min(counts.values()) for name, counts in given.items()}
    seen: Counter[tuple[str, str]] = Counter()
    kept: list[list[SceneQuestion]] = []
    for scene in asked:
        mine = []
        for one in scene:
            seen[one.type, one.answer] += 1
            if seen[one.type, one.answer] <= most[one.type]:
                mine.append(one)
        kept.append(mine)
    return kept


def plan_scenes(n: int, split: str, seed: int) -> world.ScenePlan:
    """n scenes of a split, `TWO_SHARE` of them with two objects, mixed."""
    two = round(TWO_SHARE * n)
    draw = world.generator("lit", VERSION, split, seed, "plan")
    single = world.sample(n - two, draw, single=True)
    # Too many are drawn, because most scenes have one object: ten standard deviations more than needed.
    many = world.sample(int((two + 10 * two**0.5 + 20) / world.TWO_OBJECTS), draw)
    double = many[torch.nonzero(many.attributes[:, COUNT] == 2).flatten()[:two]]
    parts = [(getattr(single, name), getattr(double, name)) for name in ("attributes", "jitter", "light", "tape")]
    order = torch.randperm(n, generator=draw)
    return world.ScenePlan(*(torch.cat(pair)[order] for pair in parts))


def make_scenes_examples(
    n: int, split: str, seed: int, progress: Callable[[int, int], None] | None = None, per_scene: int = 3
) -> list[TextExamples]:
    """Captions and questions on n scenes of a split; scenes of different splits or seeds are disjoint.

    Args:
        n: number of scenes.
        split: `train` gives one caption for each scene; any other `REFERENCES` captions.
        seed: another seed gives other scenes.
        progress: called with (scenes rendered, n).
        per_scene: maximum number of questions on a scene.

    Returns:
        "scenes captions" and "scenes questions", on one source.
    """
    plan = plan_scenes(n, split, seed)
    rows = plan.attributes.tolist()
    draw = random.Random(world.named_seed("lit", VERSION, split, seed, "texts"))
    count = 1 if split == "train" else REFERENCES
    told = [tuple(captions.describe(row, draw) for _ in range(count)) for row in rows]
    asked = ask(rows, per_scene, draw)
    name = f"scenes-lit-{split}-{seed}"
    identity = f"{world.VERSION}/{VERSION}/{name}/{n}"
    source = Scenes(
        name=name,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
        pixels=render.render(plan, progress=progress),
        captions=[texts[0] for texts in told],
        kinds=None,
        keys=[f"{name}-{n}/{i:06d}" for i in range(n)],
        params=plan.attributes,
    )
    flat = [(i, one) for i, scene in enumerate(asked) for one in scene]
    types = [one.type for _, one in flat]
    questions = TextExamples(
        name="scenes questions",
        kind="vqa",
        source=source,
        rows=[i for i, _ in flat],
        texts=[(one.answer,) for _, one in flat],
        questions=[one.question for _, one in flat],
        types=types,
        chance=chance(types),
    )
    return [TextExamples("scenes captions", "caption", source, list(range(n)), told), questions]
