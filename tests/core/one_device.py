"""A device that holds no numbers, for tests that nothing waits for one.

Tensors on `meta` have shapes and no contents: whoever reads a number, copies one out or asks for a result whose length
only the numbers say, is refused. Some operations take an operand of another device all the same; `OneDevice` does not.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, but for numbers without dimensions and for copies to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.ndim]
        devices = {t.device.type for t in tensors}
        if len(devices) > 1 and "copy" not in func.name():
            raise RuntimeError(f"{func.name()} on tensors of {' and '.join(sorted(devices))}")
        return func(*args, **(kwargs or {}))
