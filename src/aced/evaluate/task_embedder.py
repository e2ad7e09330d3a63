"""Embeddings of a task's images and texts, each computed once and optionally stored on disk."""

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

from aced.evaluate.embedding_cache import EmbeddingCache
from aced.evaluate.image_faults import ImageFaults
from aced.evaluate.prompts import Policy, apply_policy, prompts_of
from aced.evaluate.tasks import ReadImages
from aced.pool.loader.loading import Loading
from aced.pool.views import View
from aced.runtime.precision import Precision, autocast

ImageCount = Callable[[str, int, int], None]
"""Called with progress within a task: the activity, the amount done, the total."""

_T = TypeVar("_T")


class EvaluatedTower(Protocol):
    """The part of a tower that evaluation needs."""

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
    """Embeddings with infinities or NaN; the message names the kind."""


class TaskEmbedder:
    """Embeds each set of images and texts once, however many tasks use it.

    Embeddings computed elsewhere, in other processes, can be supplied; they are requested in the same way.

    Args:
        tower: the model.
        micro_batch: images or texts per forward pass.
        prompts: treatment of texts before tokenisation.
        precision: of the model; scores are float32 in any case.
        cache: stores embeddings of images with a fingerprint, and text classifiers, between runs.
        loading: how images are decoded.
        note: receives progress.
    """

    def __init__(
        self,
        tower: EvaluatedTower,
        micro_batch: int = 256,
        *,
        prompts: Policy = "clip",
        precision: Precision = "fp32",
        cache: EmbeddingCache | None = None,
        loading: Loading = Loading(),
        note: ImageCount | None = None,
    ) -> None:
        self._tower = tower
        self._micro_batch = micro_batch
        self._prompts: Policy = prompts
        self._precision = precision
        self._cache = cache
        self._loading = loading
        self.note = note or (lambda what, done, total: None)
        # A callable without a fingerprint is kept with its embeddings: after collection its id could be reused.
        self._images: dict[str | int, tuple[ReadImages | None, Tensor, ImageFaults]] = {}
        self._classifiers: dict[tuple[tuple[str, ...], tuple[str, ...]], Tensor] = {}
        self._captions: dict[tuple[str, ...], Tensor] = {}
        self._given_images: dict[int, tuple[ReadImages, Callable[[], tuple[Tensor, ImageFaults]]]] = {}
        self._given_texts: dict[tuple[str, ...], Callable[[], Tensor]] = {}

    @property
    def device(self) -> torch.device:
        """Where embeddings lie."""
        return getattr(self._tower, "device", torch.device("cpu"))

    def images(self, read: ReadImages, count: int | None = None) -> Tensor:
        """All images of a task, `[n, d]` float32; `count` is their number if known, for the progress.

        Images that `faults` calls lost are included, with meaningless rows.
        """
        return self._seen(read, count or 0)[1]

    def faults(self, read: ReadImages) -> ImageFaults:
        """The faults and remarks on a task's images."""
        return self._seen(read, 0)[2]

    def classifier(self, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """`[C, d]` float32: per class the normalised mean of the normalised embeddings of its prompts."""
        key = (tuple(classes), tuple(templates))
        if key not in self._classifiers:

            def compute() -> tuple[Tensor, ImageFaults]:
                mean = self._texts(prompts_of(classes, templates)).view(len(classes), len(templates), -1).mean(dim=1)
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
        """Drop everything remembered in memory; files on disk stay."""
        for remembered in (self._images, self._classifiers, self._captions, self._given_images, self._given_texts):
            remembered.clear()

    # -- parts, which several processes can make -------------------------------------------------------------------

    def micro_batches(self, count: int) -> list[range]:
        """The positions of each micro-batch of images or texts."""
        return [range(at, min(count, at + self._micro_batch)) for at in range(0, count, self._micro_batch)]

    def different(self, texts: Sequence[str]) -> list[str]:
        """The texts as the tower receives them, without repeats: equal prompts then have bit-identical embeddings."""
        return list(dict.fromkeys(apply_policy(self._prompts, texts)))

    def image_rows(
        self, read: ReadImages, spans: Sequence[range] | None = None, count: int = 0
    ) -> tuple[Tensor, ImageFaults]:
        """The tower's embeddings of some or all micro-batches of a task's images, `[m, d]` float32, and their faults.

        Only images that can be read in `parts` can be embedded in parts.
        """
        view, rows, done, found = self._tower.view, list[Tensor](), 0, list[ImageFaults]()
        stream: Iterable[tuple[Tensor, ImageFaults]]
        if hasattr(read, "parts"):
            spans = self.micro_batches(len(read)) if spans is None else spans  # type: ignore[arg-type]
            # Embeddings cached on the disk are not computed again.
            stream = read.parts(view, spans, self._loading, keep=self._cache is None)
            # Processes read ahead themselves, and waiting for them must happen in the main thread.
            stream = stream if self._loading.workers else _ahead(iter(stream))
            count = sum(map(len, spans))
        else:
            pixels = read(view)
            stream = ((pixels[span.start : span.stop], ImageFaults()) for span in self.micro_batches(len(pixels)))
        for batch, faults in stream:
            with self._autocast():
                rows.append(self._tower.embed_image(batch).detach().float())
            found.append(faults)
            done += len(batch)
            self.note("images", done, max(done, count))
        return _joined(rows), ImageFaults.joined(found)

    def text_rows(self, texts: Sequence[str], spans: Sequence[range] | None = None) -> Tensor:
        """The tower's embeddings of some micro-batches of `different` texts, or of all, `[m, d]` float32."""
        spans = self.micro_batches(len(texts)) if spans is None else spans
        rows, done, count = list[Tensor](), 0, sum(map(len, spans))
        for span in spans:
            with self._autocast():
                rows.append(self._tower.embed_text(list(texts[span.start : span.stop])).detach().float())
            done += len(span)
            self.note("texts", done, count)
        return _joined(rows)

    def give_images(self, read: ReadImages, give: Callable[[], tuple[Tensor, ImageFaults]]) -> None:
        """Let `give` supply all `image_rows`; it may raise the reason for their absence."""
        self._given_images[id(read)] = read, give

    def give_texts(self, texts: Sequence[str], give: Callable[[], Tensor]) -> None:
        """Let `give` supply all `text_rows` of `different` texts; it may raise."""
        self._given_texts[tuple(texts)] = give

    # -- one after the other ---------------------------------------------------------------------------------------

    def _seen(self, read: ReadImages, count: int) -> tuple[ReadImages | None, Tensor, ImageFaults]:
        given = self._given_images.get(id(read))
        # A fingerprint may cover all pixels.
        mark = None if given else getattr(read, "fingerprint", None)
        key: str | int = mark if isinstance(mark, str) else id(read)
        if key not in self._images:
            compute = given[1] if given else lambda: self.image_rows(read, count=count)
            embedded, faults = self._cached("images", mark, lambda: _finished(*compute(), what="image"))
            self._images[key] = (None if isinstance(mark, str) else read, embedded, faults)
        return self._images[key]

    def _cached(
        self, kind: str, mark: str | None, compute: Callable[[], tuple[Tensor, ImageFaults]]
    ) -> tuple[Tensor, ImageFaults]:
        if self._cache is None or not isinstance(mark, str):
            return compute()
        if kind == "images":
            view = self._tower.view
            mark = f"{mark} {view.size} {view.mode} {view.interpolation}"
        known = self._cache.load(kind, mark)
        if known is not None:
            return known[0].to(self.device), known[1]
        embedded = compute()
        self._cache.save(kind, mark, *embedded)
        return embedded

    def _texts(self, texts: Sequence[str]) -> Tensor:
        ready = apply_policy(self._prompts, texts)
        unique = list(dict.fromkeys(ready))  # as `different` returns them
        given = self._given_texts.get(tuple(unique))
        embedded, _ = _finished(given() if given else self.text_rows(unique), ImageFaults(), what="text")
        if len(unique) == len(ready):
            return embedded
        row = {text: i for i, text in enumerate(unique)}
        return embedded[torch.tensor([row[text] for text in ready])]

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self._precision)


def _joined(rows: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(rows)) if rows else torch.zeros(0, 1)


def _finished(rows: Tensor, faults: ImageFaults, what: str) -> tuple[Tensor, ImageFaults]:
    if not torch.isfinite(rows).all():
        raise NotFinite(what)
    # Again in float32: rows normalised in bfloat16 differ enough in length to change ranks.
    return functional.normalize(rows, dim=-1), faults


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items, each made in a thread while the previous one is used."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


@contextmanager
def evaluation_mode(tower: object) -> Iterator[None]:
    """Put the tower's modules into evaluation mode, and restore each module's own mode afterwards.

    Module by module, because `train(True)` on the whole would also affect parts frozen in evaluation mode.
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
