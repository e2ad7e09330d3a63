"""The examples for training and testing a decoder: texts about the images of a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from aced.evaluate.image_faults import ImageFaults
from aced.evaluate.tasks import ReadImages
from aced.pool.source import Candidates, Fault, Source
from aced.pool.views import View

Kind = Literal["caption", "vqa"]


@dataclass(frozen=True, eq=False)
class TextExamples:
    """m texts about images: captions, or questions with answers.

    Attributes:
        name: its name in tables.
        kind: `caption` or `vqa`.
        source: the images. Sets with the same source share its cached tokens.
        rows: `[m]` positions in the source.
        texts: for each example its right texts: captions of the picture, or answers to the question.
        questions: m questions; empty for captions.
        types: m kinds of question, for separate accuracies; empty if there are none.
        chance: accuracy of guessing among the possible answers, if known.
    """

    name: str
    kind: Kind
    source: Source
    rows: Sequence[int]
    texts: Sequence[tuple[str, ...]]
    questions: Sequence[str] = ()
    types: Sequence[str] = ()
    chance: float | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.rows), len(self.texts)} | {len(x) for x in (self.questions, self.types) if x}
        if len(lengths) != 1 or (self.kind == "vqa") != bool(self.questions) or not all(self.texts):
            raise ValueError(f"Examples '{self.name}': the parts do not fit together.")

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, keep: Sequence[int]) -> TextExamples:
        """The examples at some positions."""
        return TextExamples(
            self.name,
            self.kind,
            self.source,
            [self.rows[i] for i in keep],
            [self.texts[i] for i in keep],
            [self.questions[i] for i in keep] if self.questions else (),
            [self.types[i] for i in keep] if self.types else (),
            self.chance,
        )


@dataclass(frozen=True)
class Data:
    """All examples of one decoder."""

    train: list[TextExamples]
    test: list[TextExamples]

    def sources(self) -> list[Source]:
        """The sources of pictures, each once."""
        found = {id(examples.source): examples.source for examples in (*self.train, *self.test)}
        return list(found.values())


class TextPictures(Source):
    """A `Source` over images that are read as a whole, such as those of an evaluation task.

    Attributes:
        name, fingerprint, keys: as in `Source`.
    """

    name: str
    fingerprint: str
    keys: Sequence[str]

    def __init__(self, name: str, fingerprint: str, keys: Sequence[str], images: ReadImages) -> None:
        self.name, self.fingerprint, self.keys = name, fingerprint, keys
        self._images = images

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        """The images at `indices`, with empty texts; unreadable ones are left out and reported."""
        parts = {view: self._part(view) for view in views}
        pixels = {view: images for view, (images, _) in parts.items()}
        lost = {i: name for _, faults in parts.values() for i, name in faults.lost.items()}
        rows: Tensor = torch.as_tensor([i for i in indices if i not in lost], dtype=torch.int64)
        faults = [Fault(self.keys[i], lost[i], f"{self.keys[i]} cannot be read.") for i in indices if i in lost]
        return Candidates(rows, [""] * len(rows), {view: pixels[view][rows] for view in views}, tuple(faults))

    def _part(self, view: View) -> tuple[Tensor, ImageFaults]:
        """All images in a view, and their faults."""
        if hasattr(self._images, "parts"):
            return next(self._images.parts(view, [range(len(self))]))
        return self._images(view), ImageFaults()
