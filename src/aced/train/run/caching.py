"""What cached embeddings cost, and what it costs to have none: sentences for the terminal, figures for the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aced.cache.caches import Cache
from aced.cache.embed_options import EmbedOptions, embed_command
from aced.cache.making import EmbeddingTower, EmbedSettings, size_text
from aced.cache.sidecar import parts_of, sample_bytes
from aced.cache.store import Store, embed_missing, look, surveyed
from aced.cache.survey import Survey
from aced.config import Config
from aced.pool.source import Source
from aced.runs.ledger import BACKWARD
from aced.runtime.counting import Progress
from aced.train.distributed import World
from aced.train.providers import Cached, Provider
from aced.train.run.automatic import precision_of
from aced.train.run.frozen import frozen_section


def cache_settings(config: Config) -> EmbedSettings:
    """How a run's config wants its embeddings cached; by how many processes depends on the source."""
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
    """The embeddings of a pool in side-cars; those that are missing are made by all processes of a job together.

    Args:
        cache: of the tower.
        source: the pool.
        tower: the frozen model.
        settings: type, views, micro-batch and workers.
        world: the processes.
        tell: gets a sentence about what is there in the place of what is missing.
        progress: called with (samples done, samples of this process).
        refuse: whether none may be missing.

    Raises:
        AcedError: as `aced.cache.store.build_store`.
        JobEnded: another process has said why the job ends.
    """
    identity, parts = tower.identity(), parts_of(source)
    survey = world.in_turn(lambda: look(cache, identity, parts, settings))
    if any(world.counts(len(survey.missing))) and not refuse:
        if why := _others_there(cache, survey, tower):
            tell(why)

        def on_progress(done: int, total: int) -> None:
            world.check()
            progress(done, total)

        embed_missing(cache, survey, source, tower, settings, on_progress, (world.rank, world.size))
        world.meet()
        survey = world.in_turn(lambda: look(cache, identity, parts, settings))
    progress(len(source), len(source))  # also where they were there already
    return world.in_turn(lambda: surveyed(cache, survey, source)) if cache.far else surveyed(cache, survey, source)


def _others_there(cache: Cache, survey: Survey, tower: EmbeddingTower) -> str:
    """A sentence about side-cars that look like the missing ones but are of something else; empty where none are."""
    if not survey.missing:
        return ""
    first = survey.parts[survey.missing[0]]
    why = cache.home.why_missing(survey.identity, first)
    if why.startswith("there is none"):
        return ""
    return (
        f"{len(survey.missing)} of {len(survey.parts)} parts of the data have no side-car by {tower.name} in "
        f"{cache.place} and are embedded now; of {first.name}, {why}."
    )


def live_cost(name: str, tower: Any, student: Any, config: Config, source: Source) -> str:
    """What a frozen model costs that embeds at every step, next to the student, and how to have it cached.

    Args:
        name: of the model, as in `frozen_models`.
        tower: the frozen `Tower`.
        student: the `Tower` that is trained.
        config: the run's.
        source: the pool; some of its captions tell how long texts are.
    """
    method, train = config.row, config.train
    texts = source.read(range(min(64, len(source))), []).texts
    forward, own = tower.forward_flops(texts), student.forward_flops(texts)
    scores = name == "reference" and method.scores_reference
    embedded = config.super_batch if scores else train.batch
    spent = embedded * forward
    step = own * ((1 + BACKWARD) * train.batch + (config.super_batch if method.scores_student else 0))
    settings = cache_settings(config)
    size = len(source) * sample_bytes(tower.width, settings.dtype, settings.views)
    return (
        f"No side-car: {tower.name} ({name}) embeds {embedded} pairs at every step, {spent:.2g} FLOPs, "
        f"{spent / step:.2g} times the student's own {step:.2g}; all {train.steps} steps {spent * train.steps:.2g}. "
        f"Embedding the {len(source):,} pairs once takes {len(source) * forward * _share(tower, settings):.2g} FLOPs "
        f"and {size_text(size)}: {_command(name, config, settings)}"
    )


def _share(tower: Any, settings: EmbedSettings) -> float:
    """A sample's FLOPs with all its views relative to those of a forward pass."""
    flops = tower.flops(tower.context_length)
    return float((settings.views * flops.image + flops.text) / (flops.image + flops.text))


def _command(name: str, config: Config, settings: EmbedSettings) -> str:
    """What makes the side-cars and has them used."""
    section, data, key = frozen_section(name, config), config.data, name.partition(" ")[0]
    if data.caption_choice == "random":
        return "not possible while data.caption_choice = 'random'."
    if not data.shards:
        return f"{key}.cache=runs/cache"
    asked = EmbedOptions(
        model=section.model,
        shards=data.shards,
        checkpoint=section.checkpoint,
        dtype=settings.dtype,
        views=settings.views,
        caption=data.caption,
        caption_choice=data.caption_choice,
        decoding=data.decoding,
        spool_dir=data.spool_dir,
        spool_gb=data.spool_gb,
        bad_tars=data.bad_tars,
    )
    return f"`{embed_command(asked)}`, then {key}.cache={asked.out}"


def embedding_cost(providers: Sequence[Provider | None]) -> dict[str, float] | None:
    """What making the cached embeddings of a run cost, whenever that was: samples, seconds, FLOPs and bytes in all.

    Args:
        providers: of the run; one that occurs twice counts once, a live one not at all.

    Returns:
        None where nothing is cached.
    """
    infos = [one.store.info for one in dict.fromkeys(providers) if isinstance(one, Cached)]
    if not infos:
        return None
    return {
        "samples": sum(info.usable for info in infos),
        "seconds": sum(info.seconds for info in infos),
        "flops": sum(info.flops for info in infos),
        "bytes": sum(info.bytes for info in infos),
    }
