"""Makes side-cars: every sample of some parts of a source through a frozen tower, one file for each part."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from aced.cache.sidecar import Part, SideCarWriter, finite, sidecar_name
from aced.core.embeddings import Embeddings, Scalar
from aced.errors import AcedError
from aced.files.atomic import file_atomic
from aced.files.claims import ClaimState, await_others, claim, release, state
from aced.pool.fetch.fetching import calls_of
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
        """Those of the image tower."""
        ...

    @property
    def text(self) -> int:
        """Those of the text tower."""
        ...


class EmbeddingTower(Protocol):
    """What side-cars need of a tower; `aced.models.Tower` documents each."""

    name: str
    width: int
    context_length: int

    @property
    def device(self) -> torch.device:
        """Where it is."""
        ...

    @property
    def view(self) -> View:
        """How the tower wants to see an image."""
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
        """Those of images alone, `[B, d]`."""
        ...

    def forward_flops(self, texts: Sequence[str]) -> float:
        """FLOPs of a forward pass for each pair, on average."""
        ...

    def flops(self, text_length: int) -> ForwardFlops:
        """FLOPs of a forward pass for each sample, by tower."""
        ...


class EmbedSettings(NamedTuple):
    """How embeddings are made and kept.

    Attributes:
        dtype: `float32`, `float16` or `int8`.
        views: K; the whole image and K - 1 crops of it.
        micro_batch: samples that the tower embeds at a time.
        precision: in which the tower runs; side-cars note it, and serve a run of any.
        workers: processes that read and decode; 0 does so in this one.
    """

    dtype: str = "float16"
    views: int = 1
    micro_batch: int = 256
    workers: int = 0
    precision: Precision = "fp32"


def embed_parts(
    folder: Path,
    source: Source,
    tower: EmbeddingTower,
    parts: Sequence[Part],
    settings: EmbedSettings,
    progress: Progress | None = None,
    *,
    damaged: Collection[Part] = (),
    patient: bool = True,
    lost: Callable[[Part, TarLost], None] | None = None,
) -> Iterator[Part]:
    """Make the side-car of each part, in order, and yield the part once its file is whole.

    Parts that another process has begun are left to it. A run that is killed leaves the side-cars that were whole by
    then, and temporary files of the parts that it had begun.

    Args:
        folder: of the model's side-cars.
        source: what the parts are of.
        tower: the frozen model.
        parts: those to embed.
        settings: how.
        progress: called with (samples done, all samples of the parts).
        damaged: those of `parts` whose side-car is there, but must be made again.
        patient: whether to wait for the other processes at the end, and to make what they do not.
        lost: called with a part whose tar is lost meanwhile, and with what became of it; the part is then left out.
            Without it that is an error.

    Raises:
        AcedError: an embedding is not finite, the disk is full, a tar is lost, or what the source raises.
    """
    identity = tower.identity()  # once: it hashes every weight
    todo = {folder / sidecar_name(part): part for part in parts}
    before = {path: state(path) if part in damaged else None for path, part in todo.items()}
    done, total = 0, sum(map(len, parts))

    def tick(samples: int) -> None:
        nonlocal done
        done += samples
        if progress is not None:
            progress(done, total)

    done_with: set[Part] = set()

    def leave_out(part: Part, what: TarLost) -> None:
        if lost is None:
            raise AcedError(f"{what} Its side-car cannot be made; put the tar back and start again.") from what
        done_with.add(part)
        lost(part, what)

    alone = False
    while todo:
        for part in _embed_unclaimed(source, tower, identity, settings, todo, before, tick, leave_out, alone=alone):
            done_with.add(part)  # whoever gets it may take the file elsewhere
            yield part
        if not patient:
            return
        todo = {path: part for path, part in todo.items() if part not in done_with}
        await_others(list(todo))
        todo, alone = {path: part for path, part in todo.items() if state(path) == before[path]}, True


def _embed_unclaimed(
    source: Source,
    tower: EmbeddingTower,
    identity: Mapping[str, str],
    settings: EmbedSettings,
    todo: Mapping[Path, Part],
    before: Mapping[Path, ClaimState],
    tick: Callable[[int], None],
    lost: Callable[[Part, TarLost], None],
    *,
    alone: bool,
) -> Iterator[Part]:
    """Make the side-cars that no other process has made or is making; with `alone` those too that one is making."""
    views = [tower.view.cropped(crop) for crop in range(settings.views)]
    step = chunk_size(views, settings.micro_batch)
    claimed: deque[tuple[Path, Part, list[range], int]] = deque()
    calls = calls_of(source)

    def spans() -> Iterator[range]:
        for path, part in todo.items():
            if state(path) != before[path] or not claim(path, force=alone):
                continue
            if state(path) != before[path]:  # another one has made it between the two looks
                release(path)
                continue
            own = [range(at, min(part.stop, at + step)) for at in range(part.start, part.stop, step)]
            claimed.append((path, part, own, calls.call(part.start) if calls else 0))
            yield from own

    stack = contextlib.ExitStack()
    # One reader for all parts, so that its workers need not start again for each.
    sizes = [len(part) for part in todo.values()]
    count, longest = sum(-(-size // step) for size in sizes), min(step, max(sizes))
    helped = calls.moved if calls else None
    chunks = read_spans(source, views, spans(), longest=longest, count=count, workers=settings.workers, helped=helped)
    if calls is not None:
        calls.serves(chunks)
        stack.enter_context(calls)
    start = time.perf_counter()
    try:
        for first in chunks:
            path, part, own, call = claimed[0]
            making = _Making(tower, identity, settings, views, start)
            left = zip(own, itertools.chain([first], chunks), strict=False)
            try:
                making.write(path, part, part.keys(source), left, tick)
                made = True
            except TarLost as gone:
                lost(part, gone)
                made = False
                for span, _ in left:  # what was read of it already
                    tick(len(span))
            release(path)
            claimed.popleft()
            if calls is not None:
                calls.done(call)
            if made:
                yield part
            start = time.perf_counter()
    finally:
        stack.close()
        for path, _, _, _ in claimed:
            release(path)


class _Making:
    """What happens to the samples of one part, since `start`."""

    def __init__(
        self,
        tower: EmbeddingTower,
        identity: Mapping[str, str],
        settings: EmbedSettings,
        views: Sequence[View],
        start: float,
    ) -> None:
        self._tower, self._identity, self._settings, self._views = tower, identity, settings, views
        self.start = start
        self.flops = 0.0
        self.faults: Counter[str] = Counter()

    def write(
        self,
        path: Path,
        part: Part,
        keys: Sequence[str],
        chunks: Iterable[tuple[range, Candidates]],
        tick: Callable[[int], None],
    ) -> None:
        """Make the side-car of a part from its samples, a range of positions after the other.

        Raises:
            TarLost: as `add`; nothing is then written.
        """
        tower, settings = self._tower, self._settings
        with file_atomic(path) as temporary:
            file = SideCarWriter(temporary, path, keys, tower.width, settings.views, settings.dtype)
            try:
                for span, candidates in chunks:
                    self.add(candidates, file, part)
                    tick(len(span))
                self.finish(file, part)
            finally:
                file.close()

    def add(self, candidates: Candidates, file: SideCarWriter, part: Part) -> None:
        """Embed some samples and write them.

        Raises:
            TarLost: the tar is lost, and with it the side-car: what it lacks would be taken for faults of the data.
        """
        if gone := next((fault for fault in candidates.faults if fault.name in LOST), None):
            raise TarLost(gone.name, gone.detail)
        tower, micro_batch = self._tower, self._settings.micro_batch
        self.faults.update(fault.name for fault in candidates.faults)
        if not len(candidates):
            return
        with autocast(tower.device, self._settings.precision):
            found = tower.score(candidates, micro_batch)
            others = [tower.score_images(candidates.images[view], micro_batch) for view in self._views[1:]]
        image = [found.image, *others]
        rows = torch.stack([each.float().cpu() for each in image], dim=1)
        text = found.text.float().cpu()
        if not finite(rows, text):
            raise AcedError(f"The tower {tower.name} gives embeddings that are not finite numbers.")
        file.add(candidates.indices - part.start, rows, text)
        self.flops += len(candidates) * tower.forward_flops(candidates.texts)
        if len(self._views) > 1:
            self.flops += len(candidates) * (len(self._views) - 1) * tower.flops(1).image

    def finish(self, file: SideCarWriter, part: Part) -> None:
        """Write the header, which makes the side-car whole."""
        tower = self._tower
        with torch.no_grad():
            scale, bias = map(float, tower.scale_and_bias())
        file.finish(
            tower=tower.name,
            identity=dict(self._identity),
            part=part.name,
            mark=part.mark,
            d=tower.width,
            views=self._settings.views,
            scale=scale,
            bias=bias,
            precision=self._settings.precision,
            faults=dict(self.faults),
            seconds=time.perf_counter() - self.start,
            flops=self.flops,
        )
