"""The order of a run, from its config and pool; it also settles `auto`, permanently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aced.config import Config
from aced.errors import AcedError
from aced.pool.fetch.fetching import most_of
from aced.pool.fetch.streamed import streams
from aced.pool.manyviews import ViewedOrder
from aced.pool.orders.mixed_plan import MixedPlan
from aced.pool.orders.mixture import Mixture
from aced.pool.orders.order import Order, Orders
from aced.pool.orders.plan import Plan, Plans
from aced.pool.orders.sharing import check_ranks
from aced.pool.orders.streams import starts_of
from aced.pool.source import Source

LOCALITY = 16
"""K for a pool that is too large for one permutation."""
LARGE, MANY = 20_000_000, 10_000
"""Samples, and tars, of the largest pool that is permuted as a whole: 160 MB in each process."""
STREAMS = 8
"""Default number of streams: processes of a node with up to 8 GPUs can share them."""
_SMALL = 0.02
"""Share of the samples that may sit an epoch out to allow more streams."""


@dataclass(frozen=True)
class RunOrder:
    """The order in which a run reads its pool; made once, by `make_run_order`.

    Attributes:
        samples: the samples of each step.
        plan: which tars are needed when; None if the order uses any of them at any time.
        locality, streams: the settled values of `data.locality` and `data.streams`; streams are a number where needed.
        made_for: its inputs.
    """

    samples: Orders
    plan: Plans | None
    locality: int | Literal["auto"]
    streams: int | Literal["auto"]
    made_for: tuple[object, ...]

    def settled(self, config: Config) -> Config:
        """The config with the settled values of `data.locality` and `data.streams`."""
        return _with(config, locality=self.locality, streams=self.streams)

    def fits(self, config: Config, source: Source, ranks: int) -> bool:
        """Whether `make_run_order` would make the same order."""
        return self.made_for == _made_for(config, source, ranks)


def make_run_order(config: Config, source: Source, ranks: int) -> RunOrder:
    """The order of a run, with `auto` settled.

    Args:
        config: the run's.
        source: its pool.
        ranks: processes of the job.

    Raises:
        AcedError: the processes cannot share the streams, these do not fit the data, or the super-batch is larger than
            the data.
    """
    found = _settled(config, source, ranks)
    plan = _plan(found, *_sizes(source))
    samples = _samples(found, len(source), source.mixture, plan)
    return RunOrder(samples, plan, found.data.locality, found.data.streams, _made_for(config, source, ranks))


def make_order(config: Config, n: int, mixture: Sequence[int] = (), tars: Sequence[int] = ()) -> Orders:
    """The samples of each step, for a pool of n samples.

    Args:
        config: seed, sizes, and weights if there are several sources; `auto` counts as 0.
        n: number of samples.
        mixture: samples of each source; read if the config has weights.
        tars: samples of each tar, if there are any.

    Raises:
        AcedError: the super-batch is larger than the data, or `data.streams` does not fit it.
    """
    return _samples(config, n, mixture, _plan(config, mixture, tars))


def _samples(config: Config, n: int, mixture: Sequence[int], plan: Plans | None) -> Orders:
    size, train, seed = config.super_batch, config.train, config.run.seed
    if config.data.weights and config.data.shards:
        return Mixture(mixture, config.data.weights, size, seed) if plan is None else plan
    if size > n:
        what = f"The batch of {size} (train.batch)"
        remedy = "train.batch"
        if size > train.batch:
            what = f"The super-batch of {size} (train.batch {train.batch} / (1 - method.filtering_ratio))"
            remedy = "train.batch or method.filtering_ratio"
        raise AcedError(f"{what} is larger than the data ({n} samples): lower {remedy}, or add data.")
    order = plan or Order(n, size, seed)
    return ViewedOrder(order, config.data.views) if config.data.views > 1 else order


def _made_for(config: Config, source: Source, ranks: int) -> tuple[object, ...]:
    return config.data, config.run.seed, config.train.batch, config.super_batch, len(source), ranks


def _settled(config: Config, source: Source, ranks: int) -> Config:
    """The config with numbers for `data.locality` and `data.streams`, if needed."""
    (mixture, tars), data = _sizes(source), config.data
    if data.locality == "auto":
        large = len(source) > LARGE or len(tars) > MANY
        if streams(source):
            config = _with(config, locality=_brought(config, source, ranks))
        elif large and _fitting(_with(config, locality=LOCALITY), mixture, tars, ranks):
            config = _with(config, locality=LOCALITY)
        else:
            return _with(config, locality=0)
    if config.data.locality == 0:
        return config
    if data.streams == "auto":
        config = _with(config, streams=_fitting(config, mixture, tars, ranks) or ranks)
    check_ranks(int(config.data.streams), ranks)
    return config


def _brought(config: Config, source: Source, ranks: int) -> int:
    """The largest locality up to `LOCALITY` with which the tars read at the same time fit into the spool, or 1."""
    mixture, tars = _sizes(source)
    locality = LOCALITY
    while locality > 1:
        tried = _with(config, locality=locality)
        if config.data.streams == "auto":
            tried = _with(tried, streams=_fitting(tried, mixture, tars, ranks) or ranks)
        plan = _plan(tried, mixture, tars)
        sizes = [most_of(source.places, plan.visits(rank, ranks, 0)) for rank in range(ranks)] if plan else []
        if sizes and all(most <= room for most, room in sizes):
            break
        locality //= 2
    return locality


def recorded(config: Config, before: Mapping[str, Any]) -> Config:
    """The config of a resumed run: `auto` has the value that was settled when the run began.

    Args:
        config: today's.
        before: the resolved values that the run has saved, by section; older runs had a single permutation.
    """
    saved = {"locality": 0, "streams": "auto"} | dict(before.get("data", {}))
    return _with(config, **{k: saved[k] for k in ("locality", "streams") if getattr(config.data, k) == "auto"})


def order_text(order: RunOrder, config: Config, source: Source, ranks: int) -> str:
    """Remarks about the order: the settled values of `auto`, and the samples that sit an epoch out; may be empty.

    Args:
        order: of the run.
        config: as it was given.
        source: the pool.
        ranks: processes of the job.
    """
    plan = order.plan
    if plan is None:
        return ""
    words, (mixture, tars) = [], _sizes(source)
    if config.data.locality == "auto":
        words.append(
            f"With {len(source):,} samples in {len(tars):,} tars the order is data.locality="
            f"{order.locality}, data.streams={plan.streams}: each of {plan.streams} streams mixes "
            f"{order.locality} tars at a time."
        )
    if plan.left_out > _most_left_out(plan):
        settled = order.settled(config)
        fewer = [n for n in range(ranks, plan.streams, ranks) if plan.batch % n == 0]
        plans = ((n, _plan(_with(settled, streams=n), mixture, tars)) for n in fewer)
        better = [n for n, other in plans if other is not None and other.left_out < plan.left_out]
        hint = f"; fewer streams reduce that, for example data.streams={better[-1]}" if better else ""
        words.append(f"{100 * plan.left_out:.1f} % of the samples sit each epoch out, different ones each time{hint}.")
    return " ".join(words)


def _most_left_out(plan: Plans) -> float:
    """The share that may sit an epoch out unreported, beyond those that do not fill a super-batch."""
    return _SMALL + plan.n % plan.batch / plan.n


def _sizes(source: Source) -> tuple[Sequence[int], Sequence[int]]:
    """Samples of each source, if they are apart, and of each tar; nothing if there are none."""
    return source.mixture, source.part_sizes


def _with(config: Config, **values: object) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update=values)})


def _plan(config: Config, mixture: Sequence[int], tars: Sequence[int]) -> Plans | None:
    data, batch, seed = config.data, config.super_batch, config.run.seed
    if data.locality in (0, "auto") or not data.shards:
        return None
    streams = 1 if data.streams == "auto" else data.streams
    if data.weights:
        return MixedPlan(tars, _tars_of(mixture, tars), data.weights, batch, seed, int(data.locality), streams)
    return Plan(tars, batch, seed, int(data.locality), streams)


def _tars_of(mixture: Sequence[int], tars: Sequence[int]) -> list[int]:
    """Number of tars of each source; an empty tar between two sources counts for either."""
    starts = starts_of(np.asarray(tars, dtype=np.int64))
    owners = np.searchsorted(np.cumsum(mixture), starts, side="right").clip(max=len(mixture) - 1)
    return [int(count) for count in np.bincount(owners, minlength=len(mixture))]


def _fitting(config: Config, mixture: Sequence[int], tars: Sequence[int], ranks: int) -> int:
    """The most streams, usually at most `STREAMS`, with which few samples sit an epoch out; 0 if none fit."""
    found: list[tuple[Plans, int]] = []
    count = ranks
    while count <= max(STREAMS, ranks):
        try:
            plan = _plan(_with(config, streams=count), mixture, tars)
        except AcedError:
            plan = None
        if plan is not None:
            found.append((plan, count))
        count *= 2
    few = [count for plan, count in found if plan.left_out <= _most_left_out(plan)]
    return max(few) if few else min(((plan.left_out, count) for plan, count in found), default=(0, 0))[1]


def check_divisible(config: Config, ranks: int) -> None:
    """Raise an AcedError if the ranks cannot have equal shares of the batch and the super-batch."""
    for size, what, key in (
        (config.train.batch, "batch", "train.batch"),
        (config.super_batch, "super-batch", "train.batch or method.filtering_ratio"),
    ):
        if size % ranks:
            raise AcedError(f"The {what} of {size} cannot be divided by {ranks} processes: change {key}.")
