"""Gradient caching: the loss of a whole batch whose activations do not fit in memory (arXiv 2101.06983).

The batch is embedded in micro-batches without gradient; the loss is taken on all embeddings, and gives each its
gradient; then every micro-batch is embedded again, with gradient, and handed its share. The sum is the gradient of
the plain step, for one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.data.source import Candidates

Forward = Callable[[Candidates], Embeddings]


class GradCache:
    """One batch that is embedded twice.

    Args:
        forward: gives the embeddings of a micro-batch, with gradient where that is enabled.
        batch: the pairs.
        micro_batch: how many are embedded at once.

    Attributes:
        embedded: `[b, d]` embeddings of the batch, float32; they collect the gradient of whatever is computed from
            them, as scale and bias do.
    """

    def __init__(self, forward: Forward, batch: Candidates, micro_batch: int) -> None:
        self._forward = forward
        self._parts = batch.split(micro_batch) or [batch]
        self._states: list[list[Tensor]] = []
        parts = []
        with torch.no_grad():
            for part in self._parts:
                self._states.append(_random_state())
                parts.append(forward(part))
        whole = Embeddings.cat(parts)
        self.embedded = Embeddings(
            _leaf(whole.image.float()), _leaf(whole.text.float()), _leaf(whole.scale), _leaf(whole.bias)
        )

    def backward(self, syncing: Callable[[bool], AbstractContextManager[None]], *, last: bool) -> None:
        """Give the parameters the gradient that `embedded` has collected.

        Args:
            syncing: a context for one backward pass; its argument says whether the ranks exchange gradients in it.
            last: whether they do so in the last micro-batch.
        """
        e, end = self.embedded, 0
        for number, (part, state) in enumerate(zip(self._parts, self._states, strict=True), 1):
            final = number == len(self._parts)
            there, end = slice(end, end + len(part)), end + len(part)
            with syncing(final and last), _replayed(state):
                again = self._forward(part)
                pairs = [(again.image, _gradient(e.image)[there]), (again.text, _gradient(e.text)[there])]
                if final:  # scale and bias belong to the whole batch: once is enough
                    pairs += [
                        (value, _gradient(leaf))
                        for value, leaf in ((again.scale, e.scale), (again.bias, e.bias))
                        if isinstance(value, Tensor) and isinstance(leaf, Tensor)
                    ]
                outputs, gradients = zip(*[(o, g.to(o.dtype)) for o, g in pairs if o.requires_grad], strict=True)
                torch.autograd.backward(outputs, gradients)


def _leaf(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value).detach().clone().requires_grad_()


def _gradient(leaf: Tensor) -> Tensor:
    """The collected gradient; zero for what the loss does not use."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _random_state() -> list[Tensor]:
    """The state of torch's global generators, which dropout draws from."""
    state = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state += torch.cuda.get_rng_state_all()
    return state


@contextmanager
def _replayed(state: list[Tensor]) -> Iterator[None]:
    """The global generators as they were in the first pass; as before afterwards."""
    before = _random_state()
    _set_random_state(state)
    try:
        yield
    finally:
        _set_random_state(before)


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])
