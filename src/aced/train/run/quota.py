"""The sources of a pool where each gets its own share of every batch (`method.quota`)."""

from __future__ import annotations

import torch
from torch import Tensor

from aced.config import Config
from aced.errors import AcedError
from aced.pool.source import Source


def source_ends(config: Config, source: Source, ranks: int) -> Tensor | None:
    """`[k]` int64, the position after the last pair of each source, on the CPU; None if all pairs compete.

    Args:
        config: the run's.
        source: its pool.
        ranks: processes of the job.

    Raises:
        AcedError: there is a single source, or several processes would have to choose together.
    """
    if not config.method.quota:
        return None
    if len(source.mixture) < 2:
        raise AcedError(
            f"method.quota shares each batch among the sources of the pool, but {source.name} is a single one: give "
            "data.shards an entry for each source (a source of your own lists them in `mixture`), or set "
            "method.quota=false."
        )
    if ranks > 1 and config.row.chooses:
        raise AcedError(
            f"method.quota chooses in a single process, and this job has {ranks}: start one, or set method.quota=false."
        )
    return torch.tensor(source.mixture).cumsum(0)
