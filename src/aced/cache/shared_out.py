"""Distribution of tars: shares of a list for processes that need no communication, and Ray's actors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aced.cache.embed_options import EmbedOptions
from aced.cache.job import EmbedTally, TarEmbedder
from aced.errors import AcedError


@dataclass(frozen=True)
class TarShare:
    """Process `index` (from 0) of `count`, and its number `local` on its own machine."""

    index: int
    count: int
    local: int = 0

    def of(self, tars: Sequence[str]) -> list[str]:
        """Every `count`-th tar, from number `index` on."""
        return list(tars[self.index :: self.count])


def own_share(text: str = "") -> TarShare:
    """This process's share: `I/N` if given, torchrun's part of that, or everything.

    Args:
        text: `I/N`, I from 0 to N - 1, as for a job array; torchrun's processes divide that share further.

    Raises:
        AcedError: it has another form.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text) if text else None
    if text and (match is None or int(match[1]) >= int(match[2])):
        raise AcedError(f"--share is '{text}'; write I/N with I from 0 to N - 1, for example 0/4.")
    outer, shares = (int(match[1]), int(match[2])) if match else (0, 1)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return TarShare(outer * world + rank, shares * world, int(os.environ.get("LOCAL_RANK", "0")))


def with_ray(job: EmbedOptions, tars: Sequence[str], actors: int) -> Iterator[EmbedTally]:
    """The tallies of single tars, as Ray's actors finish them; each actor loads the model once.

    If `RAY_ADDRESS` names a cluster (`ray job submit` sets it), it is joined; otherwise one is started on this machine.
    An actor gets one GPU if the cluster has any (and the job's device is not `cpu`), otherwise one CPU for each of the
    job's threads.

    Raises:
        AcedError: Ray is not installed, or as an actor raises.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        raise AcedError(
            "--ray needs Ray: run `pip install 'aced[ray]'`, or use torchrun, which needs no package."
        ) from None
    started = not ray.is_initialized()
    if started:
        # Without an address Ray starts as many CPUs as it finds; even a small machine must hold the actors.
        local = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False, "num_cpus": _cpus(job, actors)}
        ray.init(log_to_driver=False, **local)
    try:
        gpu = job.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        remote: Any = (
            ray.remote(num_gpus=1)(TarEmbedder) if gpu else ray.remote(num_cpus=max(1, job.threads))(TarEmbedder)
        )
        pool = ActorPool([remote.remote(job) for _ in range(max(1, min(actors, len(tars))))])
        call: Callable[[Any, str], Any] = lambda actor, tar: actor.__call__.remote([tar])  # noqa: E731
        yield from pool.map_unordered(call, list(tars))
    except ray.exceptions.RayError as error:
        raise _plain(error) from error
    finally:
        if started:
            ray.shutdown()


def _cpus(job: EmbedOptions, actors: int) -> int:
    return max(os.cpu_count() or 1, actors * max(1, job.threads))


def _plain(error: Exception) -> AcedError:
    """An actor's error, without Ray's traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, AcedError):
        return AcedError(str(cause))
    return AcedError(f"An actor of Ray failed: {str(error).strip().splitlines()[-1]}")
