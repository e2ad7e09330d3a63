"""The models behind a score, and the checks of a selection's inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypedDict, get_args

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings, Scalar
from aced.core.named import Table

Score = str
"""A name in `SCORES`."""
Strategy = Literal["joint", "independent", "top-k"]
Loss = Literal["sigmoid", "softmax"]
Sides = tuple[Tensor, Tensor]
"""One model's embeddings of some pairs: of their images and of their texts, each `[c, d]`."""

# Number of elements whose row norms are computed at once.
_AT_ONCE = 1 << 21
# Maximum deviation of a row's norm from 1: more than unit vectors lose when rounded to bfloat16.
_NORM_TOLERANCE = 1e-2
# Maximum logit scale or bias: sums over any batch stay finite in float32.
_LARGEST = 1e30


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """One score: the weighted sum of the models' losses.

    Attributes:
        about: one line for `aced methods`.
        student: weight of the student's loss; 0 if the student is not used.
        reference: weight of the reference's loss, likewise; below 0 pairs that are easy for it score higher.
        within: whether candidates are compared within a modality, image with image and text with text, and not across.
    """

    about: str
    student: float = 0.0
    reference: float = 0.0
    within: bool = False


SCORES: Table[Scoring] = Table(
    "score",
    [
        ("learnability", Scoring(about="hard for the student, easy for the reference", student=1.0, reference=-1.0)),
        ("easy-reference", Scoring(about="easy for the reference", reference=-1.0)),
        ("hard-student", Scoring(about="hard for the student", student=1.0)),
        ("diverse", Scoring(about="unlike earlier choices, for the reference", reference=-1.0, within=True)),
    ],
)


@dataclass(frozen=True)
class ScoreModel:
    """One model of a score.

    Attributes:
        name: for messages.
        sign: sign and weight of its losses.
        e: its embeddings of the super-batch, without gradient.
        within: whether candidates are compared within a modality, image with image and text with text, and not across;
            a single candidate then has no loss.
    """

    name: str
    sign: float
    e: Embeddings
    within: bool = False

    @cached_property
    def scale(self) -> Tensor:
        """Its logit scale as one float32 number, so that its type and shape change no result."""
        return _scalar(self.e.scale, self.e.device)

    @cached_property
    def bias(self) -> Tensor:
        """Its logit bias, likewise."""
        return _scalar(self.e.bias, self.e.device)

    def sides(self, new: Sides) -> tuple[Sides, Sides]:
        """For each direction all candidates' embeddings, `[B, d]`, and those of `new` to compare with, `[c, d]`."""
        image, text = new if self.within else new[::-1]
        return (self.e.image, image), (self.e.text, text)

    def of(self, rows: Tensor) -> Sides:
        """The embeddings of the candidates in these rows."""
        return self.e.image.index_select(0, rows), self.e.text.index_select(0, rows)


def models_of(student: Embeddings | None, reference: Embeddings | None, score: Score) -> list[ScoreModel]:
    """The models behind a score."""
    if score not in SCORES:
        raise ValueError(f"select: unknown score {score!r}; known: {', '.join(SCORES)}.")
    of = SCORES[score]
    models = []
    if of.student:
        if student is None:
            raise ValueError(f"select: score {score!r} needs the student's embeddings, got None.")
        models.append(ScoreModel("student", of.student, student.detach(), within=of.within))
    if of.reference:
        if reference is None:
            raise ValueError(f"select: score {score!r} needs the reference's embeddings, got None.")
        models.append(ScoreModel("reference", of.reference, reference.detach(), within=of.within))
    return models


def _scalar(value: Scalar, device: torch.device) -> Tensor:
    """One float32 number on the device; a tensor is not read, which would wait for a GPU."""
    if isinstance(value, Tensor):
        return value.to(device, torch.float32).reshape(())
    return torch.full((), value, dtype=torch.float32, device=device)


class DrawWords(TypedDict, total=False):
    """The keywords of a draw, see `DrawHow`."""

    score: Score
    loss: Loss
    strategy: Strategy
    chunks: int
    temperature: float
    sources: Sequence[int] | Tensor | None


@dataclass(frozen=True)
class DrawHow:
    """How candidates are scored and drawn; `aced.select` documents each."""

    score: Score = "learnability"
    loss: Loss = "sigmoid"
    strategy: Strategy = "joint"
    chunks: int = 16
    temperature: float = 1.0
    sources: Sequence[int] | Tensor | None = None

    def check(self, size: int) -> None:
        """Raise a ValueError for invalid options of `select`."""
        if self.loss not in get_args(Loss):
            raise ValueError(f"select: unknown loss {self.loss!r}; known: {', '.join(get_args(Loss))}.")
        if self.strategy not in get_args(Strategy):
            raise ValueError(f"select: unknown strategy {self.strategy!r}; known: {', '.join(get_args(Strategy))}.")
        if SCORES[self.score].within and self.strategy != "joint":
            raise ValueError(
                f"select: score {self.score!r} compares with earlier choices and needs strategy 'joint', not "
                f"{self.strategy!r}."
            )
        if size < 1 or self.chunks < 1:
            raise ValueError(f"select: size and chunks must be at least 1, got size={size}, chunks={self.chunks}.")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"select: temperature must be finite and not negative, got {self.temperature}.")


def check_models(models: Sequence[ScoreModel]) -> None:
    """Raise a ValueError for invalid embeddings; there may be none."""
    first = models[0]
    for m in models:
        if len(m.e) != len(first.e):
            raise ValueError(
                f"select: {first.name} has {len(first.e)} candidates and {m.name} {len(m.e)}; "
                "both must embed the same super-batch."
            )
        if m.e.device != first.e.device:
            raise ValueError(
                f"select: {first.name} is on {first.e.device} and {m.name} on {m.e.device}; move both to one device."
            )
        _check_rows(m)
        _check_logits(m)


def _check_rows(m: ScoreModel) -> None:
    if not len(m.e):
        return
    for side, values in (("image", m.e.image), ("text", m.e.text)):
        norms = torch.cat([v.float().norm(dim=1) for v in values.split(max(1, _AT_ONCE // values.shape[1]))])
        finite = torch.isfinite(norms)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise ValueError(
                f"select: {m.name}'s {side} embedding {row} is not finite "
                f"({int((~finite).sum())} of {len(norms)} are not)."
            )
        off = (norms - 1).abs()
        if off.max() > _NORM_TOLERANCE:
            row = int(off.argmax())
            raise ValueError(
                f"select: {m.name}'s {side} embeddings are not normalised: row {row} has length "
                f"{norms[row]:.4g}; divide each row by its norm."
            )


def _check_logits(m: ScoreModel) -> None:
    scale, bias = float(m.e.scale), float(m.e.bias)
    if not 0 < scale <= _LARGEST:
        raise ValueError(f"select: {m.name}'s logit scale is {scale}; it must be finite and positive.")
    if not abs(bias) <= _LARGEST:
        raise ValueError(f"select: {m.name}'s logit bias is {bias}; it must be finite.")
