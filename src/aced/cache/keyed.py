"""Arrays that a model computes from whole contents, such as the images of a task, each stored under a mark."""

from __future__ import annotations

import contextlib
import glob
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aced.cache.sealed import SealedWriter, differences, sealed_info, sealed_name
from aced.files.atomic import file_atomic, sweep_leftovers
from aced.files.tensorfile import RowFile, Shape
from aced.runtime.descriptors import is_out_of_files, out_of_files

_VERSION = 1
_HEADER_BYTES = 256
"""Room for the fields that `SealedWriter.seal` adds to a header."""


class KeyedArrays:
    """Arrays that one model has computed from any number of contents, each in a sealed file: CACHE/KIND/MODEL/FILE.

    A file counts only if it is complete and matches model and mark; any other one counts as absent and is made again.

    Args:
        cache: the cache folder, which other kinds and models, and side-cars, may share.
        kind: what is stored, in one word.
        identity: the model's `identity()`; `tower` is the hash of all of it.
    """

    def __init__(self, cache: Path, kind: str, identity: Mapping[str, str]) -> None:
        self._folder, self._kind, self._identity = cache / kind / identity["tower"], kind, dict(identity)

    def path(self, stem: str, mark: str) -> Path:
        """The file for the arrays of a content.

        Args:
            stem: beginning of the file name.
            mark: of the content, and of how the model saw it.
        """
        return self._folder / sealed_name(stem, mark)

    def get(self, stem: str, mark: str) -> RowFile | None:
        """The arrays of a content as memory maps, every byte checked; None if there are no valid ones.

        Raises:
            AcedError: the process may open no more files.
        """
        try:
            file = RowFile(self.path(stem, mark))
            info = sealed_info(file, self._kind)
            there = (info["version"], info["mark"], info["sha256"]) == (_VERSION, mark, file.sha256())
            return file if there and not differences(info["identity"], self._identity) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if is_out_of_files(error):
                raise out_of_files() from error
            return None

    @contextlib.contextmanager
    def making(self, stem: str, mark: str, tensors: Mapping[str, tuple[str, Shape]]) -> Iterator[SealedWriter]:
        """A file for the arrays of a content; it is sealed and appears when the block ends without an error.

        Args:
            stem, mark: as of `path`.
            tensors: (dtype, shape) of each array by name.

        Raises:
            AcedError: the disk is full or the file cannot be written.
        """
        path = self.path(stem, mark)
        info: dict[str, Any] = {"version": _VERSION, "identity": self._identity, "mark": mark}
        sweep_leftovers(path.parent, f".{glob.escape(path.name)}.")
        room = len(json.dumps(json.dumps(info))) + _HEADER_BYTES
        with (
            file_atomic(path) as temporary,
            contextlib.closing(SealedWriter(temporary, path, tensors, room)) as file,
        ):
            yield file
            file.seal(self._kind, info)

    def put(self, stem: str, mark: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store the arrays of a content, by name; raises as `making`."""
        tensors = {name: (values.dtype.name, values.shape) for name, values in arrays.items()}
        with self.making(stem, mark, tensors) as file:
            for name, values in arrays.items():
                file.put(name, values)
