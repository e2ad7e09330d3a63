"""Evaluation during a run: every process embeds its part of the tasks' images and texts, and the first one scores.

Parts are whole micro-batches, the same as in one process, so every number is the same too. If a task fails in one
process, it has failed for that reason. Work that cannot be shared, such as a task whose files differ between machines,
is done by the first process alone when it scores.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aced.errors import AcedError, reason_of
from aced.evaluate.asked import texts_of
from aced.evaluate.image_faults import ImageFaults
from aced.evaluate.task_embedder import TaskEmbedder, evaluation_mode
from aced.evaluate.tasks import Task
from aced.evaluate.unreadable import without_lost
from aced.models import Tower
from aced.models.modes import running_statistics
from aced.pool.loader.loading import Loading
from aced.runtime.precision import Precision
from aced.train.distributed import World

Cutting = Callable[[Callable[[], object]], bool]
"""Does some work unless a signal interrupts it; returns whether it was done."""


def to_the_end(work: Callable[[], object]) -> bool:
    """Work that no signal interrupts, except by ending the program."""
    work()
    return True


def embed_together(
    world: World,
    student: Tower,
    tasks: Sequence[Task],
    *,
    micro_batch: int,
    precision: Precision,
    loading: Loading,
    step: int,
    cutting: Cutting = to_the_end,
) -> TaskEmbedder | None:
    """An embedder of `student` that, in the first process, already holds what the tasks need.

    In a single process it holds nothing yet, and embeds on demand.

    Args:
        world: the processes; each makes this call with the whole student.
        student: the model.
        tasks: the evaluation tasks.
        micro_batch: images or texts per forward pass.
        precision: of the model.
        loading: how images are decoded, in each process.
        step: of the run; no step is evaluated twice.
        cutting: may interrupt the work of this process, and with it that of all.

    Returns:
        None, in every process, if one was interrupted.
    """
    embedder = TaskEmbedder(student, micro_batch, precision=precision, loading=loading)
    if world.size == 1:
        return embedder
    shared = _Shared(world, embedder, f"evaluation of step {step} is cut short", cutting)
    embedder.note = shared.look
    with torch.no_grad(), evaluation_mode(student), _statistics_of_the_first(student.model, world):
        made = shared.make(_image_works(embedder, tasks)) and shared.make(_text_works(embedder, tasks, shared.images))
    embedder.note = lambda *_: None
    return embedder if made else None


Made = tuple[Tensor, ImageFaults]
"""Rows of embeddings, `[m, d]`, as the model returns them, and the faults of their images."""


class _Work(Protocol):
    """A piece of work: something to embed.

    Attributes:
        name: unique, and the same in every process.
        mark: must also be the same in every process.
        parts: the micro-batches that can be computed separately, by their positions.
    """

    name: str
    mark: str
    parts: Sequence[range]

    def embed(self, parts: Sequence[range]) -> Made:
        """Compute some of the micro-batches."""

    def give(self, made: Callable[[], Made]) -> None:
        """Accept the results of all, or the error that explains their absence."""


class _ImageWork:
    """The images of a task; images that cannot be read in parts are left to one process."""

    def __init__(self, embedder: TaskEmbedder, task: Task) -> None:
        self._embedder, self._read, self._apart = embedder, task.images, hasattr(task.images, "parts")
        self.name, self.mark = task.name, str(getattr(task.images, "structure", ""))
        count = len(task.images) if self._apart else 0  # type: ignore[arg-type]
        self.parts: Sequence[range] = embedder.micro_batches(count) if self._apart else [range(1)]

    def embed(self, parts: Sequence[range]) -> Made:
        return self._embedder.image_rows(self._read, parts if self._apart else None)

    def give(self, made: Callable[[], Made]) -> None:
        self._embedder.give_images(self._read, made)


class _TextWork:
    """Different texts."""

    def __init__(self, embedder: TaskEmbedder, texts: Sequence[str]) -> None:
        self._embedder, self._texts = embedder, texts
        self.name, self.mark = hashlib.sha256(json.dumps(texts).encode()).hexdigest(), ""
        self.parts: Sequence[range] = embedder.micro_batches(len(texts))

    def embed(self, parts: Sequence[range]) -> Made:
        return self._embedder.text_rows(self._texts, parts), ImageFaults()

    def give(self, made: Callable[[], Made]) -> None:
        self._embedder.give_texts(self._texts, lambda: made()[0])


@dataclass
class _Images:
    """Every process's knowledge of a task's embedded images."""

    count: int
    faults: ImageFaults


class _CutShort(Exception):
    """Another process was interrupted."""


class _Shared:
    """Work shared by the processes.

    Attributes:
        images: facts about the successful works, by name.
    """

    def __init__(self, world: World, embedder: TaskEmbedder, word: str, cutting: Cutting) -> None:
        self._world, self._embedder, self._word, self._cutting = world, embedder, word, cutting
        self.images: dict[str, _Images] = {}

    def make(self, works: Sequence[_Work]) -> bool:
        """Do all works together; False, in every process, if a signal interrupted one."""
        self._world.meet()
        works = self._known_to_all(works)
        takers = dealt([len(part) for work in works for part in work.parts], self._world.size)
        own: list[Made | str | None] = []
        try:
            done = self._cutting(lambda: own.extend(self._own(works, takers)))
        except _CutShort:
            done = False
        if not done:
            self._world.leave(self._word)
        self._world.meet()  # the others may take longer than the exchanges' limit
        told = self._world.everyones([_facts(made) for made in own] if done else None)
        if None in told:
            return False
        for number, (work, made) in enumerate(zip(works, own, strict=True)):
            self._collect(work, made, [facts[number] for facts in told])
        return True

    def _known_to_all(self, works: Sequence[_Work]) -> list[_Work]:
        """The works that are the same in all processes, in the order of the first."""
        marks = self._world.everyones([[work.name, work.mark] for work in works])
        known = set.intersection(*({(name, mark) for name, mark in found} for found in marks))
        mine = {work.name: work for work in works}
        return [mine[name] for name, mark in marks[0] if (name, mark) in known]

    def _own(self, works: Sequence[_Work], takers: list[int]) -> Iterator[Made | str | None]:
        """This process's result for each work, or why it failed; None if it has no part of it."""
        rest = iter(takers)
        for work in works:
            of_work = zip(work.parts, islice(rest, len(work.parts)), strict=True)
            mine = [part for part, taker in of_work if taker == self._world.rank]
            self.look()
            try:
                yield work.embed(mine) if mine else None
            except _CutShort:
                raise
            except Exception as error:
                yield reason_of(error)

    def look(self, *_: object) -> None:
        """Stop if another process was interrupted."""
        if self._world.finds(self._word):
            raise _CutShort

    def _collect(self, work: _Work, made: Made | str | None, told: Sequence[dict[str, Any] | str | None]) -> None:
        """Combine the parts of a work in the first process; every other one learns of errors."""
        for reason in told:
            if isinstance(reason, str):
                work.give(_raising(reason))
                return
        parts = [facts for facts in told if isinstance(facts, dict)]
        if not parts:
            return
        faults = ImageFaults.joined(
            ImageFaults.from_json({int(place): name for place, name in facts["lost"].items()}, facts) for facts in parts
        )
        counts = [facts["rows"] if isinstance(facts, dict) else 0 for facts in told]
        nothing = torch.empty(0, parts[0]["width"], device=self._embedder.device)
        rows = self._world.gather(made[0] if isinstance(made, tuple) else nothing, counts)
        self.images[work.name] = _Images(len(rows), faults)
        if self._world.first:
            work.give(lambda: (rows, faults))


