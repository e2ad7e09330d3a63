"""AdamW with the field's usual parameter groups, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn

from aced.models.compat import ensure_torchvision


def make_optimizer(
    modules: Iterable[nn.Module],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    scale_lr: float,
    decay_embeddings: bool = True,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `modules`.

    There are three kinds of groups: matrices and larger tensors decay; vectors do not; scalars (logit scales and
    biases) do not and learn at `scale_lr` times the rate. Each group carries `factor`, its multiple of the scheduled
    rate. Each module has its own groups of the first two kinds, because one fused call cannot mix the parts of a
    sharded module with whole tensors of another.

    Without `decay_embeddings`, the parameters that `embeddings` names do not decay either.
    """
    groups: list[dict[str, Any]] = []
    scalars: list[nn.Parameter] = []
    for module in modules:
        for group in decay_groups(module, weight_decay, () if decay_embeddings else embeddings(module)):
            scalars += [p for p in group["params"] if _is_scalar(p)]
            groups.append(group | {"params": [p for p in group["params"] if not _is_scalar(p)], "factor": 1.0})
    groups.append({"params": scalars, "weight_decay": 0.0, "factor": scale_lr})
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, weight_decay=0.0, fused=True)


def decay_groups(module: nn.Module, weight_decay: float, undecayed: Collection[str] = ()) -> list[dict[str, Any]]:
    """The trainable parameters of a module in two groups, as in timm: those that decay, and the others.

    Vectors, biases and the names in `undecayed` do not decay. A group may be empty.
    """
    ensure_torchvision()
    from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]

    # Sorted with a decay of 1, because timm makes a single group if the decay is 0; a checkpoint numbers the parameters
    # by group.
    sorted_by_timm = param_groups_weight_decay(module, 1.0, no_weight_decay_list=undecayed)
    found = {float(group["weight_decay"]): group["params"] for group in sorted_by_timm}
    return [{"params": found.get(share, []), "weight_decay": share * weight_decay} for share in (1.0, 0.0)]


def embeddings(module: nn.Module) -> set[str]:
    """Names of token embeddings, position embeddings and everything in `no_weight_decay()` of a part."""
    found: set[str] = set()
    for place, part in module.named_modules():
        named = set(part.no_weight_decay()) if hasattr(part, "no_weight_decay") else set()
        named |= {"weight"} if isinstance(part, nn.Embedding) else set()
        found |= {f"{place}.{name}" if place else name for name in named}
    return found


def _is_scalar(parameter: nn.Parameter) -> bool:
    return parameter.numel() == 1 and parameter.ndim <= 1


def learning_rate(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """Linear warm-up over `warmup * steps` steps, then a cosine to zero at the end. `step` counts from 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group to its multiple of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
