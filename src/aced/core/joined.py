"""The shares of one step, whose texts travel in one exchange and whose gradients return in another.

`Share` alone exchanges the texts of each model when a loss needs them, and their gradients in the backward pass. Here
the losses find all texts ready, and their gradients stop there until they are summed, together with numbers of which
every rank has a part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from aced.core.ranks import Ranks
from aced.core.shares import Share


class Joined:
    """Gives the texts of all ranks to shares that are to be compared with each other.

    Args:
        ranks: the ranks.
        students: shares of one model that learns, whose embeddings are leaves of the autograd graph. The gradient of
            all their texts is collected by `gathered`, which is another leaf.
        teachers: shares of frozen models.
    """

    def __init__(self, ranks: Ranks, students: Sequence[Share], teachers: Sequence[Share] = ()) -> None:
        self._ranks, self._students = ranks, students
        if ranks.size == 1:
            return
        # Models' embeddings of a rank's pairs may differ in number, type and width, so they travel as bytes.
        shares = [*students, *teachers]
        own = [share.own.text.detach() for share in shares]
        widths = [text.shape[1] * text.itemsize for text in own]
        counts = zip(*(share.counts for share in shares), strict=True)
        sizes = [[count * width for count, width in zip(each, widths, strict=True)] for each in counts]
        sent = torch.cat([text.flatten().view(torch.uint8) for text in own])
        came = ranks.gather(sent, [sum(of) for of in sizes]).split([size for of in sizes for size in of])
        for number, (share, text) in enumerate(zip(shares, own, strict=True)):
            whole = torch.cat(came[number :: len(shares)]).view(text.dtype).view(len(share), text.shape[1])
            share.gathered = whole.requires_grad_(share.own.text.requires_grad)

    def add_up(self, numbers: Sequence[Tensor]) -> list[Tensor]:
        """After the backward pass: give the students' own texts their gradients from all ranks.

        Args:
            numbers: float32 scalars, of each of which every rank has a part.

        Returns:
            Their sums over the ranks, the same to the bit on every one.
        """
        if self._ranks.size == 1:
            return list(numbers)
        texts = [share.texts for share in self._students]
        gradients = [torch.zeros_like(text) if text.grad is None else text.grad for text in texts]
        # The numbers go to every rank, as rows after its own.
        riding = _rows(numbers, gradients[0])
        pieces = [gradient.split(list(share.counts)) for gradient, share in zip(gradients, self._students, strict=True)]
        each = [[*of, riding] for of in zip(*pieces, strict=True)]
        sums = self._ranks.sum_rows(
            torch.cat([piece for of in each for piece in of]), [sum(map(len, of)) for of in each]
        )
        *parts, ridden = sums.split([len(piece) for piece in each[self._ranks.rank]])
        for share, gradient in zip(self._students, parts, strict=True):
            own = share.own.text
            own.grad = gradient if own.grad is None else own.grad + gradient
        return list(ridden.flatten()[: len(numbers)].unbind())


def _rows(numbers: Sequence[Tensor], like: Tensor) -> Tensor:
    """The minimum number of rows with room for the numbers."""
    width = like.shape[1]
    rows = like.new_zeros(math.ceil(len(numbers) / width) * width)
    for place, number in zip(rows, numbers, strict=False):
        place.copy_(number)
    return rows.view(-1, width)
