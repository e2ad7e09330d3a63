"""The full objective: L = L_contrastive[B_ce] + lambda L_KD[B_kd], with distillation's own parameters."""

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
from aced.registry.objectives import DISTILLATIONS, LOSSES, Distillation

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class LossParts:
    """The losses of one step: scalars without gradient, on the device that computes them.

    For the whole batch, or one rank's part of it.

    Attributes:
        loss: the minimised value: `contrastive` plus the method's `weight` times `distillation`.
        contrastive: None for a method without such a loss.
        distillation: None for a method without distillation. With two distillations, the second counts here with the
            same weight as in `loss`.
    """

    loss: Tensor
    contrastive: Tensor | None
    distillation: Tensor | None

    def numbers(self) -> list[Tensor]:
        """The existing ones, in order."""
        return [part for part in (self.loss, self.contrastive, self.distillation) if part is not None]

    def like(self, numbers: Sequence[Tensor]) -> LossParts:
        """The same parts with other numbers, in the order of `numbers`."""
        left = iter(numbers)
        contrastive, distillation = self.contrastive is not None, self.distillation is not None
        return LossParts(next(left), next(left) if contrastive else None, next(left) if distillation else None)


class Objective(nn.Module):
    """Contrastive loss plus the method's distillation losses.

    Distillation may have its own logit scale and bias: the scale that fits a sigmoid loss does not fit a softmax over
    the batch. Without a contrastive loss it trains the student's. Feature matching has projections to the teachers'
    widths, and so has distillation against columns, one for images and one for texts. All of them are trained and
    discarded afterwards.

    Args:
        method: the row of the table.
        loss: the contrastive loss, a name in `LOSSES`, for a method without its own.
        width: of the student's embeddings.
        teacher_widths: of each teacher's embeddings.
        teacher_temperature: divides the teacher's logits in softmax distillation.
        scale: the constant logit scale of a contrastive loss that has one.
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
        scale: float = 100.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.method, self.teacher_temperature = method, teacher_temperature
        self.contrastive = LOSSES.find(method.loss or loss)
        self._options = {"scale": scale} if self.contrastive.scaled else {}
        self.kinds = [DISTILLATIONS.find(name) for name, _ in method.distillations]
        # The first distillation's parameters are at the top level, as in checkpoints from before there was a second.
        self.second = nn.Module() if len(self.kinds) > 1 else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for kind, home in zip(self.kinds, self._homes, strict=False):
                _equip(home, kind, width, teacher_widths, scales=method.contrastive)
            if method.columns:
                self.column_images, self.column_texts = (_projections(width, teacher_widths) for _ in range(2))
                self.column_log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(
        self,
        contrastive: Embeddings | Share,
        distilled: Embeddings | Share,
        teachers: Sequence[Embeddings | Share],
        columns: Sequence[Embeddings] = (),
        guide: Embeddings | Share | None = None,
    ) -> tuple[Tensor, LossParts]:
        """The loss of one step.

        Args:
            contrastive: the student's embeddings of B_ce, or this rank's share of them, and likewise below.
            distilled: the student's embeddings of B_kd; not used if the method has no distillation.
            teachers: the teachers' embeddings of B_kd.
            columns: the teachers' embeddings of further pairs; none if the method has no columns.
            guide: the reference's embeddings of B_ce, for a contrastive loss that uses them.

        Returns:
            The loss to backpropagate, and its parts; with several ranks this one's share of both.
        """
        base = None
        if self.method.contrastive:
            base = self.contrastive.of(
                as_share(contrastive), None if guide is None else as_share(guide), **self._options
            )
        if not self.kinds:
            assert base is not None  # a method without it distils
            return base, LossParts(base.detach(), base.detach(), None)
        kd = self._distilled(distilled, teachers)
        if self.method.columns:
            kd = kd + self._against_columns(distilled, teachers, columns)
        total = self.method.weight * kd if base is None else base + self.method.weight * kd
        return total, LossParts(total.detach(), None if base is None else base.detach(), kd.detach())

    @property
    def compares(self) -> bool:
        """Whether the teachers' embeddings of all pairs are compared with one another, not only pair by pair."""
        return any(kind.compares for kind in self.kinds)

    @property
    def _homes(self) -> list[nn.Module]:
        """The module with each distillation's parameters."""
        return [self] if self.second is None else [self, self.second]

    def _distilled(self, distilled: Embeddings | Share, teachers: Sequence[Embeddings | Share]) -> Tensor:
        """Both distillations, in units of the first one's lambda."""
        student, shares = as_share(distilled), [as_share(teacher) for teacher in teachers]
        first, *more = [
            self._distillation(kind, home, student, shares) for kind, home in zip(self.kinds, self._homes, strict=True)
        ]
        return sum((self.method.second_weight / self.method.weight * kd for kd in more), first)

    def _distillation(self, kind: Distillation, home: Any, student: Share, teachers: Sequence[Share]) -> Tensor:
        options: dict[str, Any] = {"teacher_temperature": self.teacher_temperature} if kind.tempered else {}
        if kind.projects:
            options["project"] = list(home.project)
        if self.method.contrastive and (kind.own_scale or kind.own_bias):
            scale = home.log_scale.exp() if kind.own_scale else student.own.scale
            student = student.scaled(scale, home.bias if kind.own_bias else 0.0)
        return kind.of(student, teachers, **options)

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
        """Clamp the logit scales, the model's and distillation's own, to 100, as CLIP does."""
        own = [getattr(home, name, None) for home in self._homes for name in ("log_scale", "column_log_scale")]
        for parameter in (getattr(model, "logit_scale", None), *own):
            if parameter is not None:
                parameter.clamp_(max=MAX_LOG_SCALE)


def _equip(home: nn.Module, kind: Distillation, width: int, teacher_widths: Sequence[int], *, scales: bool) -> None:
    """Add a distillation's parameters to a module; `scales`: a logit scale and bias too."""
    if scales and kind.own_scale:
        home.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
    if scales and kind.own_bias:
        home.bias = nn.Parameter(torch.tensor(-10.0))
    if kind.projects:
        home.project = _projections(width, teacher_widths)


def _projections(width: int, widths: Sequence[int]) -> nn.ModuleList:
    """Linear maps from the student's width to each teacher's."""
    return nn.ModuleList(nn.Linear(width, w, bias=False) for w in widths)
