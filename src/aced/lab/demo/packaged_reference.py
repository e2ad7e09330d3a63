"""The demo's packaged reference: weights in half precision, and a record of their training cost.

    aced demo --methods iid --split validation --threads 1 \\
      --train-reference --keep-reference src/aced/lab/demo/reference

trains it anew and writes both files. The same number of threads on the same processor gives the same weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from aced.errors import AcedError
from aced.files.atomic import save_tensors_atomic, write_atomic
from aced.models import Tower, load_tower

FOLDER = Path(__file__).with_name("reference")
WEIGHTS, RECORD = "weights.safetensors", "training.json"


class Training(BaseModel):
    """The origin of packaged weights and their cost.

    Attributes:
        model: the architecture.
        steps: of training.
        split: of the tasks behind `average`.
        average: the mean score in percent over the tasks that count, before rounding the weights to half precision.
        seconds: processor time of the training process: the wall time of one thread on an idle core.
        flops: of training.
        environment: the machine, the versions and the date.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    steps: int
    split: str
    average: float
    seconds: float
    flops: float
    environment: dict[str, Any]

    @property
    def machine(self) -> str:
        """The processor and the number of threads, in words."""
        threads = self.environment["threads"]
        return f"{self.environment['cpu']}, {threads} thread{'s' * (threads != 1)}"


def keep_reference(tower: Tower, training: Training, folder: Path) -> None:
    """Write weights in half precision and their record into a folder, replacing existing ones.

    Raises:
        AcedError: the disk is full or the folder cannot be written.
    """
    state = {name: _half(tensor) for name, tensor in tower.model.state_dict().items()}
    save_tensors_atomic(folder / WEIGHTS, state)
    write_atomic(folder / RECORD, training.model_dump_json(indent=1) + "\n")


def load_kept(folder: Path = FOLDER, device: torch.device | str = "cpu") -> tuple[Tower, Training]:
    """The packaged reference in single precision, frozen and in evaluation mode, and the record of its training.

    Raises:
        AcedError: a file is missing or damaged, or the weights do not fit the architecture.
    """
    path = folder / RECORD
    try:
        training = Training.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise AcedError(
            f"{path} is missing or damaged ({str(error).splitlines()[0]}); install aced again, or train the reference "
            "with --train-reference."
        ) from None
    tower = load_tower(training.model, folder / WEIGHTS, device)
    return tower.requires_grad_(False).eval(), training


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor
