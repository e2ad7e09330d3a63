"""Making side-cars: a frozen tower embeds every sample of some parts of a source, one file per part."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from aced.cache.sidecar import Part, SideCarWriter, sidecar_name
from aced.core.embeddings import Embeddings, Scalar
from aced.errors import AcedError
from aced.files.atomic import file_atomic
from aced.files.claims import ClaimState, await_others, claim, release, state
from aced.pool.fetch.fetching import Calls, calls_of
from aced.pool.loader.reading import chunk_size, read_spans
from aced.pool.source import Candidates, Source
from aced.pool.tars.losttars import LOST, TarLost
from aced.pool.views import View
from aced.runtime.counting import Progress
from aced.runtime.precision import Precision, autocast


class ForwardFlops(Protocol):
    """FLOPs of one forward pass for each sample."""

    @property
    def image(self) -> int:
        """FLOPs of the image tower."""
        ...

    @property
    def text(self) -> int:
        """FLOPs of the text tower."""
        ...


class EmbeddingTower(Protocol):
    """The members of a tower that side-cars need; `aced.models.Tower` documents each."""

    name: str
    width: int
    context_length: int

    @property
    def device(self) -> torch.device:
        """Its device."""
        ...

    @property
    def view(self) -> View:
        """How the tower sees an image."""
        ...

    def identity(self) -> dict[str, str]:
        """Hashes of weights, preprocessing, tokenizer and architecture, and of all four as `tower`."""
        ...

    def scale_and_bias(self) -> tuple[Scalar, Scalar]:
        """Logit scale and bias."""
        ...

    def score(self, candidates: Candidates, micro_batch: int) -> Embeddings:
        """The embeddings of all candidates, without gradients."""
        ...

    def score_images(self, images: Tensor, micro_batch: int) -> Tensor:
        """The embeddings of images alone, `[B, d]`."""
        ...

    def forward_flops(self, texts: Sequence[str]) -> float:
        """FLOPs of a forward pass for each pair, on average."""
        ...

    def flops(self, text_length: int) -> ForwardFlops:
        """FLOPs of a forward pass for each sample, by tower."""
        ...


class EmbedSettings(NamedTuple):
    """How embeddings are made and stored.

    Attributes:
        dtype: `float32`, `float16` or `int8`.
        views: K; the whole image and K - 1 crops of it.
        micro_batch: samples per forward pass.
        precision: in which the tower runs; side-cars record it, and serve runs in any.
        workers: processes that read and decode; 0 decodes in this one.
    """

    dtype: str = "float16"
    views: int = 1
    micro_batch: int = 256
    workers: int = 0
    precision: Precision = "fp32"


class PartEmbedder:
    """Makes side-cars of a source's parts with a frozen model.

    Args:
        folder: of the model's side-cars.
        source: the source of the parts.
        tower: the frozen model.
        settings: how embeddings are made.
        progress: called with (samples done, all samples of the parts).
        lost: called with a part whose tar was lost meanwhile, and the fault; the part is then left out. Without it that
            is an error.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        tower: EmbeddingTower,
        settings: EmbedSettings,
        progress: Progress | None = None,
        lost: Callable[[Part, TarLost], None] | None = None,
    ) -> None:
        self._folder, self._source, self._tower, self._settings = folder, source, tower, settings
        self._identity = tower.identity()  # once: it hashes every weight
        self._views = [tower.view.cropped(crop) for crop in range(settings.views)]
        self._progress, self._lost = progress, lost
        self._done = self._total = 0

    def make(self, parts: Sequence[Part], damaged: Collection[Part] = (), *, patient: bool = True) -> Iterator[Part]:
        """Make the side-car of each part, in order, and yield the part once its file is whole.

        Parts that another process has begun are left out. A run that is killed leaves the side-cars that were complete
        by then, and temporary files of the parts that it had begun.

        Args:
            parts: those to embed.
            damaged: those of them whose side-car exists but must be made again.
            patient: whether to wait for the other processes at the end, and to make what they leave unfinished.

        Raises:
            AcedError: an embedding is not finite, the disk is full, a tar is lost, or as the source raises.
        """
        self._done, self._total = 0, sum(map(len, parts))
        todo = [_Wanted.of(part, self._folder, there=part in damaged) for part in parts]
        alone = False
        while todo:
            done_with: set[Part] = set()
            for wanted, made in self._make_unclaimed(todo, alone=alone):
                done_with.add(wanted.part)  # the caller may move the file elsewhere
                if made:
                    yield wanted.part
            if not patient:
                return
            todo = [wanted for wanted in todo if wanted.part not in done_with]
            await_others([wanted.path for wanted in todo])
            todo, alone = [wanted for wanted in todo if not wanted.is_made()], True

    def _make_unclaimed(self, todo: Sequence[_Wanted], *, alone: bool) -> Iterator[tuple[_Wanted, bool]]:
        """Make what no other process has made or is making; with `alone` also what another one is making.

        Yields:
            What was claimed, and whether it was made; if not, its tar is lost.
        """
        step = chunk_size(self._views, self._settings.micro_batch)
        claimed: deque[tuple[_Wanted, list[range], int]] = deque()
        calls = calls_of(self._source)

        def spans() -> Iterator[range]:
            for wanted in todo:
                if wanted.claimed(force=alone):
                    own = wanted.spans(step)
                    claimed.append((wanted, own, calls.call(wanted.part.start) if calls else 0))
                    yield from own

        def release_all() -> None:
            for wanted, _, _ in claimed:
                release(wanted.path)

        chunks = self._read(spans(), [len(wanted.part) for wanted in todo], step, calls)
        with contextlib.ExitStack() as stack:
            stack.callback(release_all)
            if calls is not None:
                calls.serves(chunks)
                stack.enter_context(calls)
            start = time.perf_counter()
            for first in chunks:
                wanted, own, call = claimed[0]
                made = self._made(wanted, zip(own, itertools.chain([first], chunks), strict=False), start)
                release(wanted.path)
                claimed.popleft()
                if calls is not None:
                    calls.done(call)
                yield wanted, made
                start = time.perf_counter()

    def _read(
        self, spans: Iterator[range], sizes: Sequence[int], step: int, calls: Calls | None
    ) -> Iterator[Candidates]:
        """The samples of some spans; one reader for all parts, so that its workers start only once."""
        count, longest = sum(-(-size // step) for size in sizes), min(step, max(sizes))
        workers, helped = self._settings.workers, calls.moved if calls else None
        return read_spans(
            self._source, self._views, spans, longest=longest, count=count, workers=workers, helped=helped
        )

    def _made(self, wanted: _Wanted, chunks: Iterator[tuple[range, Candidates]], start: float) -> bool:
        """Make the side-car of a part's samples, begun at `start`; False if its tar is lost."""
        part = wanted.part
        making = _Making(self._tower, self._identity, self._settings, self._views, start)
        try:
            making.write(wanted.path, part, part.keys(self._source), self._ticked(chunks))
        except TarLost as gone:
            if self._lost is None:
                raise AcedError(f"{gone} Its side-car cannot be made; restore the tar and start again.") from gone
            self._lost(part, gone)
            for _ in self._ticked(chunks):  # already read
                pass
            return False
        return True

    def _ticked(self, chunks: Iterator[tuple[range, Candidates]]) -> Iterator[Candidates]:
        """The samples, counted when the next ones are requested."""
        for span, candidates in chunks:
            yield candidates
            self._done += len(span)
            if self._progress is not None:
                self._progress(self._done, self._total)


class _Wanted(NamedTuple):
    """A side-car to make.

    Attributes:
        part: its part.
        path: its place.
        before: the state of an unwanted file that exists there.
    """

    part: Part
    path: Path
    before: ClaimState

    @classmethod
    def of(cls, part: Part, folder: Path, *, there: bool) -> _Wanted:
        """The entry for a part; with `there` the existing file is damaged."""
        path = folder / sidecar_name(part)
        return cls(part, path, state(path) if there else None)

    def is_made(self) -> bool:
        """Whether another process has made it meanwhile."""
        return state(self.path) != self.before

    def claimed(self, *, force: bool) -> bool:
        """Claim it for this process, unless it is made or (without `force`) being made."""
        if self.is_made() or not claim(self.path, force=force):
            return False
        if self.is_made():  # by another process, between the two checks
            release(self.path)
            return False
        return True

    def spans(self, step: int) -> list[range]:
        """The positions of its samples in the source, at most `step` at a time."""
        part = self.part
        return [range(at, min(part.stop, at + step)) for at in range(part.start, part.stop, step)]


@dataclass
class _Making:
    """What happens to the samples of one part, since `start`."""

    tower: EmbeddingTower
    identity: dict[str, str]
    settings: EmbedSettings
    views: Sequence[View]
    start: float
    flops: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    def write(self, path: Path, part: Part, keys: Sequence[str], chunks: Iterable[Candidates]) -> None:
        """Make the side-car of a part from its samples, one range of positions after the other.

        Raises:
            TarLost: as `add`; nothing is then written.
        """
        width, settings = self.tower.width, self.settings
        with (
            file_atomic(path) as temporary,
            contextlib.closing(SideCarWriter(temporary, path, keys, width, settings.views, settings.dtype)) as file,
        ):
            for candidates in chunks:
                self.add(candidates, file, part)
            self.finish(file, part)

    def add(self, candidates: Candidates, file: SideCarWriter, part: Part) -> None:
        """Embed some samples and write them.

        Raises:
            TarLost: the tar is lost, and with it the side-car: missing samples would look like faults of the data.
        """
        if gone := next((fault for fault in candidates.faults if fault.name in LOST), None):
            raise TarLost(gone.name, gone.detail)
        tower, micro_batch = self.tower, self.settings.micro_batch
        self.faults.update(fault.name for fault in candidates.faults)
        if not len(candidates):
            return
        with autocast(tower.device, self.settings.precision):
            found = tower.score(candidates, micro_batch)
            others = [tower.score_images(candidates.images[view], micro_batch) for view in self.views[1:]]
        image = [found.image, *others]
        rows = torch.stack([each.float().cpu() for each in image], dim=1)
        text = found.text.float().cpu()
        if not (torch.isfinite(rows).all() and torch.isfinite(text).all()):
            raise AcedError(f"The tower {tower.name} returns embeddings that are not finite numbers.")
        file.add(candidates.indices - part.start, rows, text)
        self.flops += len(candidates) * tower.forward_flops(candidates.texts)
        if len(self.views) > 1:
            self.flops += len(candidates) * (len(self.views) - 1) * tower.flops(1).image

    def finish(self, file: SideCarWriter, part: Part) -> None:
        """Write the header, which completes the side-car."""
        tower = self.tower
        with torch.no_grad():
            scale, bias = map(float, tower.scale_and_bias())
        file.finish(
            tower=tower.name,
            identity=self.identity,
            part=part.name,
            mark=part.mark,
            d=tower.width,
            views=self.settings.views,
            scale=scale,
            bias=bias,
            precision=self.settings.precision,
            faults=dict(self.faults),
            seconds=time.perf_counter() - self.start,
            flops=self.flops,
        )
