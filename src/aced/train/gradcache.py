"""Gradient caching: the loss of a whole batch whose activations do not fit in memory (arXiv 2101.06983).

The batch is embedded in micro-batches without gradient. The loss is computed from all embeddings and gives the gradient
of each. Then every micro-batch is embedded again, with gradient, and receives its share. The sum is the gradient of the
plain step, at the cost of one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings, Scalar
from aced.pool.source import Candidates
from aced.train.draws import RandomStates, random_states

Forward = Callable[[Candidates], Embeddings]


class Once:
    """One batch that is embedded once, as a whole.

    Args:
        embedded: `[b, d]` embeddings with gradient, of any type.

    Attributes:
        embedded: as in `GradCache`.
    """

    def __init__(self, embedded: Embeddings) -> None:
        # The losses and distillation's projections are in float32, whatever the towers' precision.
        self._made = replace(embedded, image=embedded.image.float(), text=embedded.text.float())
        self.embedded = Embeddings(*(_leaf(value) for value in _values(self._made)))  # type: ignore[arg-type]

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """The embeddings, each with the gradient that `embedded` has collected: zero for those that no loss uses.

        Processes that train together wait for a gradient of every parameter.
        """
        return [
            (value, _gradient(leaf))
            for value, leaf in zip(_values(self._made), _values(self.embedded), strict=True)
            if isinstance(value, Tensor) and isinstance(leaf, Tensor) and value.requires_grad
        ]


class GradCache:
    """One batch that is embedded twice.

    Args:
        forward: returns the embeddings of a micro-batch, with gradient if enabled.
        batch: the pairs.
        micro_batch: number embedded at once.
        device: device of the model's random numbers, beside the CPU.

    Attributes:
        embedded: `[b, d]` embeddings of the batch, float32; they collect the gradient of everything computed from
            them, as do scale and bias.
    """

    def __init__(self, forward: Forward, batch: Candidates, micro_batch: int, device: torch.device) -> None:
        self._forward = forward
        self._parts = batch.split(micro_batch) or [batch]
        self._states: list[RandomStates] = []
        parts = []
        with torch.no_grad():
            for part in self._parts:
                self._states.append(random_states(device))
                parts.append(forward(part))
        whole = Embeddings.cat(parts)
        self.embedded = Embeddings(_side(whole.image), _side(whole.text), _leaf(whole.scale), _leaf(whole.bias))

    def backward(self, syncing: Callable[[bool], AbstractContextManager[None]], *, last: bool) -> None:
        """Pass the gradient that `embedded` has collected to the parameters.

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
                if final:  # scale and bias belong to the whole batch, so once is enough
                    pairs += [
                        (value, _gradient(leaf))
                        for value, leaf in ((again.scale, e.scale), (again.bias, e.bias))
                        if isinstance(value, Tensor) and isinstance(leaf, Tensor)
                    ]
                outputs, gradients = zip(*[(o, g.to(o.dtype)) for o, g in pairs if o.requires_grad], strict=True)
                torch.autograd.backward(outputs, gradients)


def _side(values: Tensor) -> Tensor:
    return values.detach().float().clone().requires_grad_()


def _values(e: Embeddings) -> tuple[Tensor, Tensor, Scalar, Scalar]:
    return e.image, e.text, e.scale, e.bias


def _leaf(value: Scalar) -> Scalar:
    """The value without its history, ready to collect a gradient; a number stays as it is."""
    return value.detach().requires_grad_() if isinstance(value, Tensor) else value


def _gradient(leaf: Tensor) -> Tensor:
    """The collected gradient; zero for values that the loss does not use."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


@contextmanager
def _replayed(states: RandomStates) -> Iterator[None]:
    """The global generators as in the first pass; restored afterwards."""
    before = random_states(states.device)
    states.restore()
    try:
        yield
    finally:
        before.restore()
