"""TensorBoard, W&B and trackio behind one small interface."""

from __future__ import annotations

import contextlib
import io
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.files.atomic import write_atomic

EVENTS, TOLD = "tensorboard", "trackers.json"


class TensorBoard:
    """Event files in `RUN/tensorboard`.

    Args:
        folder: the run's.
        step: where the run continues: entries that earlier processes wrote for this step and later ones are discarded,
            as TensorBoard does on reading, because the run sends them again.
    """

    name = "tensorboard"

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        events = folder / EVENTS
        again = events.is_dir() and any(events.iterdir())
        self._writer = SummaryWriter(str(events), purge_step=step if again else None)
        self.where = f"tensorboard --logdir {events}"

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Write events, and flush them: those before a checkpoint outlast a kill."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        """Close the file."""
        self._writer.close()


class Service:
    """A run in a service that keeps every line it receives, and must receive none twice, even from a resumed run.

    `RUN/trackers.json` records the lines sent. The record is written first: a kill between the two costs the service a
    line, which `metrics.jsonl` has, but duplicates none.

    Attributes:
        id: of the run in the service; the same in every process of the run.
    """

    where = ""
    _run: Any = None

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._file = name, folder / TOLD
        self._last: dict[str, Any] = self._read().get(name) or {"id": uuid.uuid4().hex[:12]}
        self.id = str(self._last["id"])

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Send the values, if they are new."""
        if step > self._last.get(kind, -1):
            self._last[kind] = step
            write_atomic(self._file, json.dumps(self._read() | {self.name: self._last}))
            self._run.log(dict(values), step=step)

    def _read(self) -> dict[str, Any]:
        if not self._file.is_file():
            return {}
        try:
            return dict(json.loads(self._file.read_bytes()))
        except ValueError:
            raise AcedError(
                f"{self._file} is damaged; delete it, and trackers show the rest of this run as a new one."
            ) from None


class WandB(Service):
    """A run in W&B, with its own id, so that it continues when the run does; its files are in `RUN/wandb`.

    The environment sets project and mode: WANDB_PROJECT (default `aced`), WANDB_MODE=offline, ...
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        import wandb

        super().__init__(folder, "wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "aced"),
            name=folder.name,
            id=self.id,
            resume="allow",
            dir=str(folder),
            config=settings,
            settings=wandb.Settings(console="off", silent=True),
        )
        self.where = f"wandb sync {Path(self._run.dir).parent}" if self._run.offline else self._run.url

    def close(self, *, failed: bool) -> None:
        """Let W&B send the rest."""
        self._run.finish(exit_code=int(failed))


class Trackio(Service):
    """A run in trackio, found again by its name; the environment sets its place (TRACKIO_DIR, TRACKIO_SPACE_ID)."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        import trackio

        super().__init__(folder, "trackio")
        project, name = os.environ.get("TRACKIO_PROJECT", "aced"), f"{folder.name}-{self.id}"
        with contextlib.redirect_stdout(io.StringIO()):  # half a page of advice
            self._run = trackio.init(project=project, name=name, resume="allow", config=settings, embed=False)
        self.where = f"trackio show --project {project}"

    def close(self, *, failed: bool) -> None:
        """Let trackio write the rest."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
