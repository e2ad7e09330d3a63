"""The pairs of a run's gallery, scored by the trained student and the reference."""

from __future__ import annotations

from pathlib import Path
from random import Random

from aced.config import Config
from aced.models import Tower
from aced.pool.fetch.streamed import streams
from aced.pool.loader.filling import with_values
from aced.pool.source import Source
from aced.runs.gallery import write_gallery
from aced.runs.ledger import Ledger
from aced.runtime.precision import autocast
from aced.train.run.ordering import RunOrder
from aced.train.step import Trainer

PAIRS = 1024
"""Maximum number of pairs that are scored."""


def write_pairs(path: Path, config: Config, source: Source, order: RunOrder, trainer: Trainer, student: Tower) -> None:
    """Write the most and the least learnable of some pairs to `path`; nothing for a method without a score.

    Args:
        path: of `gallery.json`.
        config: the run's.
        source: the pool.
        order: of the pool.
        trainer: at the end of the run.
        student: the trained model, whole.
    """
    method = trainer.method
    if method.score is None:
        return
    views = [student.view, *(trainer.reference.views if trainer.reference else ())]
    candidates = source.read(_rows(config, source, order, trainer), list(dict.fromkeys(views)))
    if trainer.reference is not None:
        candidates = with_values(candidates, trainer.reference.columns)
    if len(candidates) == 0:
        return
    with autocast(student.device, trainer.settings.precision):
        embedded = student.score(candidates, config.train.micro_batch) if method.scores_student else None
    # A separate ledger: pictures are not part of the run's cost.
    reference = trainer.reference.embed(candidates, Ledger(), "reference") if trainer.reference else None
    write_gallery(path, source, candidates, embedded, reference, score=method.score)


def _rows(config: Config, source: Source, order: RunOrder, trainer: Trainer) -> list[int]:
    """Positions in the source: drawn from all of it or, if it is streamed, from the last step, whose tars are there."""
    count = len(source)
    if not streams(source):
        return Random(config.run.seed).sample(range(count), min(PAIRS, count))  # without a permutation of the pool
    last = order.samples.indices(max(0, trainer.step - 1))
    return (last.tensor_split(trainer.world.size)[0][:PAIRS] % count).tolist()
