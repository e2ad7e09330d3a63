"""The full objective: L = L_contrastive[B_ce] + lambda L_KD[B_kd], with what distillation itself has to learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aced.core.columns import column_kd
from aced.core.embeddings import Embeddings
from aced.core.shares import Share, as_share
from aced.methods import Method
from aced.registry.objectives import DISTILLATIONS, LOSSES

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class LossParts:
    """The losses of one step: scalars without gradient, on the device that computes them.

    Of the whole batch, or of several ranks one's part of it.
    """

    loss: Tensor
    contrastive: Tensor
    distillation: Tensor | None

    def numbers(self) -> list[Tensor]:
        """Those that there are, in order."""
        return [part for part in (self.loss, self.contrastive, self.distillation) if part is not None]

    @staticmethod
    def of(numbers: Sequence[Tensor]) -> LossParts:
        """From what `numbers` gave, or the like."""
        return LossParts(*numbers, *([] if len(numbers) == 3 else [None]))


class Objective(nn.Module):
    """Contrastive loss plus the method's distillation loss.

    Distillation may have a logit scale and bias of its own: the scale that fits a sigmoid loss is not the one that fits
    a softmax over the batch. Feature matching has projections to the teachers' widths, and so has distillation against
    columns, one for images and one for texts. All of them are trained and thrown away afterwards.

    Args:
        method: the row of the table.
        loss: the contrastive loss, a name in `LOSSES`.
        width: of the student's embeddings.
        teacher_widths: of each teacher's.
        teacher_temperature: divides the teacher's logits in softmax distillation.
        seed: of the projections' initial weights.
    """

    def __init__(
        self,
        method: Method,
        loss: str,
        *,
        width: int,
        teacher_widths: Sequence[int] = (),
        teacher_temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.method, self.contrastive, self.teacher_temperature = method, LOSSES.find(loss), teacher_temperature
        self.kind = DISTILLATIONS.find(method.distill) if method.distill is not None else None
        if self.kind is not None and self.kind.own_scale:
            self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        if self.kind is not None and self.kind.own_bias:
            self.bias = nn.Parameter(torch.tensor(-10.0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.kind is not None and self.kind.projects:
                self.project = _projections(width, teacher_widths)
            if method.columns:
                self.column_images, self.column_texts = (_projections(width, teacher_widths) for _ in range(2))
                self.column_log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(
        self,
        contrastive: Embeddings | Share,
        distilled: Embeddings | Share,
        teachers: Sequence[Embeddings | Share],
        columns: Sequence[Embeddings] = (),
    ) -> tuple[Tensor, LossParts]:
        """The loss of one step.

        Args:
            contrastive: the student's embeddings of B_ce, or this rank's share of them, and likewise below.
            distilled: the student's embeddings of B_kd; not used where the method distils nothing.
            teachers: the teachers' embeddings of B_kd.
            columns: the teachers' embeddings of further pairs; none where the method has no columns.

        Returns:
            The loss to go backward from, and its parts; of several ranks what this one has of both.
        """
        contrastive = as_share(contrastive)
        base = self.contrastive.of(contrastive)
        if self.kind is None:
            return base, LossParts.of([base.detach()] * 2)
        kd = self._distillation(distilled, teachers)
        if self.method.columns:
            kd = kd + self._against_columns(distilled, teachers, columns)
        total = base + self.method.weight * kd
        return total, LossParts.of([value.detach() for value in (total, base, kd)])

    @property
    def compares(self) -> bool:
        """Whether the teachers' embeddings of all pairs are compared with one another, not only pair by pair."""
        return self.kind is not None and self.kind.compares

    def _distillation(self, distilled: Embeddings | Share, teachers: Sequence[Embeddings | Share]) -> Tensor:
        kind, student = self.kind, as_share(distilled)
        assert kind is not None
        options: dict[str, Any] = {"teacher_temperature": self.teacher_temperature} if kind.tempered else {}
        if kind.projects:
            options["project"] = list(self.project)
        if kind.own_scale or kind.own_bias:
            scale = self.log_scale.exp() if kind.own_scale else student.own.scale
            student = student.scaled(scale, self.bias if kind.own_bias else 0.0)
        return kind.of(student, [as_share(teacher) for teacher in teachers], **options)

    def _against_columns(
        self, student: Embeddings | Share, teachers: Sequence[Embeddings | Share], columns: Sequence[Embeddings]
    ) -> Tensor:
        """The mean over the teachers."""
        parts = [
            column_kd(
                student,
                teacher,
                others,
                project=(images, texts),
                scale=self.column_log_scale.exp(),
                teacher_temperature=self.teacher_temperature,
            )
            for images, texts, teacher, others in zip(
                self.column_images, self.column_texts, teachers, columns, strict=True
            )
        ]
        return torch.stack(parts).mean()

    @torch.no_grad()
    def clamp(self, model: nn.Module) -> None:
        """Keep the logit scales, the model's and distillation's own, at 100 at most, as CLIP does."""
        own = [getattr(self, name, None) for name in ("log_scale", "column_log_scale")]
        for parameter in (getattr(model, "logit_scale", None), *own):
            if parameter is not None:
                parameter.clamp_(max=MAX_LOG_SCALE)


def _projections(width: int, widths: Sequence[int]) -> nn.ModuleList:
    """Linear maps from the student's width to each teacher's."""
    return nn.ModuleList(nn.Linear(width, w, bias=False) for w in widths)
