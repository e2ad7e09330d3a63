"""What a run needs from outside: data, tasks, frozen models. Made from the config once, shared by many runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from aced.config import Config, TowerSection
from aced.data.source import Source
from aced.data.store import build_store, store_folder
from aced.evaluate.tasks import Task
from aced.methods import Method, get_method
from aced.progress import Bars
from aced.towers import Tower, load_tower
from aced.train.providers import Cached, Live, Provider


@dataclass
class Inputs:
    """Data, tasks and frozen models of a run.

    Attributes:
        source: the pool.
        tasks: what the student is evaluated on.
        reference: scores the pool; None for methods that need none.
        teachers: are distilled.
        costs: seconds that each cache of embeddings took to make, by model; empty where all were there.
    """

    source: Source
    tasks: list[Task]
    reference: Provider | None = None
    teachers: list[Provider] = field(default_factory=list)


def device_of(config: Config) -> torch.device:
    """The device that `run.device` names; `auto` is CUDA where there is one."""
    if config.run.device != "auto":
        return torch.device(config.run.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_inputs(config: Config, student: Tower, bars: Bars) -> Inputs:
    """Open the data, load the frozen models and make their caches, as the config says."""
    method = get_method(config.method.name, weight=config.method.weight)
    device = device_of(config)
    source = make_source(config, student, method, bars)
    inputs = Inputs(source=source, tasks=make_eval_tasks(config))
    reference = None
    if method.scores_reference or (method.distill and not config.teacher.model):
        reference = make_provider(config.reference, config, source, device, bars)
    if method.scores_reference:
        inputs.reference = reference
    if method.distill and config.teacher.model:
        inputs.teachers = [make_provider(config.teacher, config, source, device, bars)]
    elif method.distill and reference is not None:
        inputs.teachers = [reference]
    return inputs


def make_source(config: Config, student: Tower, method: Method, bars: Bars) -> Source:
    """The pool: shards where the config names any, else scenes."""
    data = config.data
    if not data.shards:
        return make_scenes(data.scenes, data.scenes_size, data.scenes_seed, bars)
    from aced.data.memory import InMemory
    from aced.data.shards import open_shards

    with bars.counting("Indexing tars") as progress:
        shards = open_shards(
            data.shards,
            caption=data.caption,
            bad_tars=data.bad_tars,
            index_dir=Path(data.index_dir) if data.index_dir else None,
            progress=progress,
        )
    if not data.in_memory:
        return shards
    with bars.counting("Decoding images") as progress:
        return InMemory(shards, [student.view], workers=data.workers, progress=progress)


def make_scenes(split: str, size: int, seed: int, bars: Bars) -> Source:
    """Built-in data: `pool`, `redundant` or `curated`."""
    from aced.data.scenes import DEFAULT_MIX, REDUNDANT_MIX, make_curated, make_pool

    with bars.counting(f"Rendering {size:,} scenes ({split})") as progress:
        if split == "curated":
            return make_curated(size, seed, progress=progress)
        mix = REDUNDANT_MIX if split == "redundant" else DEFAULT_MIX
        return make_pool(size, seed, progress=progress, mix=mix)


def make_eval_tasks(config: Config) -> list[Task]:
    """The task folders of the config, or the scenes tasks where scenes are the data."""
    if config.eval.tasks:
        from aced.evaluate.folder import find_task_folders, load_task_folder

        return [task for folder in find_task_folders(config.eval.tasks) for task in load_task_folder(folder)]
    if config.data.shards:
        return []
    from aced.data.scenes import make_tasks

    return make_tasks(config.eval.split)


def make_provider(
    section: TowerSection, config: Config, source: Source, device: torch.device, bars: Bars
) -> Provider:
    """A frozen model's embeddings: from its cache where the config names a folder for one, else the model itself."""
    tower = load_tower(section.model, section.checkpoint or None, device=str(device))
    tower.requires_grad_(False)
    tower.eval()
    cache = getattr(section, "cache", "")
    if not cache:
        return Live(tower, config.train.micro_batch)
    return make_cached(tower, source, Path(cache), config, device, bars)


def make_cached(
    tower: Tower, source: Source, cache: Path, config: Config, device: torch.device, bars: Bars
) -> Cached:
    """The embeddings of `source` by `tower` in a store below `cache`, made now where they are not there."""
    folder = store_folder(cache, tower.fingerprint(), source.fingerprint)
    with bars.counting(f"Embedding the pool with {tower.name}") as progress:
        store = build_store(
            folder,
            source,
            tower,
            micro_batch=config.train.micro_batch,
            dtype=config.reference.cache_dtype,
            progress=progress,
        )
    sample = source.read(range(min(64, len(source))), [])
    return Cached(store, device, tower.forward_flops(sample.texts))
