"""The scores of a run's student, between steps and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aced.config import Config
from aced.evaluate.task_embedder import TaskEmbedder
from aced.evaluate.tasks import Task
from aced.evaluate.zeroshot import Scores, score_all, scores_json
from aced.models import Tower
from aced.runs.run_folder import BEST
from aced.runtime.stopping import Asked
from aced.train.best import keep_best
from aced.train.evaluating import Cutting, embed_together, to_the_end
from aced.train.run.automatic import loading_of_tasks
from aced.train.step import Trainer
from aced.train.watch import Metrics


def evaluate(trainer: Trainer, tasks: Sequence[Task], metrics: Metrics, config: Config, asked: Asked) -> bool:
    """Score the student between two steps, unless a signal requests the end; every process calls this.

    Returns:
        Whether all of it was done, as far as this process knows.
    """
    student, world = trainer.replica.whole_student(), trainer.world
    embedder = _embedder_of(trainer, student, tasks, config, asked.unless_asked)
    done = embedder is not None
    if embedder is not None and world.first:
        done = asked.unless_asked(lambda: _write_scores(trainer, student, tasks, embedder, metrics, config))
    world.meet()
    return done


def final_scores(trainer: Trainer, student: Tower, tasks: Sequence[Task], metrics: Metrics, config: Config) -> Scores:
    """The finished student's scores, with progress reported; with several processes the first one has them."""
    embedder = _embedder_of(trainer, student, tasks, config)
    if not trainer.world.first:
        return Scores()
    scores = score_all(student, tasks, embedder)
    metrics.tell(trainer.step, scores.failed)
    _keep(trainer, student, scores, config)
    if scores.results:
        metrics.trackers.scores({"step": trainer.step, **scores_json(scores)})
    return scores


def _embedder_of(
    trainer: Trainer, student: Tower, tasks: Sequence[Task], config: Config, cutting: Cutting = to_the_end
) -> TaskEmbedder | None:
    """As `embed_together`, with the run's numbers."""
    return embed_together(
        trainer.world,
        student,
        tasks,
        micro_batch=config.train.micro_batch,
        precision=trainer.settings.precision,
        loading=loading_of_tasks(config),
        step=trainer.step,
        cutting=cutting,
    )


def _write_scores(
    trainer: Trainer, student: Tower, tasks: Sequence[Task], embedder: TaskEmbedder, metrics: Metrics, config: Config
) -> None:
    """Score the student, and write the line of this evaluation."""
    scores = score_all(student, tasks, embedder)
    metrics.scored({"step": trainer.step, **scores_json(scores), "budgets": trainer.ledger.budgets()})
    _keep(trainer, student, scores, config)


def _keep(trainer: Trainer, student: Tower, scores: Scores, config: Config) -> None:
    if config.run.keep_best:
        keep_best(Path(config.run.out) / BEST, student, scores, trainer.step)
