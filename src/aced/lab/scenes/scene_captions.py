"""Scenes to words: true captions in many forms, and captions without information.

Every word that a caption or a prompt can contain comes from a table of this module, so that `vocabulary` is
complete by construction.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence

from aced.lab.scenes import world
from aced.lab.scenes.world import BLOCK, COLOUR, COUNT, FIRST, GROUND, POSITION, SECOND, SHAPE, SIZE, TEXTURE

_COLOURS = tuple(world.COLOURS)
_GROUNDS = tuple(world.BACKGROUNDS)
_SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle", "triangle", "wedge"),
    "diamond": ("diamond", "diamond", "rhombus"),
    "ring": ("ring", "ring", "hoop"),
    "cross": ("cross", "cross", "plus"),
    "star": ("star", "star", "starlet"),
    "crescent": ("crescent", "crescent", "moon"),
}
_SIZE_WORDS = {
    "small": ("small", "small", "tiny", "little"),
    "medium": ("medium", "medium", "middling"),
    "large": ("large", "large", "big", "huge"),
}
_TEXTURE_WORDS = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "striped", "banded"),
    "dotted": ("dotted", "dotted", "spotted"),
    "checked": ("checked", "checked", "chequered"),
}
_TEXTURE_TAILS = {
    "plain": ("without a pattern",),
    "striped": ("with stripes", "with dark stripes"),
    "dotted": ("with dots", "with dark dots"),
    "checked": ("with checks", "with a chequered pattern"),
}
_PLACES = {
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "near the top", "in the upper part"),
    "bottom": ("at the bottom", "near the bottom", "in the lower part"),
    "centre": ("in the centre", "in the middle", "at the centre"),
}
_GROUND_FORMS = (
    "on a {ground} background",
    "on {ground}",
    "against a {ground} backdrop",
    "in front of {ground}",
)
_RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "top": ("above", "over", "higher than"),
    "bottom": ("below", "under", "beneath"),
}
_THINGS = ("shape", "object", "thing")

_SINGLE = (
    "{a} {thing} {tail}",
    "{a} {thing} {tail}",
    "{thing} {tail}",
    "the {thing} {tail}",
    "a picture of {a} {thing} {tail}",
    "a photo of {a} {thing} {tail}",
    "an image with {a} {thing} {tail}",
    "there is {a} {thing} {tail}",
    "this shows {a} {thing} {tail}",
    "one can see {a} {thing} {tail}",
    "here is {a} {thing} {tail}",
    "look at the {thing} {tail}",
    "{tail} there is {a} {thing}",
    "{tail} {a} {thing}",
)
_TELLING = (
    "the {shape} {tail} is {traits}",
    "a {shape} {tail} which is {traits}",
    "the {shape} is {traits} {tail}",
)
_DOUBLE = (
    "{first} {relation} {second} {tail}",
    "{first} {relation} {second} {tail}",
    "{first} is {relation} {second} {tail}",
    "a picture of {first} {relation} {second} {tail}",
    "there is {first} {relation} {second} {tail}",
    "{tail} {first} {relation} {second}",
    "two shapes {first} {relation} {second} {tail}",
)
_DOUBLE_LOOSE = (
    "{first} and {second} {tail}",
    "{first} next to {second} {tail}",
    "a photo of {first} with {second} {tail}",
    "two objects {first} and {second} {tail}",
)

_VAGUE = (
    "a picture",
    "a photo",
    "an image",
    "an object",
    "a shape",
    "some thing",
    "a picture of an object",
    "a photo of a shape",
    "an object on a background",
    "a shape on a background",
    "an image with a thing in it",
    "this shows an object",
    "one can see a shape",
    "here is a picture",
    "there is an object in the picture",
    "a thing in front of a backdrop",
    "look at this picture",
    "a picture with a background",
)
_NUMBERS = (
    *("1", "2", "3", "5", "8", "10", "12", "24", "50", "99", "100"),
    *("117", "204", "365", "640", "1024", "2048", "3071", "4032", "0007", "0815"),
)
_FILES = (
    "img {number} jpg",
    "dsc {number} jpg",
    "image {number} png",
    "scan {number} {number}",
    "file {number} copy {number} jpg",
    "untitled {number}",
    "screenshot {number} {number} png",
)
_SITE = (
    "home about contact login",
    "add to cart",
    "free shipping over {number}",
    "click here for more",
    "sale {number} off today only",
    "sign up for our newsletter",
    "share on social media",
    "page {number} of {number}",
    "all rights reserved",
    "buy now from {number} dollars",
    "back to top",
    "subscribe to our channel",
    "best price in stock",
    "view larger image",
    "related products",
    "privacy policy and terms",
    "download the app",
    "new arrivals for summer",
    "customer reviews {number} stars",
    "loading please wait",
)

PROMPTS: dict[str, tuple[str, ...]] = {
    "shape": ("a {c}", "a picture of a {c}", "there is a {c}", "the {c}"),
    "colour": ("the {c} shape", "{c} object", "the shape is {c}", "a picture of the {c} thing"),
    "size": ("a {c} shape", "the {c} object", "the shape is {c}", "a picture of a {c} thing"),
    "texture": ("a {c} shape", "the {c} object", "the shape is {c}", "a picture of a {c} thing"),
    "position": ("a shape {c}", "there is an object {c}", "{c} there is a shape", "a picture of a thing {c}"),
    "background": (
        "a shape on a {c} background",
        "an object on {c}",
        "a thing against a {c} backdrop",
        "on a {c} background there is a shape",
    ),
    "pair": ("{c}", "a picture of {c}", "there is {c}", "this shows {c}"),
}
"""Templates of the classification tasks; none reveals more than the class."""

ATTRIBUTES = frozenset({"size", "texture", "position", "background", "colour", "shape"})
COLUMNS = {
    GROUND: "background",
    FIRST + SHAPE: "shape",
    FIRST + COLOUR: "colour",
    FIRST + SIZE: "size",
    FIRST + TEXTURE: "texture",
    FIRST + POSITION: "position",
}
"""Names of the attributes by their columns in `Plan.attributes`."""

_MENTIONED = {
    "colour": 0.6,
    "shape": 0.92,
    "size": 0.6,
    "texture": 0.65,
    "position": 0.6,
    "background": 0.35,
}
"""How often a caption of one object mentions each attribute.

