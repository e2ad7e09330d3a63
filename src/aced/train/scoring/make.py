"""From the `[scoring]` section of a config to the chooser of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from aced.config import Config
from aced.errors import AcedError
from aced.methods import Method
from aced.towers import Tower
from aced.towers.coarse import PartlyCoarse, check_side
from aced.train.distributed import World
from aced.train.providers import Cached, Provider
from aced.train.scoring.cascade import Cascaded, Sieve
from aced.train.scoring.choosing import Chooser, Drawn, InOrder
from aced.train.scoring.memory import Reused
from aced.train.scoring.scorers import Direct, Scorer
from aced.train.scoring.sieve import Presieved
from aced.train.scoring.unseen import Predicted

if TYPE_CHECKING:
    from aced.train.step import Settings


def make_chooser(
    config: Config, method: Method, settings: Settings, student: Tower, reference: Provider | None, world: World
) -> Chooser:
    """The chooser of a run, in one of the processes of `world`; which keys go together was checked with the config.

    Raises:
        AcedError: the student cannot see images of `scoring.resolution`, or what is to be decided ahead needs a
            cached reference and has none.
    """
    if method.score is None:
        return InOrder()
    section = config.scoring

    def sieve(size: int) -> Sieve:
        return Sieve(size, settings, method, config.run.seed, world)

    if not method.scores_student:
        return _by_reference(config, method, sieve, reference)
    drawn = Drawn(method.score, _scorer(config, student, reference, world))
    return _cascade(config, sieve, reference, drawn) if section.cascade < 1 else drawn


def make_partly(config: Config, student: Tower) -> PartlyCoarse | None:
    """Which training images the student sees coarsely.

    Raises:
        AcedError: it cannot see images of `scoring.resolution`.
    """
    section = config.scoring
    if not section.coarse_share:
        return None
    check_side(student, section.resolution)
    return PartlyCoarse(section.resolution, section.coarse_share)


def _scorer(config: Config, student: Tower, reference: Provider | None, world: World) -> Scorer:
    section = config.scoring
    refreshed = math.ceil(section.refresh * config.train.batch)
    if section.unseen == "predict":
        if not isinstance(reference, Cached):
            raise AcedError(
                "scoring.unseen=predict looks up what the reference has made of each pair and so needs its cached "
                "embeddings: set reference.cache, or leave scoring.unseen out."
            )
        return Predicted(section.reuse, refreshed, reference, student, world)
    if section.resolution:
        check_side(student, section.resolution)
    direct = Direct(section.resolution or None)
    return Reused(direct, section.reuse) if section.reuse else direct


def _by_reference(config: Config, method: Method, sieve: Callable[[int], Sieve], reference: Provider | None) -> Chooser:
    """The reference's own choice from the whole super-batch."""
    if not config.scoring.early:
        return Drawn(method.score_of_reference, None)
    again = method.distill is not None
    return Presieved(sieve(config.train.batch), _cached(reference), InOrder(), config.super_batch, again=again)


def _cascade(config: Config, sieve: Callable[[int], Sieve], reference: Provider | None, main: Drawn) -> Chooser:
    section = config.scoring
    keeping = sieve(max(config.train.batch, round(section.cascade * config.super_batch)))
    if section.early:
        return Presieved(keeping, _cached(reference), main, config.super_batch, again=True)
    return Cascaded(keeping, main)


def _cached(reference: Provider | None) -> Cached:
    if not isinstance(reference, Cached):
        raise AcedError(
            "scoring.early asks the reference before a super-batch is loaded and so needs its cached embeddings: set "
            "reference.cache, or leave scoring.early out."
        )
    return reference
