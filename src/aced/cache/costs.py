"""The cost of cached embeddings and of having none: bytes on the disk, FLOPs, seconds."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from aced.cache.making import EmbeddingTower, EmbedSettings
from aced.cache.sidecar import sample_bytes
from aced.cache.survey import StoreInfo
from aced.errors import AcedError


class LiveUse(NamedTuple):
    """How a run uses a frozen model without cached embeddings.

    Attributes:
        name: the run's name for the model.
        pairs: number embedded at every step.
        steps: of the run.
        student_flops: FLOPs of the student at every step.
    """

    name: str
    pairs: int
    steps: int
    student_flops: float


def live_cost(use: LiveUse, tower: EmbeddingTower, texts: Sequence[str], samples: int, settings: EmbedSettings) -> str:
    """Sentences: the cost of a frozen model that embeds at every step, and of embedding the pool once.

    Args:
        use: the run's use of it.
        tower: the model.
        texts: some captions, to estimate the length of texts.
        samples: number in the pool.
        settings: how embeddings would be stored.
    """
    forward = tower.forward_flops(texts)
    spent = use.pairs * forward
    once = samples * forward * _share(tower, settings)
    size = samples * sample_bytes(tower.width, settings.dtype, settings.views)
    return (
        f"No side-car: {tower.name} ({use.name}) embeds {use.pairs} pairs at every step, {spent:.2g} FLOPs, "
        f"{spent / use.student_flops:.2g} times the student's own {use.student_flops:.2g}; all {use.steps} steps "
        f"{spent * use.steps:.2g}. Embedding the {samples:,} pairs once takes {once:.2g} FLOPs and {size_text(size)}"
    )


def _share(tower: EmbeddingTower, settings: EmbedSettings) -> float:
    """A sample's FLOPs with all its views, relative to those of one forward pass."""
    flops = tower.flops(tower.context_length)
    return (settings.views * flops.image + flops.text) / (flops.image + flops.text)


def embedding_cost(stores: Collection[StoreInfo]) -> dict[str, float] | None:
    """The total cost of making some stores of cached embeddings, whenever that was: samples, seconds, FLOPs and bytes.

    Returns:
        None if nothing is cached.
    """
    if not stores:
        return None
    return {
        "samples": sum(info.usable for info in stores),
        "seconds": sum(info.seconds for info in stores),
        "flops": sum(info.flops for info in stores),
        "bytes": sum(info.bytes for info in stores),
    }


def check_space(cache: Path, samples: int, d: int, settings: EmbedSettings, overhead: int = 0) -> int:
    """Free bytes where a cache is or will be; refuses a cache that does not fit.

    Args:
        cache: the cache folder.
        samples, d, settings: how many are embedded, and how.
        overhead: bytes of the headers and keys of all side-cars, see `overhead_bytes`.

    Raises:
        AcedError: the side-cars are larger than the free space.
    """
    there = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    need = samples * sample_bytes(d, settings.dtype, settings.views) + overhead
    if need > free:
        raise AcedError(
            f"The embeddings of {samples:,} samples need {size_text(need)}, but {size_text(free)} are free in {there}: "
            "make room, choose another folder, store fewer views, or store them as int8."
        )
    return free


def size_text(size: float) -> str:
    """A number of bytes in readable form."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 1000 else f"{size:,.0f} TB"
