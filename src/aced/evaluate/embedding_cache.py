"""Embeddings of one model on disk, by the fingerprint of what was embedded."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from aced.data.atomic import save_tensors_atomic


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

    def load(self, name: str) -> Tensor | None:
        """The embeddings under a name, `[n, d]` float32; None where there are none."""
        path = self._folder / f"{name}.safetensors"
        if not path.is_file():
            return None
        try:
            return load_file(path)["embeddings"]
        except (OSError, KeyError, ValueError, SafetensorError):
            return None

    def save(self, name: str, embeddings: Tensor) -> None:
        """Keep embeddings under a name.

        Raises:
            AcedError: the disk is full or the folder cannot be written.
        """
        save_tensors_atomic(self._folder / f"{name}.safetensors", {"embeddings": embeddings.cpu()})
