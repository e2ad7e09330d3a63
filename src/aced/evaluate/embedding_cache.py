"""Embeddings of tasks' images and texts on disk, by the mark of the content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aced.cache.keyed import KeyedArrays
from aced.evaluate.image_faults import ImageFaults


class EmbeddingCache:
    """One model's embeddings of tasks at one precision; damaged ones are made again.

    Args:
        folder: the cache folder, which other models may share.
        identity: the model's `identity()`.
        precision: at which it runs.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str], precision: str) -> None:
        self._arrays, self._precision = KeyedArrays(folder, "tasks", identity), precision

    def load(self, kind: str, mark: str) -> tuple[Tensor, ImageFaults] | None:
        """The embeddings of a content, `[n, d]` float32, with the faults of its images; None if absent.

        Args:
            kind: of the content: images, captions or a classifier.
            mark: of the content, and of how the model saw it.
        """
        file = self._arrays.get(kind, self._mark(mark))
        if file is None:
            return None
        noted = json.loads(file.rows("faults").tobytes())
        lost = {int(position): str(fault) for position, fault in noted.pop("lost").items()}
        return torch.from_numpy(np.array(file.rows("embeddings"))), ImageFaults.from_json(lost, noted)

    def save(self, kind: str, mark: str, embeddings: Tensor, faults: ImageFaults) -> None:
        """Store the embeddings of a content, see `load`.

        Raises:
            AcedError: the disk is full or the folder cannot be written.
        """
        noted = json.dumps({"lost": dict(faults.lost), **faults.as_json()}).encode()
        arrays = {"embeddings": embeddings.cpu().numpy(), "faults": np.frombuffer(noted, np.uint8)}
        self._arrays.put(kind, self._mark(mark), arrays)

    def _mark(self, mark: str) -> str:
        return f"{mark} {self._precision}"
