"""What the operations of a block allocate: the largest tensor and the most bytes alive at a time."""

from __future__ import annotations

import weakref

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Watches every operation; tensors that existed before do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0  # elements
        self.peak = 0  # bytes
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            self.largest = max(self.largest, tensor.numel())
            storage = tensor.untyped_storage()
            if storage._cdata not in known and storage._cdata not in self._live:
                self._live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._live.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self._live.values()))
        return out
