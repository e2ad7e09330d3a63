"""The training loop: steps, lines, checkpoints, evaluations."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from aced.config import Config
from aced.core.ledger import Ledger
from aced.data.source import Candidates, Source
from aced.evaluate.tasks import Task
from aced.evaluate.zeroshot import score_all, scores_json
from aced.towers import Tower
from aced.train.best import keep_best
from aced.train.checkpoint import save_checkpoint
from aced.train.feed import feed, make_order
from aced.train.folder import BEST, CHECKPOINTS
from aced.train.scoring.choosing import Peekable
from aced.train.step import Trainer, train_step
from aced.train.watch import Metrics

OnStep = Callable[[int, str], None]


def run_steps(
    trainer: Trainer,
    source: Source,
    metrics: Metrics,
    config: Config,
    folder: Path,
    tasks: Sequence[Task],
    on_step: OnStep,
) -> None:
    """Train from `trainer.step` to the last step, and leave a checkpoint of the end in `folder/checkpoints`."""
    steps, every = config.train.steps, config.run.checkpoint_every
    batches = _batches(trainer, source, config)
    while trainer.step < steps:
        with _own_draws(config.run.seed, trainer.step, trainer.world.rank, trainer.student.device), _summed(trainer):
            outcome = train_step(trainer, batches)
        if trainer.world.first:
            metrics.note(trainer, outcome)
        # Before the checkpoint: a run that is killed in between evaluates again, instead of never.
        if config.eval.every and trainer.step % config.eval.every == 0 and trainer.step < steps:
            _evaluate(trainer, tasks, metrics, config, folder)
        if trainer.step == steps or (every and trainer.step % every == 0):
            save_checkpoint(folder / CHECKPOINTS, trainer, metrics, config)
        on_step(trainer.step, f"loss {outcome.parts.loss:.2f}")


@contextlib.contextmanager
def _own_draws(seed: int, step: int, rank: int, device: torch.device) -> Iterator[None]:
    """Let what a model draws in training (dropout, dropped patches) depend on seed, step and process alone.

    Such layers know torch's global generator only; it is left as it was.
    """
    number = int.from_bytes(hashlib.sha256(f"draws {seed} {step} {rank}".encode()).digest()[:8], "big") >> 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        yield


@contextlib.contextmanager
def _summed(trainer: Trainer) -> Iterator[None]:
    """What the processes count inside, each for itself, becomes the sum of them all; wall time is each one's own."""
    ledger = trainer.ledger
    if trainer.world.size == 1:
        yield
        return
    before = _counts(ledger)
    yield
    now = before + trainer.world.sum(_counts(ledger) - before)
    loaded, trained, cached, *flops = now.tolist()
    ledger.samples_loaded, ledger.samples_trained, ledger.cached_flops = round(loaded), round(trained), cached
    ledger.flops.update(zip(ledger.flops, flops, strict=True))


def _counts(ledger: Ledger) -> torch.Tensor:
    counts = [ledger.samples_loaded, ledger.samples_trained, ledger.cached_flops, *ledger.flops.values()]
    return torch.tensor(counts, dtype=torch.float64)


def _batches(trainer: Trainer, source: Source, config: Config) -> Iterator[Candidates]:
    views = [trainer.student.view]
    views += [view for p in [trainer.reference, *trainer.teachers] if p is not None for view in p.views]
    order = trainer.chooser.order(make_order(config, len(source), getattr(source, "mixture", ())))
    batches = feed(
        source,
        order,
        list(dict.fromkeys(views)),
        start=trainer.step,
        stop=config.train.steps,
        workers=config.data.workers,
        part=(trainer.world.rank, trainer.world.size),
    )
    return Peekable(batches)


def _evaluate(trainer: Trainer, tasks: Sequence[Task], metrics: Metrics, config: Config, folder: Path) -> None:
    student = trainer.replica.whole_student()
    if trainer.world.first:
        _score(student, trainer, tasks, metrics, config, folder)
    trainer.world.meet()


def _score(
    student: Tower, trainer: Trainer, tasks: Sequence[Task], metrics: Metrics, config: Config, folder: Path
) -> None:
    scores = score_all(student, tasks, micro_batch=config.train.micro_batch)
    metrics.scored({"step": trainer.step, **scores_json(scores), "budgets": trainer.ledger.budgets()})
    if config.run.keep_best:
        keep_best(folder / BEST, student, scores, trainer.step)
