"""One model's embeddings from another's, by least squares that forget: what the student would make of a pair.

Shapes: n pairs, D the width of what is known (the reference), d of what is predicted (the student).
"""

from __future__ import annotations

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings

DECAY = 0.95
"""What a pair counts one update later: the model that is predicted moves on. From 0.9 to 0.98 it does not matter."""
RIDGE = 1.0
"""As if one pair more, along each direction, said that there is nothing: directions hardly seen predict little."""
_EVERY = 4
"""Updates from one solution of the equations to the next."""


class LinearFit:
    """Two linear maps with an offset, of images and of texts, fitted to pairs as they come.

    What comes out is at most of length 1, and shorter the less is known: the mean of what such pairs are embedded as,
    and before the first pair nothing. (So `p.q` of two predictions is the mean of the product, where what the maps miss
    of one is independent of what they miss of the other.)

    Args:
        known: D.
        wanted: d.
        device: where to keep the sums.
    """

    def __init__(self, known: int, wanted: int, device: torch.device | None = None) -> None:
        self.gram = torch.zeros(2, known + 1, known + 1, device=device)
        self.cross = torch.zeros(2, known + 1, wanted, device=device)
        self.maps = torch.zeros_like(self.cross)
        self.updates = 0

    def update(self, known: Embeddings, wanted: Embeddings) -> None:
        """Take n more pairs in, both models' embeddings of them; `tensors` given before keep their values."""
        x, y = _sides(known, offset=True), _sides(wanted)
        self.gram = self.gram.mul(DECAY).add_(x.mT @ x)
        self.cross = self.cross.mul(DECAY).add_(x.mT @ y)
        if self.updates % _EVERY == 0:
            ridge = torch.eye(self.gram.shape[1], device=self.gram.device).mul_(RIDGE)
            # Whether it could be factored is not asked, which a GPU would have to be waited for; the ridge sees to it.
            self.maps = torch.cholesky_solve(self.cross, torch.linalg.cholesky_ex(self.gram + ridge).L)
        self.updates += 1

    def predict(self, known: Embeddings) -> tuple[Tensor, Tensor]:
        """Images and texts, `[n, d]` float32, of length 1 at most."""
        found = _sides(known, offset=True) @ self.maps
        image, text = found / found.norm(dim=2, keepdim=True).clamp(min=1.0)
        return image, text

    def update_flops(self, pairs: int) -> float:
        """Of one update by so many pairs, solving included, as a mean."""
        _, known, wanted = self.cross.shape
        return 2 * (2 * pairs * known * (known + wanted) + (known**3 / 3 + 2 * known**2 * wanted) / _EVERY)

    def predict_flops(self, pairs: int) -> float:
        """Of predicting so many pairs."""
        _, known, wanted = self.cross.shape
        return 2 * 2.0 * pairs * known * wanted

    def tensors(self) -> dict[str, Tensor]:
        """The state, by name."""
        return {"gram": self.gram, "cross": self.cross, "maps": self.maps, "updates": torch.tensor(self.updates)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        device = self.gram.device
        self.gram, self.cross, self.maps = (tensors[name].clone().to(device) for name in ("gram", "cross", "maps"))
        self.updates = int(tensors["updates"])


def _sides(e: Embeddings, *, offset: bool = False) -> Tensor:
    """`[2, n, width]` float32, images and texts; with a last column of ones for the offset."""
    sides = torch.stack([e.image, e.text]).float()
    return torch.nn.functional.pad(sides, (0, 1), value=1.0) if offset else sides
