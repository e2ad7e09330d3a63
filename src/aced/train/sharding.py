"""FSDP2: weights, gradients and optimiser state in shards, one per rank, and whole again for all other code.

The student is one group: its weights are gathered once per step, for scoring and training alike, and kept until the
backward pass is done. Then gradients are scattered, so that between steps a rank holds its part of the weights and of
both moments. Parameters with one element (logit scales and biases) cannot be sharded and are whole on every rank.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from aced.errors import AcedError


def shard(module: nn.Module, device: torch.device, size: int) -> Any:
    """Shard the parameters of a module, in place; returns the module with FSDP's methods.

    Raises:
        AcedError: torch is too old.
    """
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        fully_shard = None  # type: ignore[assignment]
    if fully_shard is None or "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise AcedError(f"run.parallel = 'fsdp' needs torch 2.7 or newer, this is {torch.__version__}; use 'ddp'.")
    from torch.distributed.device_mesh import init_device_mesh

    uncut = {p for p in module.parameters() if p.numel() == 1}
    mesh = init_device_mesh(device.type, (size,))
    return fully_shard(module, mesh=mesh, reshard_after_forward=False, ignored_params=uncut)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a rank's part of a larger one."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; every rank must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole_state(module: nn.Module) -> dict[str, Any]:
    """The state dict of a sharded module with whole tensors; every rank must call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return dict(get_model_state_dict(module, options=StateDictOptions(full_state_dict=True)))


def whole_optimizer(modules: Iterable[nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Whole states of an optimiser on the CPU of the first rank; every rank must call this, and the others get nothing.

    Gathered one tensor at a time, so that no device holds more than one whole tensor.

    Args:
        modules: the modules that it trains.
        optimizer: may be new, and then has no state yet.

    Returns:
        By `NUMBER.FIELD`, with parameters numbered as in the optimiser's groups.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    if not optimizer.state:  # torch would take a step to create one, and count it
        return {}
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: dict[str, Any] = get_optimizer_state_dict(nn.ModuleList(modules), optimizer, options=options)
    names = [name for group in found.get("param_groups", []) for name in group["params"]]
    return {
        f"{number}.{field}": value
        for number, name in enumerate(names)
        for field, value in found["state"].get(name, {}).items()
    }


def part_like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, sharded like `model`; the tensor itself if that is whole."""
    if not is_sharded(model) or tensor.shape != model.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(model, DTensor)
    # Every rank has the whole and takes its own part: nothing is sent.
    return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements, src_data_rank=None)


def load_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors into a module that may be sharded."""
    own = module.state_dict()
    module.load_state_dict({name: part_like(t, own[name]) if name in own else t for name, t in state.items()})


def by_kind(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """Parameters with a gradient, sharded and whole ones apart, because torch's fused calls accept only one kind."""
    found = [p for p in parameters if p.grad is not None]
    kinds = [p for p in found if is_sharded(p)], [p for p in found if not is_sharded(p)]
    return [kind for kind in kinds if kind]


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scale gradients so that their common norm is at most `limit`; returns the norm before, a scalar."""
    parameters = list(parameters)
    kinds = by_kind(parameters)
    if not any(is_sharded(kind[0]) for kind in kinds):
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    norms = [whole(torch.nn.utils.get_total_norm(gradients(kind))) for kind in kinds]
    norm = torch.stack(norms).norm()
    for kind in kinds:
        torch.nn.utils.clip_grads_with_norm_(kind, limit, norm)
    return norm


def gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The existing ones."""
    return [p.grad for p in parameters if p.grad is not None]
