"""Times of calls measured in turns, so that a temporary slowdown of the machine affects all of them."""

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
    """Seconds per call.

    Attributes:
        median: over all calls.
        p95: the time within which 95 of 100 calls finish.
        low: the lowest median of a round.
        high: the highest median of a round.
        calls: number of timed calls.
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
    """Time each call repeatedly, all calls in each of several rounds.

    Args:
        calls: the calls to time.
        rounds: number of rounds.
        seconds: duration of a turn, after one untimed call; at least three calls are timed.
        before: for each call, the preparation before its turn.
        tick: called with the number of finished turns.
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
    # The smallest time within which at least 95 of 100 calls finish.
    p95 = every[-(-95 * len(every) // 100) - 1]
    return Times(statistics.median(every), p95, min(medians), max(medians), len(every))