Colour and background, which are learnt first, are mentioned less often: otherwise they alone would distinguish batches.
"""


def words(text: str) -> list[str]:
    """The lower-case words of a text, split at everything that is not a letter or a digit."""
    return re.findall(r"[a-z0-9]+", text.lower())


def pair_name(colour: int, shape: int) -> str:
    """A (colour, shape) class with its article: "an orange ring"."""
    return with_article(f"{_COLOURS[colour]} {world.SHAPES[shape]}")


def place_name(position: int) -> str:
    """A position class as a phrase: "at the top"."""
    return _PLACES[world.POSITIONS[position]][0]


def with_article(phrase: str) -> str:
    """The phrase after "a" or "an"."""
    return f"{_article(phrase)} {phrase}"


def describe(row: Sequence[int], draw: random.Random, must: Collection[str] = ()) -> str:
    """A true caption of one scene.

    Args:
        row: one row of `Plan.attributes`.
        draw: where the randomness comes from.
        must: attributes that the caption must mention (of two objects: of both); others are mentioned by chance.
    """
    return _describe_two(row, draw, must) if row[COUNT] == 2 else _describe_one(row, draw, must)


def concepts(row: Sequence[int]) -> list[str]:
    """A scene in words, from its row of `Plan.attributes`: background, and everything about each object."""
    found = [tuple(world.BACKGROUNDS)[row[world.GROUND]]]
    names = (world.SHAPES, tuple(world.COLOURS), tuple(world.SIZES), world.TEXTURES, world.POSITIONS)
    for number in range(row[world.COUNT]):
        block = row[world.FIRST + number * world.BLOCK :][: world.BLOCK]
        found += [of[value] for of, value in zip(names, block, strict=True)]
    return found


def junk(draw: random.Random) -> str:
    """A caption unrelated to any image: a file's name or scraps of a web site."""
    if draw.random() < 0.4:
        text = _pick(draw, _FILES)
    else:
        text = " ".join(_pick(draw, _SITE) for _ in range(1 + int(3 * draw.random())))
    while "{number}" in text:
        text = text.replace("{number}", _pick(draw, _NUMBERS), 1)
    return text


def vague(draw: random.Random) -> str:
    """A caption that is true of every image."""
    return _pick(draw, _VAGUE)


