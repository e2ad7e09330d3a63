"""The training loop: steps, lines, checkpoints, evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aced.config import Config
from aced.data.atomic import writing
from aced.data.source import Candidates, Source
from aced.evaluate.tasks import Task, as_json
from aced.evaluate.zeroshot import average, evaluate
from aced.train.checkpoint import save_checkpoint
from aced.train.feed import feed, make_order
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
        outcome = train_step(trainer, batches)
        metrics.note(trainer, outcome)
        # Before the checkpoint: a run that is killed in between evaluates again, instead of never.
        if config.eval.every and trainer.step % config.eval.every == 0 and trainer.step < steps:
            _evaluate(trainer, tasks, config, folder)
        if trainer.step == steps or (every and trainer.step % every == 0):
            save_checkpoint(folder / "checkpoints", trainer, metrics, config)
        on_step(trainer.step, f"loss {outcome.parts.loss:.2f}")


def _batches(trainer: Trainer, source: Source, config: Config) -> Iterator[Candidates]:
    views = [trainer.student.view]
    views += [view for p in [trainer.reference, *trainer.teachers] if p is not None for view in p.views]
    order = trainer.chooser.order(make_order(config, len(source)))
    batches = feed(
        source,
        order,
        list(dict.fromkeys(views)),
        start=trainer.step,
        stop=config.train.steps,
        workers=config.data.workers,
    )
    return Peekable(batches)


def _evaluate(trainer: Trainer, tasks: Sequence[Task], config: Config, folder: Path) -> None:
    results = evaluate(trainer.student, tasks, micro_batch=config.train.micro_batch)
    line = {
        "step": trainer.step,
        "average": average(results),
        "tasks": as_json(results),
        "budgets": trainer.ledger.budgets(),
    }
    path = folder / "evals.jsonl"
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
