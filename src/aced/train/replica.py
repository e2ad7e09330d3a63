"""The student as the ranks train it together: the forward pass of a batch, its gradients, and the update.

The step sees one student and one batch. Only this module knows a rank's precision and micro-batches, and how gradients
are combined.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aced.core.embeddings import Embeddings, Scalar
from aced.core.joined import Joined
from aced.core.ranks import Alone
from aced.core.shares import Share
from aced.models import Tower
from aced.pool.source import Candidates
from aced.runtime.precision import TYPES, Precision, autocast
from aced.train.distributed import World
from aced.train.gradcache import GradCache, Once
from aced.train.lossscale import LossScale
from aced.train.sharding import clip_gradients, load_state, shard, whole_state

Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class UpdateVerdict:
    """The verdict of a step's loss and gradient on its update; scalars on the device, bool except for the norm.

    Attributes:
        refused: something is not finite, so the run must end.
        unscored: the candidates' scores are not finite, whatever the loss.
        skipped: the gradient only overflowed fp16; the run continues with a smaller scale of the loss.
        norm: norm of the gradient before clipping, 0 if skipped.
    """

    refused: Tensor
    unscored: Tensor
    skipped: Tensor
    norm: Tensor


class Replica:
    """This rank's student.

    Create it before the optimiser, which needs the parameters as they are afterwards.

    Args:
        student: the model; with `fsdp` its parameters are sharded in place.
        objective: the losses, whose own parameters every rank holds.
        world: the job.
        parallel: how the ranks share the student.
        precision: of the towers.
        grad_cache: pairs embedded at once with gradient; 0 for the whole share.
    """

    def __init__(
        self,
        student: Tower,
        objective: nn.Module,
        world: World,
        *,
        parallel: Parallel = "ddp",
        precision: Precision = "fp32",
        grad_cache: int = 0,
    ) -> None:
        self.student, self.world, self.precision, self.grad_cache = student, world, precision, grad_cache
        self.scale = LossScale(student.device, enabled=precision == "fp16")
        self._once: list[Once] = []
        self._caches: list[GradCache] = []
        self._shares: list[Share] = []
        self._joined = Joined(Alone(), [])
        self._plain = student
        self._sharded: Any = None
        self._module: nn.Module = _Pass(student)
        learnt = [p for p in objective.parameters() if p.requires_grad]
        self._scalars = [p for p in learnt if p.numel() == 1]
        together = [p for p in learnt if p.numel() > 1]
        if world.size > 1 and parallel == "fsdp":
            self._plain = copy.deepcopy(student)
            self._module = self._sharded = shard(self._module, student.device, world.size)
            together += [p for p in student.parameters() if p.numel() == 1]
        elif world.size > 1:
            self._module = _ddp(self._module)
        self._together = [p for p in together if p.requires_grad]

    def begin(self) -> None:
        """Begin a step: the student can be called from now until the backward pass."""
        self._clear()
        if self._sharded is not None:
            self._sharded.unshard()

    def embed(self, batch: Candidates) -> Embeddings:
        """Embeddings of this rank's share of a batch, float32; they collect their gradient until `backward`."""
        if self.grad_cache:
            self._caches.append(GradCache(self._forward, batch, self.grad_cache, self.student.device))
            return self._caches[-1].embedded
        self._once.append(Once(self._forward(batch)))
        return self._once[-1].embedded

    def share(self, own: Embeddings, counts: Sequence[int]) -> Share:
        """This rank's embeddings as a part of the whole batch, of which rank r has `counts[r]` pairs."""
        self._shares.append(self.world.share(own, counts, TYPES.get(self.precision)))
        return self._shares[-1]

    def join(self, teachers: Sequence[Share] = ()) -> None:
        """Give the losses the texts of all ranks, those of teachers too: one exchange."""
        self._joined = Joined(self.world, self._shares, teachers)

    def backward(self, loss: Tensor, numbers: Sequence[Tensor] = ()) -> list[Tensor]:
        """The gradients of a loss of which every rank has its own part; afterwards identical on every rank.

        Args:
            loss: this rank's part.
            numbers: float32 scalars of which every rank has a part.

        Returns:
            The sums of the numbers, exchanged together with the gradients of texts.
        """
        # Times W, because the ranks' gradients are averaged, whereas those of parts must be summed.
        self.scale.scaled(loss * self.world.size).backward()
        learnt = [p.grad for p in self._scalars if p.grad is not None]
        sums = self._joined.add_up([*(value.detach() for value in numbers), *learnt])
        for gradient, of_all in zip(learnt, sums[len(numbers) :], strict=True):
            gradient.copy_(of_all / self.world.size)
        if once := [pair for one in self._once for pair in one.gradients()]:
            torch.autograd.backward([value for value, _ in once], [gradient for _, gradient in once])
        for number, cache in enumerate(self._caches, 1):
            cache.backward(self._syncing, last=number == len(self._caches))
        self._clear()
        self.world.average([p.grad for p in self._together if p.grad is not None])
        return sums[: len(numbers)]

    def clip(self, optimizer: torch.optim.Optimizer, limit: float) -> Tensor:
        """Scale the gradients to a norm of at most `limit`; returns the norm before."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.scale.unscale(parameters)
        return clip_gradients(parameters, limit)

    def judge(self, loss: Tensor, norm: Tensor, scored: Tensor | None = None) -> UpdateVerdict:
        """Whether a step with this loss and gradient may change the weights; the same on every rank.

        Args:
            loss: of the whole batch, a scalar.
            norm: norm of the gradient.
            scored: bool, a scalar: whether all scores used for the selection are finite; None without scores.
        """
        finite = torch.isfinite(loss), torch.isfinite(norm)
        skipped = self.scale.overflowed(*finite)
        unscored = torch.zeros_like(skipped) if scored is None else ~scored
        refused = ~(finite[0] & finite[1]) & ~skipped | unscored
        return UpdateVerdict(refused, unscored, skipped, norm.masked_fill(skipped, 0.0))

    def update(self, optimizer: torch.optim.Optimizer, verdict: UpdateVerdict) -> None:
        """One step of the optimiser, which changes nothing at all if it was refused or is skipped."""
        # Fused optimisers take this from the loss scaler; it is checked on the device.
        optimizer.found_inf = (verdict.refused | verdict.skipped).float()  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]
        self.scale.update(verdict.skipped, verdict.refused)

    def whole_student(self) -> Tower:
        """The student with whole weights, for scoring and saving; every rank must call this."""
        if self._sharded is not None:
            self._sharded.reshard()
            self._plain.model.load_state_dict(whole_state(self.student.model))
        return self._plain

    def load(self, state: dict[str, Tensor]) -> None:
        """Load the weights of a whole student."""
        load_state(self.student.model, state)

    def _clear(self) -> None:
        self._once.clear()
        self._caches.clear()
        self._shares.clear()

    def _forward(self, batch: Candidates) -> Embeddings:
        with autocast(self.student.device, self.precision):
            return Embeddings(*self._module(batch))

    @contextmanager
    def _syncing(self, exchange: bool) -> Iterator[None]:
        """Whether gradients are exchanged in the backward pass of embeddings computed inside."""
        if self._sharded is not None:
            for switch in ("requires_gradient_sync", "reshard_after_backward", "is_last_backward"):
                getattr(self._sharded, f"set_{switch}")(exchange)
            yield
        elif exchange or not isinstance(self._module, nn.parallel.DistributedDataParallel):
            yield
        else:
            with self._module.no_sync():
                yield


def _ddp(module: nn.Module) -> nn.Module:
    # Buffers are constants of the towers; running statistics, if any, remain each rank's own.
    names = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    options: dict[str, Any] = {buffers: False}
    return nn.parallel.DistributedDataParallel(module, **options)


class _Pass(nn.Module):
    """A tower that returns tensors instead of `Embeddings`, because DDP and FSDP follow tensors."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, batch: Candidates) -> tuple[Tensor, Tensor, Scalar, Scalar]:
        """Image, text, scale and bias."""
        # A rank without pairs still embeds one, so that its parameters have gradients to exchange, all zero.
        e = self.tower.embed(batch) if len(batch) else self.tower.embed(_blank(batch))[:0]
        # Copies, because FSDP attaches hooks to the outputs, which a view may lose.
        scale, bias = (v.clone() if isinstance(v, Tensor) else v for v in (e.scale, e.bias))
        return e.image, e.text, scale, bias


def _blank(empty: Candidates) -> Candidates:
    """A black image without a caption, in the views of `empty`."""
    images = {view: pixels.new_zeros(1, *pixels.shape[1:]) for view, pixels in empty.images.items()}
    return Candidates(torch.zeros(1, dtype=torch.int64), [""], images)
