"""Checkpoints: safetensors and JSON, never pickle; a folder is either complete or absent.

`checkpoints/step-00000400/` holds `model/` (for `load_tower`), `train.safetensors` (optimiser, objective and
generator), `tars.json` (the tars of the data) and `train.json` (step, ledger, counts, the resolved config, hashes of
the data and the frozen models).
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from aced.config import Config
from aced.errors import AcedError
from aced.files.atomic import folder_atomic, remove_whole, save_tensors_atomic, sync, write_atomic, writing
from aced.models import Tower, save_tower
from aced.pool.source import Fault
from aced.pool.tars.losttars import KnownTars
from aced.runs.ledger import Ledger
from aced.runs.run_folder import CHECKPOINTS, is_run, read_config
from aced.train.feed import Faults
from aced.train.met import Met
from aced.train.providers import Cached, Provider
from aced.train.run.automatic import tf32_of
from aced.train.run.resuming import Earlier
from aced.train.run.student import check_student
from aced.train.sharding import part_like, whole_optimizer
from aced.train.step import Trainer
from aced.train.watch import Metrics

_FORMAT = 1
_TARS = "tars.json"


def save_checkpoint(folder: Path, trainer: Trainer, metrics: Metrics, config: Config) -> Path:
    """Write `folder/step-N` atomically, and then remove all but the newest `run.keep`.

    Every process of the job takes part, and the first one writes.

    Raises:
        AcedError: the disk is full or the folder cannot be written; no partial checkpoint is kept.
    """
    student, tensors = trainer.replica.whole_student(), _tensors(trainer)
    target = _target(folder, trainer)
    if trainer.world.first:
        _write(target, trainer, metrics, config, student, tensors)
    trainer.world.meet()
    return target


def write_checkpoint(folder: Path, trainer: Trainer, metrics: Metrics, config: Config) -> Path:
    """As `save_checkpoint`, by a process that holds the whole state and needs no other."""
    target = _target(folder, trainer)
    _write(target, trainer, metrics, config, trainer.replica.whole_student(), _tensors(trainer))
    return target


def _target(folder: Path, trainer: Trainer) -> Path:
    return folder / f"step-{trainer.step:08d}"


def _write(
    target: Path, trainer: Trainer, metrics: Metrics, config: Config, student: Tower, tensors: dict[str, torch.Tensor]
) -> None:
    if not target.exists():
        # The lines first: even in a power cut no checkpoint may outlive a line that precedes it.
        for lines in (metrics.path, metrics.evals):
            if lines.is_file():
                with writing(lines):
                    sync(lines)
        with folder_atomic(target) as temporary:
            save_tower(student, temporary / "model")
            save_tensors_atomic(temporary / "train.safetensors", tensors)
            if trainer.tars.tars:
                write_atomic(temporary / _TARS, json.dumps(trainer.tars.values()))
            write_atomic(temporary / "train.json", json.dumps(_facts(trainer, metrics, config), indent=1))
    drop_older(target.parent, config.run.keep)


def drop_older(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints.

    Raises:
        AcedError: one cannot be removed.
    """
    for old in _checkpoints(folder)[:-keep]:
        remove_whole(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def read_facts(path: Path) -> dict[str, Any]:
    """The content of a checkpoint's `train.json`.

    Raises:
        AcedError: it is damaged.
    """
    with _reading(path):
        facts = json.loads((path / "train.json").read_bytes())
        if facts["format"] != _FORMAT:
            raise AcedError(f"The checkpoint {path} was written by another version of aced; use that version.")
        return dict(facts)


def _read_tars(path: Path) -> KnownTars:
    """The tars of a checkpoint's run; none if it has none, or predates this file.

    Raises:
        AcedError: it is damaged.
    """
    with _reading(path):
        return KnownTars.load(json.loads((path / _TARS).read_bytes())) if (path / _TARS).exists() else KnownTars(())


def load_checkpoint(path: Path, trainer: Trainer, metrics: Metrics, config: Config) -> None:
    """Restore a trainer to the state of a checkpoint.

    Raises:
        AcedError: the checkpoint is damaged, or has another configuration (names the first key that differs), other
            data, another student or other frozen models.
    """
    earlier = _earlier(path)
    facts = earlier.facts
    with _reading(path):
        earlier.allowed(config)
        earlier.check_rounding(trainer.student, config)
        check_student(path, trainer.student)
        earlier.check_all(trainer.marks, trainer.tars)
        tensors = load_file(path / "train.safetensors")
        trainer.replica.load(load_file(path / "model" / "model.safetensors"))
        trainer.replica.scale.load(facts.get("scaler", {}))
        trainer.objective.load_state_dict(_under("objective.", tensors))
        _load_optimizer(trainer.optimizer, tensors)
        trainer.generator.set_state(tensors["generator"])
        held, device = _under("chooser.", tensors), trainer.student.device
        # Embeddings go to the student's device; positions and steps stay on the CPU.
        if trainer.memory is not None:
            trainer.memory.load({k: v.to(device) if k.endswith((".image", ".text")) else v for k, v in held.items()})
        if trainer.history is not None:
            trainer.history.load(held)
        trainer.ledger = Ledger(**facts["ledger"], clock=trainer.ledger.clock)
        _load_faults(trainer.faults, facts["faults"])
        trainer.step, trainer.unscored = facts["step"], facts.get("unscored", False)
        if trainer.world.first:
            metrics.rewind(trainer.step, facts["metrics"])


def earlier_run(folder: Path) -> Earlier | None:
    """The run in a folder, from its newest checkpoint or otherwise its config.toml; None without one.

    Raises:
        AcedError: the checkpoint or config.toml is damaged.
    """
    if (path := latest_checkpoint(folder / CHECKPOINTS)) is not None:
        return _earlier(path)
    return Earlier(folder, read_config(folder), {}, {}) if is_run(folder) else None


def _earlier(path: Path) -> Earlier:
    facts = read_facts(path)
    with _reading(path):
        return Earlier(path, facts["config"], facts["marks"], facts, _read_tars(path))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn any exception from a damaged checkpoint into an AcedError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        raise AcedError(
            f"The checkpoint {path} is damaged ({reason}); delete that folder to continue from the one before it."
        ) from error


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    tensors = {"generator": trainer.generator.get_state()}
    tensors |= {f"objective.{k}": v for k, v in trainer.objective.state_dict().items()}
    for one in trainer.remembered:
        tensors |= {f"chooser.{k}": v for k, v in one.tensors().items()}
    states = whole_optimizer([trainer.student, trainer.objective], trainer.optimizer)
    return tensors | {f"optimizer.{k}": v for k, v in states.items()}


def _facts(trainer: Trainer, metrics: Metrics, config: Config) -> dict[str, Any]:
    faults = trainer.faults
    return {
        "format": _FORMAT,
        "step": trainer.step,
        "unscored": trainer.unscored,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": trainer.student.device.type,
        "processes": trainer.world.size,
        "precision": trainer.settings.precision,
        "tf32": tf32_of(config),
        "scaler": trainer.replica.scale.state(),
        "marks": trainer.marks,
        "caches": {one.fingerprint: one.store.mark for one in _providers(trainer) if isinstance(one, Cached)},
        "ledger": trainer.ledger.state(),
        "metrics": metrics.state(),
        "faults": {
            "read": faults.read,
            "unreadable": faults.met.count,
            "met": sorted(faults.met.hashes),
            "counts": dict(faults.counts),
            "examples": {name: [f.key, f.name, f.detail] for name, f in faults.examples.items()},
        },
        "config": config.model_dump(mode="json"),
    }


def _providers(trainer: Trainer) -> list[Provider | None]:
    return [trainer.reference, *trainer.teachers]


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in _under("optimizer.", tensors).items():
        number, _, field = name.partition(".")
        state.setdefault(int(number), {})[field] = part_like(value, parameters[int(number)])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _load_faults(faults: Faults, saved: dict[str, Any]) -> None:
    faults.read = saved["read"]
    if "keys" in saved:  # an earlier version kept all of them
        faults.met = Met.of(saved["keys"])
    else:
        faults.met.count, faults.met.hashes = saved["unreadable"], set(saved["met"])
    faults.counts = Counter(saved["counts"])
    faults.examples = {name: Fault(*fields) for name, fields in saved["examples"].items()}


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
