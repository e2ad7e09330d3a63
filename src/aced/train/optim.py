"""AdamW with the field's usual parameter groups, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def make_optimizer(
    modules: Iterable[nn.Module], *, lr: float, betas: tuple[float, float], weight_decay: float, scale_lr: float
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `modules`.

    Three kinds of groups: matrices and larger decay; vectors do not; scalars (logit scales and biases) do not and learn
    at `scale_lr` times the rate. Each group carries `factor`, its multiple of the scheduled rate. The first two are
    each module's own, because one fused call cannot take the parts of a sharded module and the whole ones of another.
    """
    groups: list[dict[str, Any]] = []
    scalars: list[nn.Parameter] = []
    for module in modules:
        matrices: list[nn.Parameter] = []
        vectors: list[nn.Parameter] = []
        for p in module.parameters():
            if p.requires_grad:
                (scalars if p.numel() == 1 and p.ndim <= 1 else vectors if p.ndim < 2 else matrices).append(p)
        groups.append({"params": matrices, "weight_decay": weight_decay, "factor": 1.0})
        groups.append({"params": vectors, "weight_decay": 0.0, "factor": 1.0})
    groups.append({"params": scalars, "weight_decay": 0.0, "factor": scale_lr})
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, weight_decay=0.0, fused=True)


def learning_rate(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """Linear warm-up over `warmup * steps` steps, then a cosine to zero at the end. `step` counts from 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its multiple of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
