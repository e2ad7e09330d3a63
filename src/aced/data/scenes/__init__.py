"""A procedural world of image-caption pairs: pools with known faults, and tasks to score on."""

from __future__ import annotations

from aced.data.scenes.captions import vocabulary
from aced.data.scenes.pool import (
    DEFAULT_MIX,
    REDUNDANT_MIX,
    Mix,
    Scenes,
    make_curated,
    make_pool,
)
from aced.data.scenes.tasks import make_tasks
from aced.data.scenes.world import IMAGE_SIZE

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
