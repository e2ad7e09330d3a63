"""From the `[scoring]` section of a config to the plan and memory with which a run selects."""

from __future__ import annotations

import math

from aced.config import Config
from aced.errors import AcedError
from aced.models import Tower
from aced.models.coarse import PartlyCoarse, check_side
from aced.registry.objectives import LOSSES
from aced.runtime.precision import Precision
from aced.train.distributed import World
from aced.train.providers import Cached, Provider
from aced.train.scoring.cascade import Sieve
from aced.train.scoring.choosing import ChoicePlan
from aced.train.scoring.early import Early
from aced.train.scoring.history import History
from aced.train.scoring.memory import Memory
from aced.train.scoring.unseen import Guess
from aced.train.scoring.window import Window
from aced.train.settings import StepSettings


def make_plan(
    config: Config, settings: StepSettings, student: Tower, reference: Provider | None, world: World
) -> ChoicePlan:
    """The plan of a run, in one of the processes of `world`; the config has checked combinations of keys.

    Raises:
        AcedError: the student cannot process images of `scoring.resolution`, or selecting before loading needs
            a cached reference, which is missing.
    """
    section, method = config.scoring, config.row
    if not method.chooses:
        return ChoicePlan()
    always = (config.method.since, config.method.until) == (0.0, 1.0)
    window, side = None if always else window_of(config, world.size), side_of(config, student)
    if method.score is None:
        return ChoicePlan(side=side, window=window)
    cascade = sieved(config)
    sieve = Sieve(kept_by_reference(config), settings, method, config.run.seed, world)
    if not section.early:
        return ChoicePlan(method.score, sieve=sieve if cascade else None, side=side, window=window)
    again = cascade or method.distill is not None
    early = Early(sieve, _cached(reference), config.super_batch, again)
    return ChoicePlan(method.score if cascade else None, early, side=side, window=window)


def window_of(config: Config, ranks: int) -> Window:
    """The steps of a run that select, if its method does, with so many processes."""
    own, train = config.method, config.train
    return Window.of(own.since, own.until, train.steps, train.batch, ranks)


def side_of(config: Config, student: Tower) -> int | None:
    """The side in pixels to which images are reduced for scoring; None for the student's own.

    Raises:
        AcedError: the student cannot process images of that size.
    """
    section = config.scoring
    if not (config.row.scores_student and section.resolution and section.unseen == "embed"):
        return None
    check_side(student, section.resolution)
    return section.resolution


def sieved(config: Config) -> bool:
    """Whether the reference keeps a part of a super-batch for the student to score."""
    return config.row.scores_student and config.scoring.cascade < 1


def kept_by_reference(config: Config) -> int:
    """How many of a super-batch the reference keeps: those for the student to score, or the whole choice."""
    batch, section = config.train.batch, config.scoring
    if not sieved(config):
        return batch
    return max(batch, round(section.cascade * config.super_batch))


def make_memory(config: Config, student: Tower, reference: Provider | None, world: World) -> Memory | None:
    """The memory of the student's embeddings; None if it embeds everything that it scores.

    Raises:
        AcedError: `scoring.unseen=predict` needs a cached reference, which is missing.
    """
    section = config.scoring
    if not section.reuse:
        return None
    if section.unseen == "embed":
        return Memory(section.reuse)
    if not isinstance(reference, Cached):
        raise AcedError(
            "scoring.unseen=predict looks up the reference's embeddings of each pair, so they must be "
            "cached: set reference.cache, or leave out scoring.unseen."
        )
    refreshed = math.ceil(section.refresh * config.train.batch)
    return Memory(section.reuse, Guess(reference.width, student, world, refreshed))


def make_history(config: Config, pairs: int, student: Tower) -> History | None:
    """The student's earlier scores of the `pairs` of a pool; None for a method that does not compare with them."""
    if not config.row.history:
        return None
    window = window_of(config, 1)
    return History(pairs, window.first, window.end, student.device)


def make_partly(config: Config, student: Tower) -> PartlyCoarse | None:
    """Which training images the student processes coarsely.

    Raises:
        AcedError: it cannot process images of `scoring.resolution`.
    """
    section = config.scoring
    if not section.coarse_share:
        return None
    check_side(student, section.resolution)
    return PartlyCoarse(section.resolution, section.coarse_share)


def _cached(reference: Provider | None) -> Cached:
    if not isinstance(reference, Cached):
        raise AcedError(
            "scoring.early uses the reference before a super-batch is loaded, so its embeddings must be cached: set "
            "reference.cache, or leave out scoring.early."
        )
    return reference


def settings_of(config: Config, precision: Precision) -> StepSettings:
    """The numbers of a run that a step needs."""
    train, method = config.train, config.method
    return StepSettings(
        batch=train.batch,
        super_batch=config.super_batch,
        steps=train.steps,
        loss=LOSSES.find(config.loss).scores,
        chunks=method.chunks,
        temperature=method.temperature,
        lr=train.lr,
        warmup=train.warmup,
        clip=train.clip,
        micro_batch=train.micro_batch,
        precision=precision,
        scope=method.scope,
        embedded_again=train.grad_cache > 0,
        activations_again=train.activation_checkpointing,
    )
