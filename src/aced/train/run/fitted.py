"""A finished run, and its row of the results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aced.evaluate.zeroshot import Scores, scores_json
from aced.models import Tower
from aced.runs.ledger import Ledger
from aced.train.feed import Faults


@dataclass
class Fitted:
    """A finished run: its model, its scores and its cost.

    Attributes:
        student: the trained model.
        scores: its zero-shot scores; with several processes only the first one has them.
        ledger: the cost of the run.
        faults: samples that could not be used.
        clean_share: the share of sound pairs among those trained on, if the source knows; otherwise None.
        folder: of the run.
        step: the last step.
    """

    student: Tower
    scores: Scores
    ledger: Ledger
    faults: Faults
    clean_share: float | None
    folder: Path
    step: int


def row_of(fitted: Fitted, name: str, title: str, seed: int) -> dict[str, Any]:
    """One row of results.json."""
    return {
        "method": name,
        "title": title,
        "seed": seed,
        **scores_json(fitted.scores),
        "budgets": fitted.ledger.budgets(),
        "clean_share": fitted.clean_share,
        "run": str(fitted.folder),
    }
