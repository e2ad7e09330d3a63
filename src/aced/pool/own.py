"""`PairSource`: a base class for your own dataset, which states its number of pairs and returns one at a time."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aced.pool.faults import HARMLESS
from aced.pool.images import ImageFault, decode_noted
from aced.pool.resizing import by_torch
from aced.pool.source import Candidates, Fault, Keys, Source
from aced.pool.views import View

Picture = Path | str | bytes | Image.Image | np.ndarray
"""A file, its bytes, a Pillow image, or `[H, W, 3]` uint8."""


class PairSource(Source):
    """A `Source` for `aced.train(config, source=...)` whose data come one pair at a time.

    A subclass defines `__len__` and `pair`, and `fingerprint` if the number of pairs does not distinguish two states of
    the data. It must be picklable if `data.start_method` is `forkserver`; with workers, several processes call `pair`.
    The other members are those of `Source`.

    Attributes:
        name: its name in messages.
    """

    name = "own data"

    @abstractmethod
    def pair(self, index: int) -> tuple[Picture, str]:
        """The image and the caption of a pair; the same ones on every call."""

    def key(self, index: int) -> str:
        """A lasting identity of a pair."""
        return str(index)

    @property
    def keys(self) -> Sequence[str]:
        """The keys of all pairs."""
        return Keys(self.key, len(self))

    @property
    def fingerprint(self) -> str:
        """Changes when the data change: a run resumes, and cached embeddings are used, only if it stays the same."""
        return hashlib.sha256(f"{type(self).__qualname__} {self.name} {len(self)}".encode()).hexdigest()[:16]

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        """Load some pairs in every view; those that cannot be used are left out and reported.

        An empty caption and an image that cannot be decoded are faults; other exceptions of `pair` are passed on.
        """
        pixels = {view: np.empty((len(indices), 3, view.size, view.size), dtype=np.uint8) for view in views}
        good: list[int] = []
        texts: list[str] = []
        faults: list[Fault] = []
        notes: list[Fault] = []
        for index in indices:
            picture, caption = self.pair(int(index))
            try:
                if not caption.strip():
                    raise ImageFault("caption_empty", "the caption is only white space")
                if views:
                    image, odd = _decoded(picture)
                    notes += [Fault(self.key(int(index)), name, said) for name, said in odd if name in HARMLESS]
                    for view in views:
                        pixels[view][len(good)] = view.apply(image, by_torch)
            except ImageFault as fault:
                key = self.key(int(index))
                faults.append(Fault(key, fault.name, f"{key}: {fault}."))
                continue
            good.append(int(index))
            texts.append(caption)
        return Candidates(
            indices=torch.tensor(good, dtype=torch.int64),
            texts=texts,
            images={view: torch.from_numpy(rows[: len(good)]) for view, rows in pixels.items()},
            faults=tuple(faults),
            notes=tuple(notes),
        )


def _decoded(picture: Picture) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """`[H, W, 3]` uint8, and what is unusual about it."""
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ImageFault("image_unreadable", f"an array of {picture.shape} {picture.dtype} is not [H, W, 3] uint8")
        return picture, []
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB")), []
    if isinstance(picture, bytes):
        return decode_noted(picture)
    try:
        return decode_noted(Path(picture).read_bytes())
    except OSError as error:
        raise ImageFault("image_unreadable", f"{picture}: {error.strerror or error}") from None
