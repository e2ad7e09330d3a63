"""The references of a demo: the packaged one or one trained now, each with its embeddings of the pool."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from aced.config import Config
from aced.evaluate.tasks import Task
from aced.evaluate.zeroshot import Scores, score_all, scores_json
from aced.lab.demo.packaged_reference import Training, keep_reference, load_kept
from aced.lab.demo.rows import REFERENCE, REFERENCE_COST, STUDENT, Scale, reference_config
from aced.lab.scenes.scene_pool import make_scenes
from aced.models import Tower, save_tower
from aced.pool.source import Source
from aced.runs.environment import environment
from aced.runtime.progress import Bars
from aced.train.providers import Cached
from aced.train.run.fit import fit
from aced.train.run.inputs import Inputs, make_cached
from aced.train.run.student import make_student


@dataclass
class TrainedReference:
    """A reference's model and scores, and the cost of its training.

    Attributes:
        tower: the model.
        scores: on the demo's tasks.
        seconds: of training: by the clock if it was trained now, otherwise processor time.
        flops: of training.
        machine: where it was trained, if not here and now.
    """

    tower: Tower
    scores: Scores
    seconds: float
    flops: float
    machine: str | None = None


@dataclass
class Reference:
    """A trained reference with its embeddings of the pool, and the cost of these."""

    trained: TrainedReference
    provider: Cached
    embed_seconds: float
    embed_flops: float

    def as_json(self) -> dict[str, Any]:
        """`reference` of results.json."""
        machine = {"trained_on": self.trained.machine} if self.trained.machine else {}
        return {
            **scores_json(self.trained.scores),
            "train_seconds": self.trained.seconds,
            "embed_seconds": self.embed_seconds,
            "train_flops": self.trained.flops,
            "embed_flops": self.embed_flops,
            **machine,
        }


@dataclass(frozen=True)
class DemoSetup:
    """What all models of a demo share.

    Attributes:
        out: folder of the demo.
        scale: sizes and lengths.
        split: of the tasks.
        device: where models run.
        bars: shows progress.
        tasks: tasks that models are scored on.
        pool: pool that students learn from.
    """

    out: Path
    scale: Scale
    split: str
    device: torch.device
    bars: Bars
    tasks: list[Task]
    pool: Source


@dataclass
class References:
    """Makes each reference of a demo on first use, and keeps it.

    Attributes:
        setup: the demo's.
        anew: whether to train the large reference instead of using the packaged one.
        keep: folder to keep the large reference in after its training; None for none.
        made: the references so far, by architecture.
    """

    setup: DemoSetup
    anew: bool = False
    keep: Path | None = None
    made: dict[str, Reference] = field(default_factory=dict)

    def trains(self, model: str) -> bool:
        """Whether the reference of an architecture is trained by this demo."""
        return self.anew or model != REFERENCE

    def work(self, model: str) -> float:
        """Approximate cost of its training, in the student's forward passes over a batch."""
        cost = 1.0 if model == STUDENT else REFERENCE_COST
        return self.setup.scale.reference_steps * 3.0 * cost if self.trains(model) else 0.0

    def of(self, model: str) -> Reference:
        """The reference of an architecture, with the pool embedded once."""
        if model not in self.made:
            config = reference_config(
                model, self.setup.scale, self.setup.out / "reference" / model, split=self.setup.split
            )
            trained = self._train(model, config) if self.trains(model) else self._packaged(model)
            start = time.perf_counter()
            provider = make_cached(
                trained.tower, self.setup.pool, self.setup.out / "cache", config, self.setup.device, self.setup.bars
            )
            seconds = time.perf_counter() - start
            self.made[model] = Reference(trained, provider, seconds, len(self.setup.pool) * provider.forward_flops)
        return self.made[model]

    def as_json(self) -> dict[str, Any] | None:
        """`reference` of results.json: the large one, otherwise any; None if there is none."""
        large = self.made.get(REFERENCE) or next(iter(self.made.values()), None)
        return large.as_json() if large is not None else None

    def _packaged(self, model: str) -> TrainedReference:
        tower, training = load_kept(device=self.setup.device)
        save_tower(tower, self.setup.out / "reference" / model / "model")  # as training would, for further runs
        with self.setup.bars.bar(f"Scoring the reference {model}", 1) as tick:
            scores = score_all(tower, self.setup.tasks)
            tick(1, f"{scores.average:.1f} %" if scores.average is not None else "")
        return TrainedReference(tower, scores, training.seconds, training.flops, training.machine)

    def _train(self, model: str, config: Config) -> TrainedReference:
        """Train it on clean pairs."""
        curated = make_scenes("curated", self.setup.scale.curated, config.data.scenes_seed, self.setup.bars.counting)
        start, processor = time.perf_counter(), time.process_time()
        with self.setup.bars.part(self.work(model)):
            fitted = fit(
                config,
                Inputs(curated, self.setup.tasks),
                make_student(config),
                self.setup.bars,
                title=f"Reference {model}",
            )
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        flops = fitted.ledger.budgets()["flops"]
        if self.keep is not None and model == REFERENCE and fitted.scores.average is not None:
            training = Training(
                model=model,
                steps=config.train.steps,
                split=self.setup.split,
                average=fitted.scores.average,
                seconds=processor,
                flops=flops,
                environment=environment(self.setup.device),
            )
            keep_reference(fitted.student, training, self.keep)
        return TrainedReference(fitted.student, fitted.scores, seconds, flops)
