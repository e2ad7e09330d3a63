"""Small runs for the tests of training: a pool of captions of one length, configs, trainers, and tars."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from aced.config import Config, make_config
from aced.lab.scenes import Scenes, make_pool
from aced.methods import METHODS
from aced.models import load_tower
from aced.pool.source import Candidates, Fault
from aced.pool.views import View
from aced.runtime.progress import Bars
from aced.train.providers import Live, Provider
from aced.train.run.fit import make_trainer
from aced.train.run.inputs import Inputs, make_cached
from aced.train.run.loop import batches_of
from aced.train.run.student import make_student
from aced.train.step import Outcome, Trainer, train_step

POOL, BATCH, SUPER = 400, 16, 80
"""Samples, b and B: five steps of a method that chooses are an epoch."""


def quiet() -> Bars:
    """Bars that nobody sees."""
    return Bars(Console(quiet=True))


def even_pool() -> Scenes:
    """A pool whose captions all have the same number of tokens, so that every pair costs the same."""
    pool = make_pool(POOL, 1)
    colours, shapes = ("red", "green", "blue", "white"), ("circle", "square", "star")
    captions = [f"a {colours[i % 4]} {shapes[i % 3]}" for i in range(POOL)]
    return replace(pool, captions=captions)


@dataclass(frozen=True, eq=False)
class Holes(Scenes):
    """A pool of which every `every`-th sample cannot be read."""

    every: int = 0

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        bad = [i for i in indices if i % self.every == 0]
        good = super().read([i for i in indices if i % self.every], views)
        return replace(good, faults=tuple(Fault(self.keys[i], "image_empty", f"{self.keys[i]}: empty.") for i in bad))


def with_holes(pool: Scenes, every: int) -> Holes:
    """The pool with every `every`-th sample unreadable."""
    return Holes(**{name: getattr(pool, name) for name in Scenes.__dataclass_fields__}, every=every)


def run_config(out: Path, method: str = "iid", trained: dict[str, Path] | None = None, **keys: Any) -> Config:
    """A tiny run; `keys` as section__key, and the reference that the method needs from `trained`."""
    values: dict[str, dict[str, Any]] = {
        "run": {"out": str(out), "threads": 1, "log_every": 2, "checkpoint_every": 0},
        "data": {"scenes_size": POOL},
        "method": {"name": method, "chunks": 4},
        "train": {"batch": BATCH, "steps": 3, "lr": 1.5e-3},
    }
    if trained is not None:
        values["reference"] = {"model": str(trained["peer" if METHODS[method].needs_peer else "large"])}
    for name, value in keys.items():
        section, _, key = name.partition("__")
        values.setdefault(section, {})[key] = value
    return make_config(values)


def provider_of(config: Config, source: Scenes, cache: Path | None) -> Provider:
    """The config's reference, live or from a cache."""
    tower = load_tower(config.reference.model).eval()
    if cache is None:
        return Live(tower, config.train.micro_batch)
    return make_cached(tower, source, cache, config, tower.device, quiet())


def inputs_of(config: Config, source: Scenes, cache: Path | None = None) -> Inputs:
    """Inputs without tasks, whose scores take longer than such a run."""
    method = METHODS[config.method.name]
    if not (method.needs_large or method.needs_peer):
        return Inputs(source, [])
    provider = provider_of(config, source, cache)
    return Inputs(
        source, [], provider if method.uses_reference else None, [provider] if method.distill is not None else []
    )


def trainer_of(config: Config, source: Scenes, cache: Path | None = None) -> Trainer:
    """A trainer with a new student."""
    return make_trainer(config, inputs_of(config, source, cache), make_student(config))


def take(trainer: Trainer, config: Config, source: Scenes, steps: int) -> list[Outcome]:
    """So many steps from where the trainer is."""
    batches = batches_of(trainer, source, config, range(trainer.step, trainer.step + steps))
    return [train_step(trainer, batches) for _ in range(steps)]


def stopping_at(step: int) -> Bars:
    """Bars that interrupt a run as Ctrl-C would, once it has taken so many steps."""

    class Stopping(Bars):
        def bar(self, description: str, total: float) -> Any:
            inner = super().bar(description, total)

            class Bar:
                def __enter__(self) -> Callable[..., None]:
                    tick = inner.__enter__()

                    def stop(done: float, note: str = "") -> None:
                        tick(done, note)
                        if done == step:
                            raise KeyboardInterrupt

                    return stop

                def __exit__(self, *error: Any) -> Any:
                    return inner.__exit__(*error)

            return Bar()

    return Stopping(Console(quiet=True))


# -- tars --------------------------------------------------------------------------------------------------------------


def picture(number: int, form: str = "PNG") -> bytes:
    """A small image file whose pixels depend on `number`."""
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def write_pairs(
    path: Path,
    numbers: Iterable[int],
    bad: Sequence[int] = (),
    uncaptioned: Sequence[int] = (),
    captions: Sequence[str] = (),
) -> Path:
    """A tar of pairs; the images of `bad` are none, `uncaptioned` have no caption, and `captions` are by number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            members = {
                "png": b"this is no image" if number in bad else picture(number),
                "txt": (captions[number] if captions else f"caption {number}").encode(),
                "json": json.dumps({"kind": "clean"}).encode(),
            }
            if number in uncaptioned:
                del members["txt"]
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{number:05d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a `.jsonl` file without what the clock said."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None)
        line.pop("clock", None)
        line["budgets"].pop("seconds")
    return lines


class Make:
    """Makes configs and trainers of one pool and cache."""

    def __init__(self, pool: Scenes, cache: Path, trained: dict[str, Path], out: Path) -> None:
        self.pool, self.cache, self.trained, self.out = pool, cache, trained, out

    def config(self, method: str = "aced", **scoring: Any) -> Config:
        keys = {name if "__" in name else f"scoring__{name}": value for name, value in scoring.items()}
        return run_config(self.out, method, self.trained, **keys)

    def trainer(self, config: Config, source: Scenes | None = None) -> Trainer:
        return trainer_of(config, source or self.pool, self.cache)

    def steps(self, count: int, method: str = "aced", **scoring: Any) -> tuple[list[Outcome], Trainer]:
        config = self.config(method, **scoring)
        trainer = self.trainer(config)
        return take(trainer, config, self.pool, count), trainer


def positions(outcome: Outcome) -> list[int]:
    """The chosen samples, in drawing order."""
    return outcome.candidates[outcome.rows].tolist()
