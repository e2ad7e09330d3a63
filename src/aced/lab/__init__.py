"""The laboratory: built-in scenes, their small models, the demo and the LiT-decoder, registered like any plug-in.

Nothing in the product imports it. `aced.registry.plugins` loads it by name, and everything heavy is imported on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aced.registry.makers import Panel, register_architectures, register_panel, register_source, register_task
from aced.runtime.counting import Progress

if TYPE_CHECKING:
    from aced.config import Config
    from aced.evaluate.tasks import Task
    from aced.pool.source import Source


@register_source("scenes", about="built-in pictures of shapes with captions: data.scenes, data.scenes_size")
def _scenes(config: Config, counting: Callable[[str], AbstractContextManager[Progress]]) -> Source:
    from aced.lab.scenes.scene_pool import make_scenes

    return make_scenes(config.data.scenes, config.data.scenes_size, config.data.scenes_seed, counting)


@register_task("scenes", about="zero-shot tasks on built-in scenes that no pool contains")
def _scene_tasks(split: Literal["test", "validation"]) -> list[Task]:
    from aced.lab.scenes import make_tasks

    return make_tasks(split)


@register_architectures("aced", about="small towers for tiny pictures on a CPU: aced-demo-*, aced-photo-*")
def _family() -> Path:
    from aced.lab.family.stem_vit import CONFIGS, register_stem_vits

    register_stem_vits()
    return CONFIGS


@register_panel("decoders", about="results of `aced lit` for the runs' encoders")
def _decoders(runs: Sequence[tuple[str, Path]]) -> Panel | None:
    from aced.lab.lit.decoders import decoder_panel

    return decoder_panel(runs)
