"""Checkpoints: safetensors and JSON, never pickle; a folder that is either whole or not there.

`checkpoints/step-000400/` holds `model/` (what `load_tower` reads), `train.safetensors` (optimiser, objective and
generator) and `train.json` (step, ledger, counts, the resolved config).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from aced.config import Config
from aced.core.ledger import Ledger
from aced.data.atomic import folder_atomic, save_tensors_atomic, write_atomic
from aced.data.source import Fault
from aced.errors import AcedError
from aced.towers import save_tower
from aced.train.step import Trainer
from aced.train.watch import Metrics

# Keys that do not change what a run computes, so that a resumed run may change them.
_FREE = {
    "run.out",
    "run.log_every",
    "run.checkpoint_every",
    "data.workers",
    "data.index_dir",
    "data.in_memory",
}


def save_checkpoint(
    folder: Path, trainer: Trainer, metrics: Metrics, config: Config, *, keep: int = 2
) -> Path:
    """Write `folder/step-N` atomically and remove all but the newest `keep`.

    Raises:
        AcedError: the disk is full or the folder cannot be written; nothing half-written is kept.
    """
    target = folder / f"step-{trainer.step:08d}"
    if not target.exists():
        with folder_atomic(target) as temporary:
            save_tower(trainer.student, temporary / "model")
            save_tensors_atomic(temporary / "train.safetensors", _tensors(trainer))
            write_atomic(temporary / "train.json", json.dumps(_facts(trainer, metrics, config), indent=1))
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def load_checkpoint(path: Path, trainer: Trainer, metrics: Metrics, config: Config) -> None:
    """Put a trainer back to where a checkpoint was written.

    Raises:
        AcedError: the checkpoint is damaged or of another configuration (names the first key that differs).
    """
    try:
        facts = json.loads((path / "train.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "train.safetensors")
        weights = load_file(path / "model" / "model.safetensors")
    except Exception as error:
        raise AcedError(
            f"The checkpoint {path} cannot be read ({error}); delete that folder to go on from an earlier one."
        ) from error
    _check_same(facts["config"], config, path)
    trainer.student.model.load_state_dict(weights)
    trainer.objective.load_state_dict(_under("objective.", tensors))
    _load_optimizer(trainer.optimizer, tensors)
    trainer.generator.set_state(tensors["generator"])
    trainer.step = facts["step"]
    trainer.ledger.__dict__.update(Ledger(**facts["ledger"]).__dict__)
    _load_faults(trainer, facts["faults"])
    metrics.rewind(trainer.step, facts["metrics"])


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    tensors = {"generator": trainer.generator.get_state()}
    tensors |= {f"objective.{k}": v for k, v in trainer.objective.state_dict().items()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    return tensors


def _facts(trainer: Trainer, metrics: Metrics, config: Config) -> dict[str, Any]:
    faults = trainer.faults
    return {
        "format": 1,
        "step": trainer.step,
        "threads": torch.get_num_threads(),
        "ledger": trainer.ledger.state(),
        "metrics": metrics.state(),
        "faults": {
            "read": faults.read,
            "keys": sorted(faults.keys),
            "counts": dict(faults.counts),
            "examples": {name: [f.key, f.name, f.detail] for name, f in faults.examples.items()},
        },
        "config": config.model_dump(mode="json"),
    }


def _check_same(saved: dict[str, dict[str, Any]], config: Config, path: Path) -> None:
    for section, values in config.model_dump(mode="json").items():
        if section == "eval":
            continue
        for key, value in values.items():
            before = saved.get(section, {}).get(key)
            if f"{section}.{key}" not in _FREE and before != value:
                raise AcedError(
                    f"The checkpoint {path} is of another configuration: {section}.{key} was {before!r} and is now "
                    f"{value!r}; set it back, or choose another run.out for a new run."
                )


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        number, _, field = name.partition(".")
        state.setdefault(int(number), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _load_faults(trainer: Trainer, saved: dict[str, Any]) -> None:
    faults = trainer.faults
    faults.read, faults.keys = saved["read"], set(saved["keys"])
    faults.counts = Counter(saved["counts"])
    faults.examples = {name: Fault(*fields) for name, fields in saved["examples"].items()}


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
