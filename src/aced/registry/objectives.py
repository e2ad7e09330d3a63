"""The contrastive losses and distillation losses of a run, by name, as data.

The trainer reads the row and knows no loss by name. Each row has a function of the embeddings; its further inputs (its
own logit scale, projections) and its limits (several processes) are fields of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from aced.core import losses
from aced.core.named import Table
from aced.core.score_models import Loss
from aced.core.shares import Share
from aced.errors import AcedError


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """One contrastive loss.

    Attributes:
        about: one line for `aced methods`.
        function: the student's embeddings of the b pairs of a batch to a scalar, a mean over the pairs. It receives an
            `Embeddings`, or with `spread` a `Share`; if `guided`, also the reference's of the same pairs.
        scores: the loss for scoring candidates, which has a form for the joint draw; with `sigmoid` a student
            has a logit bias.
        spread: whether it accepts one process's share of a batch (`aced.core.shares.Share`) and returns its part of the
            loss; otherwise a run with it has one process.
        guided: whether it uses the reference's embeddings of the same pairs.
        scaled: whether it has a constant logit scale, its argument `scale`, instead of the student's trained one.
    """

    about: str
    function: Callable[..., Tensor]
    scores: Loss = "sigmoid"
    spread: bool = False
    guided: bool = False
    scaled: bool = False

    def of(self, pairs: Share, guide: Share | None = None, **options: Any) -> Tensor:
        """The loss of a batch, or this process's part of it; `guide` has the reference's embeddings of the pairs."""
        shares = [pairs, guide] if self.guided and guide is not None else [pairs]
        loss = self.function(*(share if self.spread else share.own for share in shares), **options)
        return _scalar(loss, self.function)


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """One distillation loss.

    Attributes:
        about: one line for `aced methods`.
        function: the student's embeddings of the b pairs and a list of the teachers' to a scalar, a mean over the
            pairs. They are `Embeddings`, or with `spread` `Share`s.
        own_scale: whether the student gets a separate logit scale for distillation, trained and then discarded.
        own_bias: likewise a logit bias.
        tempered: whether the function takes `teacher_temperature`.
        projects: whether it takes `project`, a list of trained linear maps from the student's width to each teacher's.
        compares: whether pairs are compared with one another, not only pair by pair.
        spread: as for a contrastive loss.
    """

    about: str
    function: Callable[..., Tensor]
    own_scale: bool = True
    own_bias: bool = False
    tempered: bool = False
    projects: bool = False
    compares: bool = True
    spread: bool = False

    def of(self, student: Share, teachers: Sequence[Share], **options: Any) -> Tensor:
        """The loss of a batch, or this process's part of it."""
        if self.spread:
            return _scalar(self.function(student, teachers, **options), self.function)
        return _scalar(self.function(student.own, [teacher.own for teacher in teachers], **options), self.function)


def _scalar(loss: object, function: Callable[..., Tensor]) -> Tensor:
    """What a loss's function returned, if it is a scalar.

    Raises:
        AcedError: it is not.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    what = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__name__', '?')}"
    raise AcedError(f"The loss {name} returned {what}: return a scalar tensor, the mean over the pairs.")


LOSSES: Table[Contrastive] = Table(
    "loss",
    [
        (
            "sigmoid",
            Contrastive(
                about="SigLIP's: each image with each text, right or wrong", function=losses.sigmoid, spread=True
            ),
        ),
        (
            "softmax",
            Contrastive(
                about="CLIP's: the right text among all, and the right image",
                function=losses.softmax,
                scores="softmax",
                spread=True,
            ),
        ),
        (
            "drrho",
            Contrastive(
                about="CLIP's, with a margin for every negative by the reference",
                function=losses.drrho,
                scores="softmax",
                spread=True,
                guided=True,
                scaled=True,
            ),
        ),
    ],
)

DISTILLATIONS: Table[Distillation] = Table(
    "distillation",
    [
        (
            "softmax",
            Distillation(
                about="cross-entropy with the teacher's contrastive softmax",
                function=losses.softmax_kd,
                tempered=True,
                spread=True,
            ),
        ),
        (
            "sigmoid",
            Distillation(
                about="binary cross-entropy with the teacher's pair probabilities",
                function=losses.sigmoid_kd,
                own_bias=True,
                spread=True,
            ),
        ),
        (
            "features",
            Distillation(
                about="feature matching with the teacher's embeddings",
                function=losses.feature_matching,
                own_scale=False,
                projects=True,
                compares=False,
                spread=True,
            ),
        ),
    ],
)


def check_processes(loss: str, distillations: Sequence[str], processes: int) -> None:
    """Raise an AcedError for a loss that needs whole batches if several processes share them."""
    rows = [("loss", loss, LOSSES.find(loss).spread)]
    rows += [("distillation", name, DISTILLATIONS.find(name).spread) for name in distillations]
    for kind, name, spread in rows:
        if processes > 1 and not spread:
            raise AcedError(
                f"The {kind} '{name}' needs whole batches, but {processes} processes share one: use one process, "
                "or write it for `aced.core.shares.Share` and register it with spread=True."
            )
