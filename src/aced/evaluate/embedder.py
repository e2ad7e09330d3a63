"""Embeddings of a task's images and texts: each computed once, and remembered on disk where that is wanted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from aced.data.views import View
from aced.evaluate.embedding_cache import EmbeddingCache
from aced.evaluate.image_faults import ImageFaults
from aced.evaluate.prompts import Policy, apply_policy, fill
from aced.evaluate.tasks import ReadImages
from aced.precision import Precision, autocast

Note = Callable[[str, int, int], None]
"""Told of progress within a task: what is done, how much of it, of how much."""

_T = TypeVar("_T")


class EmbeddingTower(Protocol):
    """What evaluation needs of a tower."""

    @property
    def view(self) -> View:
        """How the tower wants its images."""
        ...

    def embed_image(self, images: Tensor, /) -> Tensor:
        """`[B, 3, S, S]` uint8 to `[B, d]` normalised embeddings."""
        ...

    def embed_text(self, texts: list[str], /) -> Tensor:
        """B texts to `[B, d]` normalised embeddings."""
        ...


class NotFinite(Exception):
    """Embeddings with infinities or NaN; the message says of what."""


class Embedder:
    """Embeds each set of images and texts once, however many tasks use it.

    Args:
        tower: the model.
        micro_batch: images or texts embedded at a time.
        prompts: what is done to texts first.
        precision: of the model; scores are float32 in any case.
        cache: where embeddings of images with a fingerprint, and text classifiers, are kept over runs.
        note: told of progress.
    """

    def __init__(
        self,
        tower: EmbeddingTower,
        micro_batch: int = 256,
        *,
        prompts: Policy = "clip",
        precision: Precision = "fp32",
        cache: EmbeddingCache | None = None,
        note: Note | None = None,
    ) -> None:
        self._tower = tower
        self._micro_batch = micro_batch
        self._prompts: Policy = prompts
        self._precision = precision
        self._cache = cache
        self._note = note or (lambda what, done, total: None)
        # A callable without a fingerprint is kept beside its embeddings: a collected one could pass its id on.
        self._images: dict[str | int, tuple[ReadImages | None, Tensor, ImageFaults]] = {}
        self._classifiers: dict[tuple[tuple[str, ...], tuple[str, ...]], Tensor] = {}
        self._captions: dict[tuple[str, ...], Tensor] = {}

    def images(self, read: ReadImages, count: int | None = None) -> Tensor:
        """All images of a task, `[n, d]` float32; `count` is their number where it is known, for the progress.

        Those that `faults` calls lost are among them, without meaning.
        """
        return self._seen(read, count or 0)[1]

    def faults(self, read: ReadImages) -> ImageFaults:
        """What is wrong or odd about the images of a task."""
        return self._seen(read, 0)[2]

    def _seen(self, read: ReadImages, count: int) -> tuple[ReadImages | None, Tensor, ImageFaults]:
        mark = getattr(read, "fingerprint", None)
        key: str | int = mark if isinstance(mark, str) else id(read)
        if key not in self._images:
            embedded, faults = self._cached("images", mark, lambda: self._embed_images(read, count))
            self._images[key] = (None if isinstance(mark, str) else read, embedded, faults)
        return self._images[key]

    def classifier(self, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """`[C, d]` float32: per class the normalised mean of the normalised embeddings of its prompts."""
        key = (tuple(classes), tuple(templates))
        if key not in self._classifiers:

            def compute() -> tuple[Tensor, ImageFaults]:
                prompts = [fill(template, name) for name in classes for template in templates]
                mean = self._texts(prompts).view(len(classes), len(templates), -1).mean(dim=1)
                return functional.normalize(mean, dim=-1), ImageFaults()

            self._classifiers[key] = self._cached("classifier", _digest([*key, self._prompts]), compute)[0]
        return self._classifiers[key]

    def captions(self, captions: Sequence[str]) -> Tensor:
        """`[m, d]` float32."""
        key = tuple(captions)
        if key not in self._captions:
            compute = lambda: (self._texts(captions), ImageFaults())  # noqa: E731
            self._captions[key] = self._cached("captions", _digest([key, self._prompts]), compute)[0]
        return self._captions[key]

    def forget(self) -> None:
        """Drop everything that is remembered in memory; what is on disk stays."""
        self._images.clear()
        self._classifiers.clear()
        self._captions.clear()

    def _cached(
        self, kind: str, mark: str | None, compute: Callable[[], tuple[Tensor, ImageFaults]]
    ) -> tuple[Tensor, ImageFaults]:
        if self._cache is None or not isinstance(mark, str):
            return compute()
        view = self._tower.view
        name = f"{kind}-{mark}-{view.size}-{view.mode}-{view.interpolation}" if kind == "images" else f"{kind}-{mark}"
        known = self._cache.load(name)
        if known is not None:
            return known[0].to(getattr(self._tower, "device", "cpu")), known[1]
        embedded = compute()
        self._cache.save(name, *embedded)
        return embedded

    def _embed_images(self, read: ReadImages, count: int) -> tuple[Tensor, ImageFaults]:
        batches = getattr(read, "batches", None)
        parts: list[Tensor] = []
        done = 0
        stream: Iterable[Tensor]
        if batches is not None:
            stream = _ahead(batches(self._tower.view, self._micro_batch))
        else:
            pixels = read(self._tower.view)
            stream = pixels.split(self._micro_batch) if len(pixels) else ()
        for batch in stream:
            with self._autocast():
                parts.append(self._tower.embed_image(batch))
            done += len(batch)
            self._note("images", done, max(done, count))
        faults = getattr(read, "faults", None)
        return _joined(parts, "image"), faults(self._tower.view) if faults is not None else ImageFaults()

    def _texts(self, texts: Sequence[str]) -> Tensor:
        """Each different text once: equal prompts, and so equal classes, then have equal embeddings to the bit."""
        ready = apply_policy(self._prompts, texts)
        unique = list(dict.fromkeys(ready))
        parts = []
        for at in range(0, len(unique), self._micro_batch):
            with self._autocast():
                parts.append(self._tower.embed_text(unique[at : at + self._micro_batch]))
            self._note("texts", min(len(unique), at + self._micro_batch), len(unique))
        embedded = _joined(parts, "text")
        if len(unique) == len(ready):
            return embedded
        row = {text: i for i, text in enumerate(unique)}
        return embedded[torch.tensor([row[text] for text in ready])]

    def _autocast(self) -> torch.autocast:
        return autocast(getattr(self._tower, "device", torch.device("cpu")), self._precision)


def _joined(parts: Sequence[Tensor], what: str) -> Tensor:
    embedded = torch.cat([part.detach().float() for part in parts]) if parts else torch.zeros(0, 1)
    if not torch.isfinite(embedded).all():
        raise NotFinite(what)
    # Again in float32: rows that were normalised in bfloat16 differ in length enough to change ranks.
    return functional.normalize(embedded, dim=-1)


def _ahead(batches: Iterator[_T]) -> Iterator[_T]:
    """The same items, each made in a thread while the one before it is used."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, batches, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, batches, end)
            yield item  # type: ignore[misc]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


@contextmanager
def evaluation_mode(tower: object) -> Iterator[None]:
    """Put the tower's modules into evaluation mode; afterwards each gets back the mode that it had.

    Module by module, because `train(True)` on the whole would wake parts that are frozen in evaluation mode.
    """
    roots = [tower] if isinstance(tower, nn.Module) else list(getattr(tower, "__dict__", {}).values())
    modules = [module for root in roots if isinstance(root, nn.Module) for module in root.modules()]
    before = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, before, strict=True):
            module.training = mode
