"""Faults of a task's images: those that cannot be scored, and remarks on the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ImageTally:
    """The number of images with one fault, and one of them with a description."""

    count: int
    example: str

    def and_more(self, count: int) -> ImageTally:
        """The same with more images."""
        return ImageTally(self.count + count, self.example)


@dataclass(frozen=True)
class ImageFaults:
    """The faults of a task's images in one view; empty if all images are fine.

    Attributes:
        lost: positions of the images that Pillow cannot read, which are not scored, with the name of the fault
            (`aced.pool.faults`).
        left_out: the same by that name.
        odd: images that are scored as Pillow decodes them although unusual, by the name of the remark.
    """

    lost: Mapping[int, str] = field(default_factory=dict)
    left_out: Mapping[str, ImageTally] = field(default_factory=dict)
    odd: Mapping[str, ImageTally] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Iterable[ImageFaults]) -> ImageFaults:
        """The faults of several parts of a task's images, in their order; examples are the first ones."""
        lost: dict[int, str] = {}
        left_out: dict[str, ImageTally] = {}
        odd: dict[str, ImageTally] = {}
        for part in parts:
            lost |= part.lost
            for found, more in ((left_out, part.left_out), (odd, part.odd)):
                for name, tally in more.items():
                    found[name] = found.get(name, ImageTally(0, tally.example)).and_more(tally.count)
        return cls(lost, left_out, odd)

    def __bool__(self) -> bool:
        return bool(self.lost or self.odd)

    def as_json(self) -> dict[str, Any]:
        """The form used in results: `left_out` and `odd`, each only if not empty."""
        named = {"left_out": self.left_out, "odd": self.odd}
        return {
            key: {name: {"images": tally.count, "example": tally.example} for name, tally in found.items()}
            for key, found in named.items()
            if found
        }

    @classmethod
    def from_json(cls, lost: Mapping[int, str], content: Mapping[str, Any]) -> ImageFaults:
        """The output of `as_json`, with the positions, which it leaves out.

        Raises:
            KeyError, TypeError, AttributeError: it has another form.
        """
        left_out, odd = (
            {name: ImageTally(int(one["images"]), str(one["example"])) for name, one in content.get(key, {}).items()}
            for key in ("left_out", "odd")
        )
        return cls(lost, left_out, odd)


def fault_lines(tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line for each fault of each task's images: the number, the consequence, and an example.

    Args:
        tasks: results by task, as in results.json and eval.json.
    """
    for name, record in tasks.items():
        for key in ("left_out", "odd"):
            for fault, found in record.get(key, {}).items():
                many = found["images"] > 1
                images = f"{found['images']:,} images" if many else "1 image"
                what = "left out" if key == "left_out" else f"scored as Pillow decodes {'them' if many else 'it'}"
                yield f"{name}: {images} {what}: {fault}{', for example' * many} ({found['example']})"


class FaultNotes:
    """Collects faults while the images are decoded in order."""

    def __init__(self) -> None:
        self._lost: dict[int, str] = {}
        self._left_out: dict[str, ImageTally] = {}
        self._odd: dict[str, ImageTally] = {}

    def lose(self, position: int, name: str, example: str) -> None:
        """Note an image that cannot be used."""
        self._lost[position] = name
        _count(self._left_out, name, example)

    def odd(self, name: str, example: str) -> None:
        """Note a remark on an image that is used."""
        _count(self._odd, name, example)

    def all(self) -> ImageFaults:
        """The faults and remarks."""
        return ImageFaults(dict(self._lost), dict(self._left_out), dict(self._odd))


def _count(found: dict[str, ImageTally], name: str, example: str) -> None:
    known = found.get(name)
    found[name] = (known or ImageTally(0, example)).and_more(1)
