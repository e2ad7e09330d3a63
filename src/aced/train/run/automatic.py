"""The values of `auto` in a run's config on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from aced.config import Config
from aced.pool.inmemory import decoded_bytes, free_memory
from aced.pool.loader.loading import Loading
from aced.pool.loader.shared_memory import workers_that_fit
from aced.pool.views import View
from aced.runtime.devices import find_device
from aced.runtime.precision import Precision, find_precision, find_tf32
from aced.runtime.threads import available_cores
from aced.train.distributed import local_device

MOST_WORKERS = 8
"""Maximum number of loading processes per GPU if none is configured."""
SHARE = 0.25
"""Maximum share of free memory for `data.in_memory = auto`: models, batches and other programs need some too."""


def device_of(config: Config) -> torch.device:
    """The device that `run.device` names; `auto` is CUDA if available.

    Raises:
        AcedError: torch knows no such device, or it does not exist here.
    """
    name = local_device(config.run.device)
    return find_device(name, f"run.device = '{name}'")


def precision_of(config: Config) -> Precision:
    """The precision of the towers: the student, the frozen models, and evaluation."""
    return find_precision(config.train.precision, device_of(config))


def tf32_of(config: Config) -> bool:
    """Whether the run's float32 matrix products may use TensorFloat-32."""
    return find_tf32(config.train.tf32, precision_of(config), device_of(config))


def workers_of(config: Config, *, in_memory: bool = False, item: int = 0) -> int:
    """Number of processes that load data for this one.

    Args:
        config: the run's.
        in_memory: whether the data is already in memory.
        item: bytes that they hand over at a time; `auto` stays within the room in `/dev/shm`.
    """
    asked = config.data.workers
    if asked != "auto":
        return asked
    return 0 if in_memory or not config.data.shards else workers_beside(device_of(config), item)


def workers_beside(device: torch.device, item: int = 0) -> int:
    """Default number of processes that load for a model on a device; `item` as in `workers_of`."""
    if device.type != "cuda":
        return 0
    share = available_cores() // _ranks_here() - 1
    return workers_that_fit(item, min(MOST_WORKERS, max(1, share)))


def loading_of_tasks(config: Config) -> Loading:
    """How evaluation images are decoded during a run, in each process."""
    asked = config.data.workers
    workers = workers_beside(device_of(config)) if asked == "auto" else asked
    return Loading(workers, config.run.timeout, config.data.start_method)


def keeps_decoded(config: Config, samples: int, views: Sequence[View]) -> tuple[bool, str]:
    """Whether a pool of this many samples is decoded once, and a sentence if `auto` decided against it."""
    asked = config.data.in_memory
    if not config.data.shards or asked is False or (asked == "auto" and config.data.caption_choice == "random"):
        return False, ""
    if asked is True:
        return True, ""
    need, free = decoded_bytes(samples, views), free_memory()
    if free is None or need * _ranks_here() <= SHARE * free:
        return True, ""
    return False, (
        f"The pool takes {need / 1e9:,.1f} GB decoded{' for each process' * (_ranks_here() > 1)} but {free / 1e9:,.1f} "
        "GB of memory are free: its images are read from the tars (data.in_memory=true keeps them anyway)."
    )


def _ranks_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
