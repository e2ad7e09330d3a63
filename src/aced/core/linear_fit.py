"""One model's embeddings from another's, by least squares with forgetting: a prediction of the student.

Shapes: n pairs, D the width of the known embeddings (reference), d of the predicted ones (student).
"""

from __future__ import annotations

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings

DECAY = 0.95
"""Decay per update, because the student changes. Values from 0.9 to 0.98 make no difference."""
RIDGE = 1.0
"""Ridge term: one pseudo-observation of zero per direction, so that rarely seen directions predict little."""
_EVERY = 4
"""Updates between two solutions of the equations."""


class LinearFit:
    """Two linear maps with an offset, for images and texts, fitted to pairs as they arrive.

    Predictions have at most length 1, and are shorter the less is known: the mean embedding of such pairs, and zero
    before the first pair. (So `p.q` of two predictions is the mean of the product, if the errors of the maps are
    independent.)

    Args:
        known: D.
        wanted: d.
        device: where the sums are kept.
    """

    def __init__(self, known: int, wanted: int, device: torch.device | None = None) -> None:
        self.gram = torch.zeros(2, known + 1, known + 1, device=device)
        self.cross = torch.zeros(2, known + 1, wanted, device=device)
        self.maps = torch.zeros_like(self.cross)
        self.updates = 0

    def update(self, known: Embeddings, wanted: Embeddings) -> None:
        """Add n pairs, both models' embeddings of them; earlier results of `tensors` keep their values."""
        x, y = _sides(known, offset=True), _sides(wanted)
        self.gram = self.gram.mul(DECAY).add_(x.mT @ x)
        self.cross = self.cross.mul(DECAY).add_(x.mT @ y)
        if self.updates % _EVERY == 0:
            ridge = torch.eye(self.gram.shape[1], device=self.gram.device).mul_(RIDGE)
            # Checking the factorisation would wait for a GPU; the ridge term makes it succeed.
            self.maps = torch.cholesky_solve(self.cross, torch.linalg.cholesky_ex(self.gram + ridge).L)
        self.updates += 1

    def predict(self, known: Embeddings) -> tuple[Tensor, Tensor]:
        """Images and texts, `[n, d]` float32, of length 1 at most."""
        found = _sides(known, offset=True) @ self.maps
        image, text = found / found.norm(dim=2, keepdim=True).clamp(min=1.0)
        return image, text

    def update_flops(self, pairs: int) -> float:
        """FLOPs of one update with this many pairs, solving included, on average."""
        _, known, wanted = self.cross.shape
        return 2 * (2 * pairs * known * (known + wanted) + (known**3 / 3 + 2 * known**2 * wanted) / _EVERY)

    def predict_flops(self, pairs: int) -> float:
        """FLOPs of predicting this many pairs."""
        _, known, wanted = self.cross.shape
        return 2 * 2.0 * pairs * known * wanted

    def tensors(self) -> dict[str, Tensor]:
        """The state, by name."""
        return {"gram": self.gram, "cross": self.cross, "maps": self.maps, "updates": torch.tensor(self.updates)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the output of `tensors`."""
        device = self.gram.device
        self.gram, self.cross, self.maps = (tensors[name].clone().to(device) for name in ("gram", "cross", "maps"))
        self.updates = int(tensors["updates"])


def _sides(e: Embeddings, *, offset: bool = False) -> Tensor:
    """`[2, n, width]` float32, images and texts; with a last column of ones for the offset."""
    sides = torch.stack([e.image, e.text]).float()
    return torch.nn.functional.pad(sides, (0, 1), value=1.0) if offset else sides
