"""Times of calls that are measured in turns, so that what slows the machine for a while slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Call = Callable[[], object]
"""Returns when the work is done."""
_FEWEST = 3


@dataclass(frozen=True)
class Times:
    """Seconds of one call.

    Attributes:
        median: over all calls.
        p95: the time that 95 of 100 calls stay within.
        low: the lowest median of a round.
        high: the highest median of a round.
        calls: how many were timed.
    """

    median: float
    p95: float
    low: float
    high: float
    calls: int


def measure(
    calls: Sequence[Call],
    rounds: int,
    seconds: float,
    before: Sequence[Call],
    tick: Callable[[int], object] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Times]:
    """Time each call again and again, all calls in each of several rounds.

    Args:
        calls: what is timed.
        rounds: how often all calls have their turn.
        seconds: how long a turn lasts, after a call that is not timed; at least three calls are.
        before: for each call, what is done before its turn.
        tick: told how many turns are over.
        clock: the time in seconds.
    """
    taken: list[list[list[float]]] = [[] for _ in calls]
    for turn in range(rounds):
        for number, call in enumerate(calls):
            before[number]()
            call()
            found: list[float] = []
            while len(found) < _FEWEST or sum(found) < seconds:
                start = clock()
                call()
                found.append(clock() - start)
            taken[number].append(found)
            tick(turn * len(calls) + number + 1)
    return [_times(found) for found in taken]


def _times(rounds: Sequence[Sequence[float]]) -> Times:
    every = sorted(value for found in rounds for value in found)
    medians = [statistics.median(found) for found in rounds]
    # The smallest time that at least 95 of 100 calls stay within.
    p95 = every[-(-95 * len(every) // 100) - 1]
    return Times(statistics.median(every), p95, min(medians), max(medians), len(every))
