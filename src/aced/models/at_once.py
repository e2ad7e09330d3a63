"""Number of images per forward pass of a vision tower on a CPU: as many as let the allocator recycle memory.

glibc returns blocks of more than 32 MB to the system as soon as they are freed, and the end of the heap once 64 MB of
it are free. A layer with larger activations gets new pages from the kernel, zeroed one by one, in every batch: for a
convolutional tower that took longer than the arithmetic. Smaller activations reuse the same memory in every layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

BLOCK = 20 << 20
"""Bytes of the largest activation: a layer's input, output and workspace together then stay below 64 MB."""


class _Sizes(TorchDispatchMode):
    """Records the largest result of each operation, in bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() * leaf.element_size() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.found.append(max(sizes, default=0))
        return result


def largest_activation(embed: Callable[[Tensor], Tensor], image: Tensor) -> int:
    """Bytes by which the largest activation grows with each image.

    Args:
        embed: images to embeddings.
        image: `[1, 3, S, S]`; only its shape matters.
    """
    sizes = []
    with _disable_current_modes():  # an active operation counter must not see these
        for count in (1, 2):
            with _Sizes() as noted:
                embed(image.expand(count, -1, -1, -1))
            sizes.append(noted.found)
    one, two = sizes
    if len(one) != len(two):  # a single image takes a different path
        return max(two) // 2
    # Whatever does not grow is weights.
    return max((b - a for a, b in zip(one, two, strict=True)), default=0)


def images_at_once(model: nn.Module, embed: Callable[[Tensor], Tensor], image: Tensor) -> int | None:
    """How many images keep every activation within a recycled block; None for no limit.

    There is none for models on other devices than a CPU, compiled models, and models whose weights are sharded over
    processes: their time goes elsewhere, or all processes must do the same.
    """
    weights = next(model.parameters(), None)
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    if weights is None or weights.device.type != "cpu" or compiled or hasattr(weights, "placements"):
        return None
    return max(1, BLOCK // max(1, largest_activation(embed, image)))