def _raising(reason: str) -> Callable[[], Made]:
    def give() -> Made:
        raise AcedError(reason)

    return give


def _facts(made: Made | str | None) -> dict[str, Any] | str | None:
    """What all processes learn about one's results."""
    if not isinstance(made, tuple):
        return made
    rows, faults = made
    return {"rows": len(rows), "width": rows.shape[1], "lost": dict(faults.lost), **faults.as_json()}


def dealt(sizes: Sequence[int], ranks: int) -> list[int]:
    """The process for each part: consecutive parts, with about equal work for all.

    >>> dealt([4, 4, 4, 1], 2)
    [0, 0, 1, 1]
    """
    total, before, takers = max(1, sum(sizes)), 0, []
    for size in sizes:
        takers.append(min(ranks - 1, (2 * before + size) * ranks // (2 * total)))
        before += size
    return takers


def _image_works(embedder: TaskEmbedder, tasks: Sequence[Task]) -> list[_ImageWork]:
    """The images of all tasks; images shared by several tasks occur once."""
    first = {id(task.images): task for task in reversed(tasks)}
    return [_ImageWork(embedder, task) for task in tasks if first[id(task.images)] is task]


def _text_works(embedder: TaskEmbedder, tasks: Sequence[Task], images: dict[str, _Images]) -> list[_TextWork]:
    """The texts of all tasks whose images are embedded, each list once."""
    works: dict[str, _TextWork] = {}
    names = {id(task.images): task.name for task in reversed(tasks)}
    for task in tasks:
        seen = images.get(names[id(task.images)])
        if seen is None:
            continue
        try:
            lists = texts_of(without_lost(task, torch.empty(seen.count, 0), seen.faults)[0])
            found = [_TextWork(embedder, embedder.different(texts)) for texts in lists]
        except Exception:  # any error is reported when the task is scored
            continue
        works |= {work.name: work for work in found}
    return list(works.values())


@contextlib.contextmanager
def _statistics_of_the_first(model: nn.Module, world: World) -> Iterator[None]:
    """Use the first process's running statistics of a model inside, if each process has its own."""
    own = [buffer for buffer in running_statistics(model) if buffer.is_floating_point()]
    if not own:
        yield
        return
    before = [buffer.clone() for buffer in own]
    flat = torch.cat([buffer.reshape(-1) for buffer in own])[None]
    (first,) = world.gather(flat[: int(world.first)], [1] + [0] * (world.size - 1))
    try:
        for buffer, part in zip(own, first.split([buffer.numel() for buffer in own]), strict=True):
            buffer.copy_(part.view_as(buffer))
        yield
    finally:
        for buffer, values in zip(own, before, strict=True):
            buffer.copy_(values)
