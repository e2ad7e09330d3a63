"""A procedural world of image-caption pairs: pools with known faults, and tasks to score on."""

from __future__ import annotations

from aced.lab.scenes.scene_captions import vocabulary
from aced.lab.scenes.scene_pool import (
    DEFAULT_MIX,
    REDUNDANT_MIX,
    Mix,
    Scenes,
    make_curated,
    make_pool,
)
from aced.lab.scenes.scene_tasks import make_tasks
from aced.lab.scenes.world import IMAGE_SIZE

__all__ = [
    "DEFAULT_MIX",
    "IMAGE_SIZE",
    "REDUNDANT_MIX",
    "Mix",
    "Scenes",
    "make_curated",
    "make_pool",
    "make_tasks",
    "vocabulary",
]
