"""The possible numbers of streams of an order, and their distribution over ranks."""

from __future__ import annotations

from aced.errors import AcedError


def check_streams(batch: int, streams: int) -> None:
    """Raise an AcedError if this number of streams cannot have equal parts of a super-batch."""
    if streams < 1 or batch % streams:
        raise AcedError(
            f"data.streams = {streams} does not divide the super-batch of {batch}: choose one that does, such as "
            f"{', '.join(map(str, _near(batch, streams)))}."
        )


def check_ranks(streams: int, ranks: int) -> None:
    """Raise an AcedError if the streams cannot be distributed over the processes of a job."""
    if streams % ranks:
        fit = [count for count in range(1, streams + 1) if streams % count == 0]
        raise AcedError(
            f"data.streams = {streams}, which a run keeps, cannot be shared by {ranks} processes: start "
            f"{', '.join(map(str, fit[-4:]))} of them, or for a new run set data.streams to a multiple of {ranks}."
        )


def own_streams(streams: int, rank: int, world: int) -> range:
    """The streams that rank `rank` of `world` reads."""
    if streams % world:
        raise ValueError(f"{streams} streams cannot be shared by {world} processes")
    each = streams // world
    return range(rank * each, (rank + 1) * each)


def _near(batch: int, streams: int) -> list[int]:
    """The divisors of a super-batch that are nearest to a number."""
    divisors = {count for low in range(1, int(batch**0.5) + 1) if batch % low == 0 for count in (low, batch // low)}
    return sorted(sorted(divisors, key=lambda count: (abs(count - streams), count))[:4])
