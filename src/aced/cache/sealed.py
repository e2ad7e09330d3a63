"""Sealed files: arrays with a header that identifies model and content, and holds the hash of every byte.

All stored results of models are valid under one rule: the file is complete, its model's identity is the requested one,
and so is its mark, which covers the content and how the model saw it. Side-cars (`aced.cache.sidecar`) hold the
embeddings of a tar, keyed arrays (`aced.cache.keyed`) anything else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aced.files.atomic import writing
from aced.files.tensorfile import Header, RowFileWriter, Shape

IDENTITY = {
    "weights": "other weights",
    "preprocessing": "another preprocessing",
    "tokenizer": "another tokenizer",
    "architecture": "another architecture",
}
"""The components of a model's identity, each with the words for a model that differs in it."""


class SealedWriter:
    """Writes a sealed file in place, in any order of its rows; use it under `file_atomic`.

    Args:
        path: the temporary file.
        target: its final name, for messages.
        tensors: (dtype, shape) of each array by name; dtypes as of `RowFileWriter`.
        room: bytes for the header's content.

    Raises:
        AcedError: the disk is full or the file cannot be written (from any method).
    """

    def __init__(self, path: Path, target: Path, tensors: Mapping[str, tuple[str, Shape]], room: int) -> None:
        self._target = target
        # The widest first, so that each begins at a suitable alignment.
        ordered = dict(sorted(tensors.items(), key=lambda entry: -np.dtype(entry[1][0]).itemsize))
        with writing(target):
            self._file = RowFileWriter(path, ordered, room)

    def put(self, name: str, values: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Write `values` `[B, ...]`, of the array's dtype, at `rows` `[B]` (increasing); at the first B without."""
        with writing(self._target):
            self._file.put(name, np.arange(len(values)) if rows is None else rows, values)

    def seal(self, kind: str, info: Mapping[str, Any], **beside: str) -> None:
        """Write the header, which completes the file.

        Args:
            kind: of the file, for `sealed_info`.
            info: its content, as JSON; the hash of all arrays is added as `sha256`.
            beside: further strings of the header.
        """
        with writing(self._target):
            sealed = json.dumps({**info, "sha256": self._file.sha256()})
            self._file.finish({"format": f"aced {kind}", "info": sealed, **beside})

    def close(self) -> None:
        """Close the file; harmless if it is already closed."""
        self._file.close()


def sealed_info(header: Header, kind: str) -> dict[str, Any]:
    """The content of the header of a sealed file; its text is then removed from `header`.

    Raises:
        ValueError, KeyError, TypeError: it is not a file of that kind.
    """
    if header.metadata.get("format") != f"aced {kind}":
        raise ValueError(f"it is not a {kind}")
    return dict(json.loads(header.metadata.pop("info")))  # as large as all other content in memory


def sealed_name(stem: str, mark: str) -> str:
    """The name of a sealed file for the content with a mark; `stem` is for readability."""
    return f"{stem}-{hashlib.sha256(mark.encode()).hexdigest()[:12]}.safetensors"


def differences(made_by: Mapping[str, str], wanted: Mapping[str, str | None]) -> str:
    """How two models' identities differ, in words; empty if they are the same, as far as `made_by` says."""
    if made_by == wanted:
        return ""
    if "architecture" not in made_by and "contents" in wanted:
        wanted = {**wanted, "architecture": None, "tower": wanted["contents"]}
    found = [words for name, words in IDENTITY.items() if made_by.get(name) != wanted.get(name)]
    if not found and made_by.get("tower") != wanted.get("tower"):
        return "another model"
    return " and ".join(found)
