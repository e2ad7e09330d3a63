"""The contract of a tracker: it receives the numbers of a line under names with slashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class Tracker(Protocol):
    """A tracker. It draws from no global generator, and may raise any exception of its library.

    Attributes:
        name: as in `run.trackers`.
        where: where a user can see the run: an address, or a folder.
    """

    name: str
    where: str

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Receive the values of a step; `kind` is `train` or `eval`, each at most once per step, in ascending order.

        Values received before the run's next checkpoint must survive a kill.
        """
        ...

    def close(self, *, failed: bool) -> None:
        """The run ends here; `failed`: with an exception."""
        ...


_NO_VALUES = {"step", "steps", "clock"}


def train_values(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of `metrics.jsonl`: `loss`, `learnability/chosen`, `seconds/load`, ..."""
    return dict(_flat({key: value for key, value in line.items() if key not in _NO_VALUES}))


def eval_values(line: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a line of `evals.jsonl`, in percent: `eval/average` and `eval/task/NAME`."""
    tasks = {name: 100 * task["value"] for name, task in line["tasks"].items()}
    return dict(_flat({"eval": {"average": line["average"], "task": tasks}}))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}/{key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)
