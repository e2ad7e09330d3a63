"""The cached embeddings of a run: made by all its processes together, and their cost or that of having none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aced.cache.caches import Cache
from aced.cache.costs import LiveUse, embedding_cost, live_cost
from aced.cache.embed_options import EmbedOptions, embed_command
from aced.cache.making import EmbeddingTower, EmbedSettings
from aced.cache.sidecar import parts_of
from aced.cache.store import Store, embed_missing, look, others_there, surveyed
from aced.config import Config
from aced.models import Tower
from aced.pool.source import Source
from aced.runs.ledger import BACKWARD
from aced.runtime.counting import Progress
from aced.train.distributed import World
from aced.train.providers import Cached, Provider
from aced.train.run.automatic import precision_of
from aced.train.run.frozen import frozen_section

_CACHE = "runs/cache"
"""The placeholder for a folder in suggested commands."""


def cache_settings(config: Config) -> EmbedSettings:
    """How a run's config wants its embeddings cached; the number of loading processes depends on the source."""
    return EmbedSettings(
        dtype=config.reference.cache_dtype,
        views=config.data.views,
        micro_batch=config.train.micro_batch,
        precision=precision_of(config),
    )


def make_store(
    cache: Cache,
    source: Source,
    tower: EmbeddingTower,
    settings: EmbedSettings,
    world: World,
    tell: Callable[[str], None],
    progress: Progress,
    *,
    refuse: bool = False,
) -> Store:
    """The embeddings of a pool in side-cars; all processes of a job make missing ones together.

    Args:
        cache: of the tower.
        source: the pool.
        tower: the frozen model.
        settings: type, views, micro-batch and workers.
        world: the processes.
        tell: receives a sentence about side-cars that resemble missing ones.
        progress: called with (samples done, samples of this process).
        refuse: whether to refuse missing ones.

    Raises:
        AcedError: as `aced.cache.store.build_store`.
        JobEnded: another process has reported why the job ends.
    """
    identity, parts = tower.identity(), parts_of(source)
    survey = world.in_turn(lambda: look(cache, identity, parts, settings))
    if any(world.counts(len(survey.missing))) and not refuse:
        if why := others_there(cache, survey, tower.name):
            tell(why)

        def on_progress(done: int, total: int) -> None:
            world.check()
            progress(done, total)

        embed_missing(cache, survey, source, tower, settings, on_progress, (world.rank, world.size))
        world.meet()
        survey = world.in_turn(lambda: look(cache, identity, parts, settings))
    progress(len(source), len(source))  # even if they were already there
    return world.in_turn(lambda: surveyed(cache, survey, source)) if cache.far else surveyed(cache, survey, source)


def live_cost_of(name: str, tower: Tower, student: Tower, config: Config, source: Source) -> str:
    """The cost of a frozen model that embeds at every step, and how to have it cached.

    Args:
        name: of the model, as in `frozen_models`.
        tower: the frozen model.
        student: the model that is trained.
        config: the run's.
        source: the pool; some of its captions serve to estimate the length of texts.
    """
    method, train = config.row, config.train
    texts = source.read(range(min(64, len(source))), []).texts
    scored = config.super_batch if method.scores_student else 0
    own = student.forward_flops(texts) * ((1 + BACKWARD) * train.batch + scored)
    pairs = config.super_batch if name == "reference" and method.scores_reference else train.batch
    use = LiveUse(name, pairs, train.steps, own)
    return f"{live_cost(use, tower, texts, len(source), cache_settings(config))}: {_how_to_cache(name, config)}"


def _how_to_cache(name: str, config: Config) -> str:
    """The command and keys that make and use the side-cars of a frozen model."""
    section, data, key = frozen_section(name, config), config.data, name.partition(" ")[0]
    if data.caption_choice == "random":
        return "not possible while data.caption_choice = 'random'."
    if not data.shards:
        return f"{key}.cache={_CACHE}"
    same = ("caption", "caption_choice", "decoding", "bad_tars", "spool_dir", "spool_gb", "views")
    options = {name: getattr(data, name) for name in same}
    asked = EmbedOptions(
        section.model,
        data.shards,
        _CACHE,
        checkpoint=section.checkpoint,
        dtype=config.reference.cache_dtype,
        **options,
    )
    return f"`{embed_command(asked)}`, then {key}.cache={_CACHE}"


def embedding_cost_of(providers: Sequence[Provider | None]) -> dict[str, float] | None:
    """The `embedding_cost` of a run's providers; duplicates count once, live models not at all."""
    return embedding_cost([one.store.info for one in dict.fromkeys(providers) if isinstance(one, Cached)])
