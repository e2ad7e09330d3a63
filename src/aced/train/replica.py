"""The student as the ranks train it together: the forward pass of a whole batch, its gradients, and the update.

The step sees one student and one batch; in which precision a rank embeds its share, in how many micro-batches, and how
gradients meet, is known here alone.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aced.core.embeddings import Embeddings, Scalar
from aced.core.shares import Share
from aced.data.source import Candidates
from aced.precision import TYPES, Precision, autocast
from aced.towers import Tower
from aced.train.distributed import World
from aced.train.gradcache import GradCache
from aced.train.sharding import clip_gradients, load_state, shard, whole

Parallel = Literal["ddp", "fsdp"]

_SMALLEST_SCALE = 1.0
"""Where halving the scale of the loss has come this far, no gradient would fit fp16: the run has diverged."""


class Replica:
    """This rank's student.

    Made before the optimiser, which must get the parameters as they are afterwards.

    Args:
        student: the model; with `fsdp` its parameters are cut in place.
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
        self.scaler = torch.amp.GradScaler(student.device.type, enabled=precision == "fp16")
        self._caches: list[GradCache] = []
        self._plain = student
        self._sharded: Any = None
        self._module: nn.Module = _Pass(student)
        together = list(objective.parameters())
        if world.size > 1 and parallel == "fsdp":
            self._plain = copy.deepcopy(student)
            self._module = self._sharded = shard(self._module, student.device, world.size)
            together += [p for p in student.parameters() if p.numel() == 1]
        elif world.size > 1:
            self._module = _ddp(self._module)
        self._together = [p for p in together if p.requires_grad]

    def begin(self) -> None:
        """Begin a step: the student can be called from here to the backward pass."""
        self._caches.clear()
        if self._sharded is not None:
            self._sharded.unshard()

    def embed(self, batch: Candidates) -> Embeddings:
        """Embeddings of this rank's share of a batch, float32 and with gradient."""
        if self.grad_cache:
            self._caches.append(GradCache(self._forward, batch, self.grad_cache))
            own = self._caches[-1].embedded
        else:
            own = self._forward(batch)
            # The losses and distillation's projections are in float32, whatever the towers ran in.
            own = replace(own, image=own.image.float(), text=own.text.float())
        return own

    def share(self, own: Embeddings, counts: Sequence[int]) -> Share:
        """This rank's embeddings, with which the losses get at those of all; rank r has `counts[r]` pairs."""
        return self.world.share(own, counts, TYPES.get(self.precision))

    def backward(self, loss: Tensor) -> None:
        """The gradients of a loss of which every rank has its own part; afterwards the same on every rank."""
        # Times W, since the ranks' gradients are averaged where those of parts are to be added up.
        self.scaler.scale(loss * self.world.size).backward()
        for number, cache in enumerate(self._caches, 1):
            cache.backward(self._syncing, last=number == len(self._caches))
        self._caches.clear()
        self.world.average([p.grad for p in self._together if p.grad is not None])

    def clip(self, optimizer: torch.optim.Optimizer, limit: float) -> float:
        """Scale the gradients to a length of `limit` at most; their length before."""
        self.scaler.unscale_(optimizer)
        return clip_gradients([p for group in optimizer.param_groups for p in group["params"]], limit)

    def skips(self, norm: float) -> bool:
        """Whether a gradient of this length only says that the loss was scaled too far for fp16."""
        return self.scaler.is_enabled() and not math.isfinite(norm) and self.scaler.get_scale() > _SMALLEST_SCALE

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of the optimiser; none where `skips` says so."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def whole_student(self) -> Tower:
        """The student with whole weights, to be scored and saved; every rank must ask for it."""
        if self._sharded is not None:
            self._sharded.reshard()
            state = self.student.model.state_dict()
            self._plain.model.load_state_dict({name: whole(tensor) for name, tensor in state.items()})
        return self._plain

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up the weights of a whole student."""
        load_state(self.student.model, state)

    def _forward(self, batch: Candidates) -> Embeddings:
        with autocast(self.student.device, self.precision):
            return Embeddings(*self._module(batch))

    @contextmanager
    def _syncing(self, exchange: bool) -> Iterator[None]:
        """Whether gradients are exchanged in the backward pass of what is embedded inside."""
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
    # Buffers are constants of the towers; running statistics, where a model has them, stay each rank's own.
    names = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    options: dict[str, Any] = {buffers: False}
    return nn.parallel.DistributedDataParallel(module, **options)


class _Pass(nn.Module):
    """A tower that returns tensors, which DDP and FSDP follow, instead of `Embeddings`."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, batch: Candidates) -> tuple[Tensor, Tensor, Scalar, Scalar]:
        """Image, text, scale and bias."""
        # A rank without pairs embeds one all the same, so that its parameters have gradients to exchange, all zero.
        e = self.tower.embed(batch) if len(batch) else self.tower.embed(_blank(batch))[:0]
        # Copies, since FSDP hangs its work on what comes out, which a view may lose.
        scale, bias = (v.clone() if isinstance(v, Tensor) else v for v in (e.scale, e.bias))
        return e.image, e.text, scale, bias


def _blank(empty: Candidates) -> Candidates:
    """A black picture without a caption, of the views of `empty`."""
    images = {view: pixels.new_zeros(1, *pixels.shape[1:]) for view, pixels in empty.images.items()}
    return Candidates(torch.zeros(1, dtype=torch.int64), [""], images)
