"""The inputs of a run: data, tasks, frozen models. Made once from the config, shared by many runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from aced.cache.caches import cache_at
from aced.cache.travelling import let_travel
from aced.config import Config
from aced.errors import AcedError
from aced.evaluate.named_tasks import named_tasks
from aced.evaluate.tasks import Task
from aced.evaluate.zeroshot import check_names
from aced.models import Tower
from aced.pool.concept_column import MOST, Concepts
from aced.pool.fetch.fetching import check_room as check_spool
from aced.pool.fetch.spool import Spool, spool_at
from aced.pool.fetch.streamed import streams
from aced.pool.loader.reading import bytes_at_once
from aced.pool.loader.shared_memory import check_room
from aced.pool.manyviews import ManyViews
from aced.pool.orders.order import Order
from aced.pool.source import Column, Source, check_source
from aced.pool.tars.indexfolder import index_folder
from aced.pool.tars.losttars import GONE, KnownTars, shortened
from aced.pool.views import View
from aced.registry.makers import SOURCES, made
from aced.runs.run_folder import is_run, read_config
from aced.runtime.progress import Bars
from aced.train.distributed import World
from aced.train.feed import chunk_bytes, chunks_of, fewest_rows
from aced.train.providers import Cached, Live, Provider
from aced.train.run.automatic import keeps_decoded, precision_of, workers_of
from aced.train.run.caching import cache_settings, live_cost_of, make_store
from aced.train.run.frozen import (
    frozen_models,
    frozen_section,
    load_frozen,
    teachers_of,
    without_bias,
    without_difference,
)
from aced.train.run.given import Given
from aced.train.run.ordering import RunOrder, make_run_order, order_text
from aced.train.run.quota import source_ends
from aced.train.run.resuming import Earlier, ModelMarks, data_marks, model_marks
from aced.train.scoring.filtering import check_filter

DEFAULT_SOURCE = "scenes"
"""If a config names no data: the source, and the tasks, of this name."""


@dataclass
class Inputs:
    """Data, tasks and frozen models of a run.

    Attributes:
        source: the pool.
        tasks: evaluation tasks for the student.
        reference: scores the pool; None for methods without one.
        teachers: models to distil.
        order: of the pool, according to the config; None: not made yet.
    """

    source: Source
    tasks: list[Task]
    reference: Provider | None = None
    teachers: list[Provider] = field(default_factory=list)
    order: RunOrder | None = None


class _Opened(NamedTuple):
    """Tasks, frozen models by name, the pool, and its order."""

    tasks: list[Task]
    towers: dict[str, Tower]
    source: Source
    order: RunOrder


def make_inputs(
    config: Config,
    student: Tower,
    bars: Bars,
    earlier: Earlier | None = None,
    world: World | None = None,
    given: Given | None = None,
) -> Inputs:
    """Open the data, load the frozen models and make their caches, according to the config.

    Quick checks come first: an error must not wait until a pool is decoded or embedded.

    Args:
        config: the run's.
        student: the model to train.
        bars: shows progress.
        earlier: the run that is being resumed; models and data must be the same.
        world: the processes of the job, all of which call this.
        given: objects that were handed over.
    """
    world, method = world or World(), config.row
    tasks, towers, source, order = world.in_turn(
        lambda: _opened(config, student, bars, earlier, world, given or Given())
    )
    providers: dict[str, Provider] = {}
    for name, tower in towers.items():
        if frozen_section(name, config).cache:
            providers[name] = _cached(name, tower, source, config, bars, world)
        else:
            providers[name] = Live(tower, config.train.micro_batch, precision_of(config))
            bars.say(live_cost_of(name, tower, student, config, source))
    let_travel(source, [one.store.files for one in providers.values() if isinstance(one, Cached)])
    if earlier is not None:
        for name in earlier.other_caches(list(providers.values())):
            bars.say(
                f"The cached embeddings by {name} are not byte for byte those of the run: its figures will agree "
                "closely but not bit for bit."
            )
    return Inputs(
        source=ManyViews(source) if config.data.views > 1 else source,
        tasks=tasks,
        reference=providers.get("reference") if method.uses_reference else None,
        teachers=[providers[name] for name in teachers_of(config)],
        order=order,
    )


def _opened(config: Config, student: Tower, bars: Bars, earlier: Earlier | None, world: World, given: Given) -> _Opened:
    """The files that one process opens while the others wait, or after it has opened them."""
    given.check(config)
    if given.tasks is not None:
        tasks = list(given.tasks)
    else:  # the tasks of the scenes belong to the scenes
        tasks = make_eval_tasks(config, bars.say) if given.source is None or config.eval.tasks else []
    handed = {"reference": given.reference_of(config)}
    towers = {
        name: tower if (tower := handed.get(name)) is not None else load_frozen(name, config, bars.counting)
        for name in frozen_models(config)
    }
    for tower in towers.values():
        for note in tower.notes:
            bars.say(note)
    if (text := without_bias(towers, config)) is not None:
        bars.say(text)
    if earlier is None and (text := without_difference(towers, student, config)) is not None:
        bars.say(text)
    if earlier is not None:
        earlier.check(_marks_of(towers, config))
    pool = given.source if given.source is not None else _pool(config, bars, earlier)
    if given.source is not None:
        bars.say(f"Data: {len(pool):,} pairs of {pool.name}.")
    if earlier is not None:
        earlier.check(data_marks(pool), KnownTars.of(pool))
    order = make_run_order(config, pool, world.size)
    if config.row.filters:
        check_filter(cached=bool(config.reference.cache), whole=isinstance(order.samples, Order))
    source_ends(config, pool, world.size)  # refuses a pool of a single source
    if config.row.concepts:
        Concepts(pool, config.data.concept_field)  # refuses a pool without any
    if order.plan is not None:
        check_spool(pool.places, order.plan.visits(world.rank, world.size, 0))
    if text := order_text(order, config, pool, world.size):
        bars.say(text)
    views = [student.view, *(tower.view for name, tower in towers.items() if not frozen_section(name, config).cache)]
    _check_room(config, student, towers, views, world.size, pool.columns)
    source = _decoded(pool, [view.cropped(k) for view in views for k in range(config.data.views)], config, bars)
    return _Opened(tasks, towers, source, order)


def _pool(config: Config, bars: Bars, earlier: Earlier | None) -> Source:
    """The pool; for a resumed run, an error says how to continue without lost data."""
    known = earlier.tars if earlier is not None else None
    try:
        return make_source(config, bars, known)
    except AcedError as error:
        if known is not None and known.tars and config.data.lost_tars == "refuse":
            error.add_note("data.lost_tars=allow resumes the run without tars that are gone or have changed.")
        raise


def _marks_of(towers: Mapping[str, Tower], config: Config) -> dict[str, str]:
    """The marks of the frozen models, as soon as they are loaded."""
    method, identities = config.row, {name: tower.identity() for name, tower in towers.items()}
    marks = {name: ModelMarks(of["contents"], of["architecture"]) for name, of in identities.items()}
    reference = marks["reference"] if method.uses_reference else None
    return model_marks(reference, [marks[name] for name in teachers_of(config)])


def _check_room(
    config: Config,
    student: Tower,
    towers: Mapping[str, Tower],
    views: Sequence[View],
    ranks: int,
    own: Sequence[Column],
) -> None:
    """Refuse chunks that do not fit into `/dev/shm`; with `scoring.early` there may be fewer, smaller ones."""
    # In the form of `StoredRows`, whose stores do not exist yet.
    forms = {name: Column(name, torch.float32, (2, tower.width)) for name, tower in towers.items()}
    cached = [form for name, form in forms.items() if frozen_section(name, config).cache]
    live = [tower.ids for name, tower in towers.items() if not frozen_section(name, config).cache]
    rows = config.super_batch // ranks
    concepts = [Column("concepts", torch.int64, (MOST,))] if config.row.concepts else []
    columns = [student.ids, *live, *cached, *concepts, *own]
    item = chunk_bytes(rows, views, columns)
    workers = workers_of(config, item=item)
    if workers and not config.scoring.early:
        check_room(item, workers, config.train.steps * chunks_of(rows, fewest_rows(views, columns)).number)


def spool_of(config: Config) -> Spool | None:
    """The folder for files from addresses."""
    return spool_at(config.data.spool_dir, config.data.spool_gb)


def make_source(config: Config, bars: Bars, earlier: KnownTars | None = None) -> Source:
    """The pool: tars if the config names any, otherwise a registered source; reports how much was found where.

    If `data.lost_tars` permits it, some tars of an `earlier` run that is resumed may be lost.
    """
    data = config.data
    if data.source or not data.shards:
        name = data.source or DEFAULT_SOURCE
        source = check_source(made(SOURCES, name, config, counting=bars.counting), f"data.source = '{name}'")
        bars.say(f"Data: {len(source):,} pairs of {source.name}.")
        return source
    from aced.files.remote import is_address
    from aced.pool.shards import open_shards
    from aced.pool.summary import found_text
    from aced.pool.tars.stock import Streaming

    known = earlier if earlier is not None and earlier.tars and data.lost_tars == "allow" else None

    with contextlib.ExitStack() as stack:
        fetching = None
        if any(is_address(pattern) for pattern in data.shards):
            fetching = stack.enter_context(bars.counting("Fetching tars"))
        shards = open_shards(
            data.shards,
            caption=data.caption,
            caption_choice=data.caption_choice,
            seed=config.run.seed,
            bad_tars=data.bad_tars,
            index_dir=index_folder(data.index_dir, bars.say),
            kind_field=data.kind_field,
            spool=spool_of(config),
            apart=bool(data.weights) or config.method.quota,
            decoding=data.decoding,
            workers=workers_of(config),
            progress=stack.enter_context(bars.counting("Indexing tars")),
            fetching=fetching,
            tell=bars.say,
            known=known,
            streaming=Streaming(data.locality != "auto", config.run.timeout / 2) if data.locality != 0 else None,
            hearsay=not any(frozen_section(name, config).cache for name in frozen_models(config)),
        )
        shards.places.fetch(fetching)
    told = _told_lost(known, shards.lost) if known is not None and shards.lost else ""
    bars.say(told or found_text(shards.sources, shards.faults))
    return shards


def _told_lost(known: KnownTars, lost: Mapping[str, str]) -> str:
    gone = [tar for tar in known.tars if tar.name in lost]
    which = [f"{t.name} {'is gone' if lost[t.name] == GONE else 'has changed'} ({t.samples:,} samples)" for t in gone]
    return (
        f"Continuing without {len(gone)} of {len(known.tars)} tars, {sum(t.samples for t in gone):,} of "
        f"{sum(t.samples for t in known.tars):,} samples: {', '.join(shortened(which))}."
    )


def _decoded(pool: Source, views: list[View], config: Config, bars: Bars) -> Source:
    """The pool in memory if the config says so; scenes always are."""
    if streams(pool):
        if config.data.in_memory is True:
            raise AcedError(
                "data.in_memory=true keeps all images, but the pool's tars are fetched only as they are needed: raise "
                "data.spool_gb and set data.locality=0 to fetch them all, or leave out data.in_memory."
            )
        return pool
    keeps, why_not = keeps_decoded(config, len(pool), views)
    if why_not:
        bars.say(why_not)
    if not keeps:
        return pool
    from aced.pool.inmemory import InMemory

    with bars.counting("Decoding images") as progress:
        workers = workers_of(config, item=bytes_at_once(pool, views))
        return InMemory(pool, views, workers=workers, progress=progress)


def make_eval_tasks(config: Config, say: Callable[[str], None] = lambda _: None) -> list[Task]:
    """The tasks of the config; if it names neither tasks nor data, those of the default source.

    A resumed run does not stop for a task that was there when it began: the task is reported, and counts as failed in
    each evaluation.

    Raises:
        AcedError: in a new run, a folder is missing or holds no loadable task; or two tasks share a name.
    """
    if config.eval.tasks:
        return _load_tasks(config.eval.tasks, config.eval.split, _places_before(config), say)
    if config.data.shards or config.data.source:
        return []
    return named_tasks(DEFAULT_SOURCE, config.eval.split) or []


def _load_tasks(places: Sequence[str], split: str, before: Collection[str], say: Callable[[str], None]) -> list[Task]:
    """The tasks in some places; a fault of one that is also in `before` does not stop the others."""
    from aced.evaluate.task_folders import find_task_folders, load_task_folder, lost_task

    tasks: list[Task] = []

    def lose(path: Path, place: str, error: AcedError) -> None:
        if place not in before:
            raise error
        say(f"{path} is no longer scored: {error}")
        tasks.append(lost_task(path, str(error)))

    seen: set[str] = set()
    for place in places:
        if (named := named_tasks(place, split)) is not None:
            tasks += named
            continue
        try:
            folders = find_task_folders([place])
        except AcedError as error:
            lose(Path(place), place, error)
            continue
        for folder in folders:
            if os.path.realpath(folder) in seen:
                continue
            seen.add(os.path.realpath(folder))
            try:
                tasks += load_task_folder(folder)
            except AcedError as error:
                lose(folder, place, error)
    check_names(tasks)
    return tasks


def _places_before(config: Config) -> Collection[str]:
    """The `eval.tasks` with which the run in the folder began; none if there is no run to resume."""
    folder = Path(config.run.out)
    return read_config(folder).get("eval", {}).get("tasks", []) if is_run(folder) else []


def _cached(name: str, tower: Tower, source: Source, config: Config, bars: Bars, world: World) -> Cached:
    """The cached embeddings of the `reference` or of a teacher."""
    section = frozen_section(name, config)
    refuse = section.cache_missing == "refuse"
    return make_cached(tower, source, section.cache, config, tower.device, bars, refuse=refuse, world=world)


def make_cached(
    tower: Tower,
    source: Source,
    cache: Path | str,
    config: Config,
    device: torch.device,
    bars: Bars,
    *,
    refuse: bool = False,
    world: World | None = None,
) -> Cached:
    """The embeddings of `source` by `tower` in side-cars below `cache`; missing ones are refused or made.

    With several processes, all of `world`, each makes some.
    """
    if source.captions_vary:
        raise AcedError(
            "Captions that change from epoch to epoch cannot be cached: use one caption per sample, or leave "
            "reference.cache and teacher.cache empty."
        )
    views = [tower.view.cropped(crop) for crop in range(config.data.views)]
    item = bytes_at_once(source, views, config.train.micro_batch)
    workers = workers_of(config, in_memory=source.in_memory, item=item)
    settings = cache_settings(config)._replace(workers=workers)
    with bars.counting(f"Embedding the pool with {tower.name}") as progress:
        own = cache_at(cache, tower.identity()["tower"], spool_of(config))
        store = make_store(own, source, tower, settings, world or World(), bars.say, progress, refuse=refuse)
    sample = source.read(range(min(64, len(source))), [])
    return Cached(store, device, tower.forward_flops(sample.texts))