def vocabulary() -> list[str]:
    """Every word that captions, junk captions and prompts can contain, sorted."""
    texts = [*_COLOURS, *_GROUNDS, *world.SHAPES, *world.SIZES, *world.TEXTURES, "a an and", *_THINGS]
    texts += [
        *_SINGLE,
        *_TELLING,
        *_DOUBLE,
        *_DOUBLE_LOOSE,
        *_GROUND_FORMS,
        *_VAGUE,
        *_NUMBERS,
        *_FILES,
        *_SITE,
    ]
    for table in (_SHAPE_WORDS, _SIZE_WORDS, _TEXTURE_WORDS, _TEXTURE_TAILS, _PLACES, _RELATIONS, PROMPTS):
        texts += [form for forms in table.values() for form in forms]
    return sorted({word for text in texts for word in words(re.sub(r"\{\w+\}", " ", text))})


def _describe_one(row: Sequence[int], draw: random.Random, must: Collection[str]) -> str:
    told = {name for name, often in _MENTIONED.items() if name in must or draw.random() < often}
    size, texture, colour, shape, texture_tail = _object_words(row, FIRST, told, draw)
    place = _pick(draw, _PLACES[world.POSITIONS[row[FIRST + POSITION]]]) if "position" in told else ""
    ground = _ground_words(row, draw) if "background" in told else ""
    tail = f"{place} {ground}" if draw.random() < 0.7 else f"{ground} {place}"
    if {"shape", "colour"} <= told and not texture_tail and draw.random() < 0.15:
        traits = [trait for trait in (colour, size, texture) if trait]
        turn = int(draw.random() * len(traits))
        joined = " and ".join(traits[turn:] + traits[:turn])
        return _tidy(_pick(draw, _TELLING).format(shape=shape, traits=joined, tail=tail))
    thing = _tidy(f"{size} {texture} {colour} {shape} {texture_tail}")
    return _tidy(_pick(draw, _SINGLE).format(a=_article(thing), thing=thing, tail=tail))


def _describe_two(row: Sequence[int], draw: random.Random, must: Collection[str]) -> str:
    phrases = []
    for block in (FIRST, SECOND):
        told = {"colour", "shape"}
        told |= {name for name in ("size", "texture") if name in must or draw.random() < 0.2}
        size, texture, colour, shape, texture_tail = _object_words(row, block, told, draw)
        phrases.append(with_article(_tidy(f"{size} {texture} {colour} {shape} {texture_tail}")))
    tail = _ground_words(row, draw) if "background" in must or draw.random() < 0.35 else ""
    turned = draw.random() < 0.5
    first, second = reversed(phrases) if turned else phrases
    position = world.POSITIONS[row[(SECOND if turned else FIRST) + POSITION]]
    loose = "position" not in must and draw.random() < 0.3
    form = _pick(draw, _DOUBLE_LOOSE if loose else _DOUBLE)
    relation = _pick(draw, _RELATIONS[position])
    return _tidy(form.format(first=first, second=second, relation=relation, tail=tail))


def _object_words(
    row: Sequence[int], block: int, told: Collection[str], draw: random.Random
) -> tuple[str, str, str, str, str]:
    """Size, texture, colour and shape of one object in words, and the texture as a phrase after the noun."""
    shape_index, colour_index, size_index, texture_index, _ = row[block : block + BLOCK]
    size = _pick(draw, _SIZE_WORDS[tuple(world.SIZES)[size_index]]) if "size" in told else ""
    texture = texture_tail = ""
    if "texture" in told:
        name = world.TEXTURES[texture_index]
        if draw.random() < 0.75:
            texture = _pick(draw, _TEXTURE_WORDS[name])
        else:
            texture_tail = _pick(draw, _TEXTURE_TAILS[name])
    colour = _COLOURS[colour_index] if "colour" in told else ""
    shape = _pick(draw, _SHAPE_WORDS[world.SHAPES[shape_index]]) if "shape" in told else _pick(draw, _THINGS)
    return size, texture, colour, shape, texture_tail


def _ground_words(row: Sequence[int], draw: random.Random) -> str:
    return _pick(draw, _GROUND_FORMS).format(ground=_GROUNDS[row[GROUND]])


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"


def _pick(draw: random.Random, options: Sequence[str]) -> str:
    """One of the options; written out because `Random.choice` may change between Python versions."""
    return options[int(draw.random() * len(options))]


def _tidy(text: str) -> str:
    return " ".join(text.split())
