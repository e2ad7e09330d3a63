"""The lines of a run's log, made from logged steps and the trainer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aced.runs.lines import RunLines, trim_lines
from aced.train.step import Outcome, Trainer


class Metrics(RunLines):
    """The lines of a run, one per logged step.

    `kinds` says how each sample was corrupted, if the source knows; it is read here, to report what the selection kept,
    and nowhere else.
    """

    def __init__(self, path: Path, kinds: Sequence[str] | None, every: int) -> None:
        super().__init__(path)
        self.kinds, self.every = kinds, every
        self._started = time.time()
        self.chosen_total: Counter[str] = Counter()
        self._chosen: Counter[str] = Counter()
        self._pool: Counter[str] = Counter()
        self._uncounted: list[tuple[int, Tensor, Tensor]] = []  # step, candidates, rows

    def state(self) -> dict[str, dict[str, int]]:
        """The counts, for a checkpoint."""
        self._count()
        return {"total": dict(self.chosen_total), "chosen": dict(self._chosen), "pool": dict(self._pool)}

    def rewind(self, step: int, state: dict[str, dict[str, int]]) -> None:
        """Return to a checkpoint: drop the lines after `step`, which the resumed run writes again."""
        trim_lines(self.path, step)
        self.chosen_total, self._chosen, self._pool = (Counter(state[k]) for k in ("total", "chosen", "pool"))
        self._uncounted.clear()

    def forget(self, step: int) -> None:
        """Leave out the steps after `step`, about which nothing has been written."""
        self._uncounted = [seen for seen in self._uncounted if seen[0] <= step]

    def logs(self, step: int, steps: int) -> bool:
        """Whether step number `step` of `steps` gets a line."""
        return step % self.every == 0 or step == steps

    def note(self, trainer: Trainer, outcome: Outcome) -> dict[str, Any] | None:
        """Count a step; on every `every`-th and on the last step write and return its line.

        The device's results for a step are read with the next line, so that no other step waits for them.
        """
        if self.kinds is not None:
            self._uncounted.append((outcome.step, outcome.candidates, outcome.rows))
        if not self.logs(outcome.step, trainer.settings.steps):
            return None
        return self.write(trainer, outcome)

    def write(self, trainer: Trainer, outcome: Outcome) -> dict[str, Any]:
        """Write and return the line of a noted step."""
        self._count()
        line = self._line(trainer, outcome)
        self.append(line)
        self.chosen_total.update(self._chosen)
        self._chosen.clear()
        self._pool.clear()
        return line

    def _count(self) -> None:
        """Count the kinds of the candidates and chosen rows since the last time."""
        for _, candidates, rows in self._uncounted:
            assert self.kinds is not None
            pool = [self.kinds[i] for i in candidates.tolist()]
            self._pool.update(pool)
            self._chosen.update(pool[row] for row in rows.tolist())
        self._uncounted.clear()

    def _line(self, trainer: Trainer, outcome: Outcome) -> dict[str, Any]:
        scores, parts = outcome.scores, outcome.parts
        budgets = trainer.ledger.budgets()
        scale, bias = (torch.as_tensor(v).item() for v in trainer.student.scale_and_bias())
        line: dict[str, Any] = {
            "step": outcome.step,
            "steps": trainer.settings.steps,
            "loss": parts.loss.item(),
            "contrastive": None if parts.contrastive is None else parts.contrastive.item(),
            "kd": None if parts.distillation is None else parts.distillation.item(),
            "lr": outcome.lr,
            "scale": scale,
            "bias": bias,
            "grad_norm": outcome.grad_norm.item(),
            "learnability": _means(scores, outcome.rows),
            "budgets": budgets,
            "flops": dict(trainer.ledger.flops),
            "cached_flops": trainer.ledger.cached_flops,
            "seconds": dict(trainer.ledger.seconds),
            "faults": dict(trainer.faults.counts),
            "samples": trainer.faults.samples(),
            # The start of this process and the time of the line (Unix time): a run may have paused in between.
            "clock": {"started": self._started, "written": time.time()},
        }
        if self.kinds is not None:
            line["kinds"] = {"chosen": dict(self._chosen), "pool": dict(self._pool)}
        return line


def _means(scores: Tensor | None, rows: Tensor) -> dict[str, float] | None:
    # A joint draw by the softmax loss starts with zero scores for all: a single pair has no loss there.
    # NaN are candidates that were not scored.
    if scores is None or not scores.nan_to_num().any():
        return None
    return {"pool": scores.nanmean().item(), "chosen": scores[rows].nanmean().item()}
