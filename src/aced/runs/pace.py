"""The speed of a run, its time by phase, and the share of its data that is unusable.

These are the figures in the bar, in trackers and in `aced status`; nothing here needs torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from aced.pool.faults import HARMLESS


@dataclass(frozen=True)
class Totals:
    """The totals of a run after a step, from its beginning.

    Attributes:
        step: steps taken.
        samples: pairs trained on.
        seconds: wall time by phase (load, score, select, train).
    """

    step: int
    samples: float
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Pace:
    """The pace of a run between two of its steps.

    Attributes:
        images: pairs trained on per second of step time; evaluations and checkpoints do not count.
        step_seconds: seconds per step.
        shares: share of each phase in that time, in [0, 1]; they add up to 1.
    """

    images: float
    step_seconds: float
    shares: dict[str, float]

    def values(self) -> dict[str, float]:
        """The figures by name."""
        return {"images_per_second": self.images, "step_seconds": self.step_seconds, **self.shares}


def pace(before: Totals, after: Totals) -> Pace | None:
    """The pace between two totals of one run; None if no step or no time lies between them."""
    spent = {phase: total - before.seconds.get(phase, 0.0) for phase, total in after.seconds.items()}
    steps, seconds = after.step - before.step, sum(spent.values())
    if steps <= 0 or seconds <= 0:
        return None
    shares = {phase: part / seconds for phase, part in spent.items()}
    return Pace((after.samples - before.samples) / seconds, seconds / steps, shares)


class Recent:
    """The pace over the last `steps` steps of a current run."""

    def __init__(self, steps: int) -> None:
        self._kept: deque[Totals] = deque(maxlen=steps + 1)

    def add(self, totals: Totals) -> Pace | None:
        """Add the totals after a step; the pace since the oldest that is kept."""
        self._kept.append(totals)
        return pace(self._kept[0], totals)


@dataclass(frozen=True)
class Invalid:
    """The unusable samples of the data.

    Attributes:
        share: of all samples, in [0, 1]: those left out before reading and, of the others, the unreadable part of those
            read so far.
        reason: the most common fault's name; empty if there is none.
    """

    share: float
    reason: str


def invalid(counts: Mapping[str, float], *, total: int, read: int, unreadable: int) -> Invalid:
    """The share of invalid samples.

    Args:
        counts: faults by name, the harmless ones too.
        total: samples of the source, without those left out at indexing.
        read: number of them that were read.
        unreadable: number of these that could not be used.
    """
    lost = {name: count for name, count in counts.items() if name not in HARMLESS and count}
    left_out = max(0.0, sum(lost.values()) - unreadable)
    usable = total / (total + left_out) if total else 1.0
    if read:
        usable *= 1 - unreadable / read
    return Invalid(1 - usable, max(lost, key=lambda name: lost[name]) if lost else "")


def shares_text(shares: Mapping[str, float]) -> str:
    """The phases' shares in brief: `load 12 score 30 select 8 train 50 %`."""
    return " ".join(f"{phase} {100 * share:.0f}" for phase, share in shares.items()) + " %"


def percent(share: float) -> str:
    """A share in percent; small ones keep enough digits to differ from zero.

    >>> [percent(v) for v in (0, 0.0000002, 0.00002, 0.0034, 0.034, 0.5, 0.999)]
    ['0 %', '<0.001 %', '0.002 %', '0.34 %', '3.4 %', '50 %', '99.9 %']
    """
    if 0 < share < 1e-5:
        return "<0.001 %"
    return f"{100 * share:.{2 if share < 0.99 else 3}g} %"


def pace_text(now: Pace | None, share: float) -> str:
    """A line for the terminal: images/s, the phases' shares and the share of invalid samples."""
    speed = [f"{now.images:,.0f} images/s", shares_text(now.shares)] if now else []
    return " · ".join([*speed, f"invalid {percent(share)}"])
