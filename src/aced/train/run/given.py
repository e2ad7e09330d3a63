"""What a caller in Python hands over instead of naming it in the config: a source, models, tasks."""

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
"""Value of `reference.model` for a model that is handed over."""


@dataclass(frozen=True)
class Given:
    """The objects that were handed over; None for those that the config names.

    Attributes:
        source: the pool.
        student: the model to train, which is modified.
        reference: the frozen model that scores, and the teacher unless the config names one.
        tasks: evaluation tasks for the student.
    """

    source: Source | None = None
    student: Tower | None = None
    reference: Tower | None = None
    tasks: Sequence[Task] | None = None

    def check(self, config: Config) -> None:
        """Raise an AcedError for a config that names another one of the same."""
        if self.source is not None:
            check_source(self.source, "The source that is handed over")
        if self.source is not None and config.data.shards:
            raise AcedError("A source is handed over, but data.shards names tars: leave out one of them.")
        if self.reference is not None and config.reference.model not in ("", GIVEN):
            raise AcedError(
                f"A reference is handed over, but reference.model = '{config.reference.model}': leave out one of them."
            )
        if self.tasks is not None:
            if config.eval.tasks:
                raise AcedError("Tasks are handed over, but eval.tasks names others: leave out one of them.")
            check_names(self.tasks)
        no_tasks = not config.eval.tasks and not self.tasks
        if self.source is not None and config.eval.every and no_tasks:
            raise AcedError("eval.every needs tasks to evaluate on: hand some over, or set eval.tasks.")

    def student_of(self, config: Config, resumed: Path | None) -> Tower | None:
        """The handed-over student, on the run's device; it must match the checkpoint that is resumed."""
        if self.student is None:
            return None
        if resumed is not None:
            check_student(resumed, self.student)
        return self.student.to(device_of(config))

    def reference_of(self, config: Config) -> Tower | None:
        """The handed-over reference, frozen and on the run's device."""
        if self.reference is None:
            return None
        return self.reference.to(device_of(config)).requires_grad_(False).eval()
