"""What a caller in Python hands over in the place of what a config would name: a source, models, tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aced.config import Config
from aced.errors import AcedError
from aced.evaluate.tasks import Task
from aced.evaluate.zeroshot import check_names
from aced.models import Tower
from aced.pool.source import Source, check_source
from aced.train.run.automatic import device_of
from aced.train.run.student import check_student

GIVEN = "given"
"""As `reference.model`: a model that is handed over."""


@dataclass(frozen=True)
class Given:
    """What was handed over; None for what the config names.

    Attributes:
        source: the pool.
        student: the model to train, which is changed.
        reference: the frozen model that scores, and teaches where the config names no teacher.
        tasks: what the student is evaluated on.
    """

    source: Source | None = None
    student: Tower | None = None
    reference: Tower | None = None
    tasks: Sequence[Task] | None = None

    def check(self, config: Config) -> None:
        """Raise an AcedError for a config that names another one of what is handed over."""
        if self.source is not None:
            check_source(self.source, "The source that is handed over")
        if self.source is not None and config.data.shards:
            raise AcedError("A source is handed over, and data.shards names tars: leave one of them out.")
        if self.reference is not None and config.reference.model not in ("", GIVEN):
            raise AcedError(
                f"A reference is handed over, and reference.model = '{config.reference.model}': leave one of them out."
            )
        if self.tasks is not None:
            if config.eval.tasks:
                raise AcedError("Tasks are handed over, and eval.tasks names others: leave one of them out.")
            check_names(self.tasks)
        no_tasks = not config.eval.tasks and not self.tasks
        if self.source is not None and config.eval.every and no_tasks:
            raise AcedError("eval.every needs tasks to evaluate on: hand some over, or set eval.tasks.")

    def student_of(self, config: Config, resumed: Path | None) -> Tower | None:
        """The student that was handed over, on the run's device; it must be that of a checkpoint that is resumed."""
        if self.student is None:
            return None
        if resumed is not None:
            check_student(resumed, self.student)
        return self.student.to(device_of(config))

    def reference_of(self, config: Config) -> Tower | None:
        """The reference that was handed over, frozen and on the run's device."""
        if self.reference is None:
            return None
        return self.reference.to(device_of(config)).requires_grad_(False).eval()
