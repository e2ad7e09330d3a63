"""The images of an evaluation task's tars, decoded on demand, by other processes if there are any."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

from aced.evaluate.image_faults import FaultNotes, ImageFaults
from aced.evaluate.tar_samples import Sample, TarState, read_member, state_of
from aced.pool.images import ImageFault, decode_like_pillow
from aced.pool.loader.loading import Loading, load
from aced.pool.loader.shared_memory import workers_that_fit
from aced.pool.tars.tars import Member
from aced.pool.views import View, image_bytes

_KEPT_BYTES = 1 << 30
"""Pixels of tasks that a process keeps for their next evaluation; the rest is decoded again."""
_CHUNK_BYTES, _CHUNK = 1 << 23, 64
"""Pixels, and images, decoded at once: the amount that travels from another process in one piece."""
_TOLD = ("image_truncated", "image_aspect", "image_16_bit")
"""Faults that a pool treats differently; alpha, EXIF and further frames are treated the same everywhere."""
_RESIZED_PIXELS = 179_000_000
"""Maximum number of pixels of a long image once its short side fits the view: as many as Pillow opens."""


class ImagePart(NamedTuple):
    """Some consecutive images.

    Attributes:
        pixels: `[m, 3, size, size]` uint8, black for an unusable image.
        faults: their faults and remarks, by position in the task.
    """

    pixels: Tensor
    faults: ImageFaults


class TarImages:
    """Decodes a task's images in a view on demand; remembers them if they are few.

    Images are decoded as in Pillow. An unusable one is black here, and its fault names it, so that scoring leaves it
    out.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._places = [(sample.tar, image) for sample in samples for image in sample.images]
        self._keys = [sample.key for sample in samples for _ in sample.images]
        self._states = {tar: state_of(tar) for tar in dict.fromkeys(sample.tar for sample in samples)}
        self._known: dict[tuple[View, range], ImagePart] = {}
        _ALIVE.add(self)

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def structure(self) -> str:
        """A hash of the names and sizes of the images: the same for a copy of the data."""
        named = zip(self._places, self._keys, strict=True)
        names = [[tar.name, key, image.name, image.size] for (tar, image), key in named]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:24]

    @cached_property
    def fingerprint(self) -> str:
        """A hash that also changes when one of the files does."""
        states = [[tar.name, *state] for tar, state in self._states.items()]
        offsets = [image.offset for _, image in self._places]
        return hashlib.sha256(json.dumps([self.structure, states, offsets]).encode()).hexdigest()[:24]

    @property
    def kept_bytes(self) -> int:
        """Bytes of the remembered pixels."""
        return sum(part.pixels.nbytes for part in self._known.values())

    def __call__(self, view: View) -> Tensor:
        """All n images: `[n, 3, size, size]` uint8."""
        return next(self.parts(view, [range(len(self))])).pixels

    def parts(
        self, view: View, spans: Sequence[range], loading: Loading = Loading(), *, keep: bool = True
    ) -> Iterator[ImagePart]:
        """The images of some ranges of positions, a part for each, in order.

        Args:
            view: the view of the images.
            spans: the ranges.
            loading: how images are decoded; with fewer processes if `/dev/shm` has too little room.
            keep: whether to remember them for the next time, within this process's limit for all tasks.

        Raises:
            AcedError: a tar cannot be read or has changed; or as `aced.pool.loader.loading.load`.
        """
        missing = [span for span in spans if (view, span) not in self._known]
        decoded = self._decoded(view, missing, loading)
        kept = sum(images.kept_bytes for images in _ALIVE) + sum(map(len, missing)) * image_bytes([view])
        for span in spans:
            part = self._known.get((view, span)) or next(decoded)
            if keep and kept <= _KEPT_BYTES:
                self._known[view, span] = part
            yield part

    def _decoded(self, view: View, spans: Sequence[range], loading: Loading) -> Iterator[ImagePart]:
        size = min(_CHUNK, max(1, _CHUNK_BYTES // image_bytes([view])), max(map(len, spans), default=1))
        chunks = [span[at : at + size] for span in spans for at in range(0, len(span), size)]
        item = size * image_bytes([view])
        workers = workers_that_fit(item, min(loading.workers, len(chunks)))
        read = _Decode(self._places, self._states, view)
        results = load(read, chunks, count=len(chunks), item=item, **loading._replace(workers=workers)._asdict())
        for span in spans:
            # Copied out of the shared memory, which is scarce.
            pixels, found, at = torch.empty((len(span), 3, view.size, view.size), dtype=torch.uint8), [], 0
            while at < len(span):
                piece, faults = next(results)
                pixels[at : at + len(piece)] = piece
                found.append(faults)
                at += len(piece)
            yield ImagePart(pixels, ImageFaults.joined(found))


_ALIVE: WeakSet[TarImages] = WeakSet()


@dataclass(frozen=True)
class _Decode:
    """Decodes a range of positions; it may be sent to another process and run there.

    Attributes:
        places: the tar and the member of every image.
        states: of the tars, when their headers were read.
        view: the view of the images.
    """

    places: Sequence[tuple[Path, Member]]
    states: Mapping[Path, TarState]
    view: View

    def __call__(self, span: range) -> ImagePart:
        notes = FaultNotes()
        pixels = torch.zeros((len(span), 3, self.view.size, self.view.size), dtype=torch.uint8)
        for row, position in enumerate(span):
            tar, image = self.places[position]
            place = f"{image.name} in {tar}"
            try:
                decoded, odd = decode_like_pillow(read_member(tar, image, self.states[tar]))
                _check_resized(decoded.shape[0], decoded.shape[1], self.view)
                pixels[row] = torch.from_numpy(self.view.apply(decoded))
            except ImageFault as fault:
                notes.lose(position, fault.name, f"{place}: {fault}")
                continue
            for name, detail in odd:
                if name in _TOLD:
                    notes.odd(name, f"{place}: {detail}")
        return ImagePart(pixels, notes.all())


def _check_resized(height: int, width: int, view: View) -> None:
    """Refuse an image so long that resizing its short side would exhaust the memory."""
    if view.mode == "shortest" and view.size**2 * max(width, height) > _RESIZED_PIXELS * min(width, height):
        raise ImageFault("image_too_large", f"{width} x {height} pixels are too long for a view of {view.size} pixels")
