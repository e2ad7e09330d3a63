"""TensorBoard, W&B and trackio, each behind the same few lines."""

from __future__ import annotations

import contextlib
import io
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.files.atomic import write_atomic

EVENTS, TOLD = "tensorboard", "trackers.json"


class TensorBoard:
    """Event files in `RUN/tensorboard`.

    Args:
        folder: the run's.
        step: where the run goes on: what earlier processes wrote of this step and of later ones is taken back, as
            TensorBoard does when it reads, since the run tells it again.
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


class SentSteps:
    """What a service was told that keeps every line it gets, in `RUN/trackers.json`.

    A resumed run does not tell it a step twice. The note is written first: a kill between the two costs the service a
    line, which `metrics.jsonl` has, and doubles none.

    Attributes:
        name: of the service.
        id: of the run, for the service; the same in every process of the run.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._file, self.name = folder / TOLD, name
        self._last: dict[str, Any] = self._read().get(name) or {"id": uuid.uuid4().hex[:12]}
        self.id = str(self._last["id"])

    def take(self, kind: str, step: int) -> bool:
        """Whether this is news; if so it counts as told from now on."""
        if step <= self._last.get(kind, -1):
            return False
        self._last[kind] = step
        write_atomic(self._file, json.dumps(self._read() | {self.name: self._last}))
        return True

    def _read(self) -> dict[str, Any]:
        if not self._file.is_file():
            return {}
        try:
            return dict(json.loads(self._file.read_bytes()))
        except ValueError:
            raise AcedError(
                f"{self._file} is damaged; delete it, and trackers get this run as a new one from here on."
            ) from None


class Service:
    """A run of a service that keeps every line that it gets, so that each is sent once.

    Args:
        sent: what the service was told.
        run: the service's own object.
        where: what a user opens to see it.
        finish: ends it; gets whether the run failed.
    """

    def __init__(self, sent: SentSteps, run: Any, where: str, finish: Callable[[bool], object]) -> None:
        self.name, self.where = sent.name, where
        self._sent, self._run, self._finish = sent, run, finish

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Hand the values over, if they are news."""
        if self._sent.take(kind, step):
            self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        """Let the service send the rest."""
        self._finish(failed)


def wandb_run(folder: Path, settings: dict[str, Any]) -> Service:
    """A run of W&B, by its own id, so that it goes on when the run does; its files lie in `RUN/wandb`.

    Project and mode are the environment's: WANDB_PROJECT (`aced` where it is not set), WANDB_MODE=offline, ...
    """
    import wandb

    sent = SentSteps(folder, "wandb")
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "aced"),
        name=folder.name,
        id=sent.id,
        resume="allow",
        dir=str(folder),
        config=settings,
        settings=wandb.Settings(console="off", silent=True),
    )
    where = f"wandb sync {Path(run.dir).parent}" if run.offline else run.url
    return Service(sent, run, where, lambda failed: run.finish(exit_code=int(failed)))


def trackio_run(folder: Path, settings: dict[str, Any]) -> Service:
    """A run of trackio, found again by its name; where it lies is the environment's (TRACKIO_DIR, TRACKIO_SPACE_ID)."""
    import trackio

    def quietly(do: Callable[..., Any], **how: Any) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):  # half a page of advice
            return do(**how)

    sent = SentSteps(folder, "trackio")
    project, name = os.environ.get("TRACKIO_PROJECT", "aced"), f"{folder.name}-{sent.id}"
    run = quietly(trackio.init, project=project, name=name, resume="allow", config=settings, embed=False)
    return Service(sent, run, f"trackio show --project {project}", lambda _: quietly(run.finish))
