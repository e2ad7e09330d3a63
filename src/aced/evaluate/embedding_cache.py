"""Embeddings of one model on disk, by the fingerprint of what was embedded."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from aced.evaluate.image_faults import ImageFaults
from aced.files.atomic import save_tensors_atomic


class EmbeddingCache:
    """A folder of safetensors files; everything in it belongs to one model at one precision.

    What was embedded decides the name of a file, and the model the folder, so that nothing in it can be out of date.
    A damaged file is made again.

    Args:
        folder: where all models' caches lie.
        model: fingerprint of the model.
        precision: at which it runs.
    """

    def __init__(self, folder: Path, model: str, precision: str) -> None:
        self._folder = folder / f"{model}-{precision}"

    def load(self, name: str) -> tuple[Tensor, ImageFaults] | None:
        """The embeddings under a name, `[n, d]` float32, with the faults of their images; None where there are none."""
        path = self._folder / f"{name}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                noted = json.loads((file.metadata() or {}).get("faults", "{}"))
                lost = {int(position): str(fault) for position, fault in noted.pop("lost", {}).items()}
                faults = ImageFaults.from_json(lost, noted)
                return file.get_tensor("embeddings"), faults
        except (OSError, KeyError, ValueError, TypeError, AttributeError, SafetensorError):
            return None

    def save(self, name: str, embeddings: Tensor, faults: ImageFaults) -> None:
        """Keep embeddings under a name.

        Raises:
            AcedError: the disk is full or the folder cannot be written.
        """
        noted = {"faults": json.dumps({"lost": dict(faults.lost), **faults.as_json()})} if faults else None
        save_tensors_atomic(self._folder / f"{name}.safetensors", {"embeddings": embeddings.cpu()}, noted)
