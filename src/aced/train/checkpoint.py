"""Checkpoints: safetensors and JSON, never pickle; a folder that is either whole or not there.

`checkpoints/step-00000400/` holds `model/` (what `load_tower` reads), `train.safetensors` (optimiser, objective and
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
from aced.core.ledger import Ledger
from aced.data.atomic import folder_atomic, remove_whole, save_tensors_atomic, sync, write_atomic, writing
from aced.data.losttars import KnownTars
from aced.data.source import Fault
from aced.errors import AcedError
from aced.towers import Tower, save_tower
from aced.train.feed import Faults
from aced.train.sharding import part_like, whole
from aced.train.step import Trainer
from aced.train.watch import Metrics

_FORMAT = 1
_TARS = "tars.json"
# Keys that a resumed run may change: they change nothing in what it computes, or (threads, device) only the rounding,
# which is told; a run that stopped at too many faults goes on with another limit.
_FREE = {
    "run.out",
    "run.device",
    "run.threads",
    "run.log_every",
    "run.trackers",
    "run.checkpoint_every",
    "run.checkpoint_minutes",
    "run.keep",
    "run.keep_best",
    "run.parallel",
    "run.timeout",
    "data.max_bad_share",
    "data.bad_tars",
    "data.lost_tars",
    "data.workers",
    "data.index_dir",
    "data.in_memory",
    "data.spool_dir",
    "data.spool_gb",
    "reference.cache_missing",
    "teacher.cache_missing",
    "scoring.device",
}


def save_checkpoint(folder: Path, trainer: Trainer, metrics: Metrics, config: Config) -> Path:
    """Write `folder/step-N` atomically, and then remove all but the newest `run.keep`.

    Every process of the job takes part, and the first one writes.

    Raises:
        AcedError: the disk is full or the folder cannot be written; nothing half-written is kept.
    """
    student, tensors = trainer.replica.whole_student(), _tensors(trainer)
    target = _target(folder, trainer)
    if trainer.world.first:
        _write(target, trainer, metrics, config, student, tensors)
    trainer.world.meet()
    return target


def write_checkpoint(folder: Path, trainer: Trainer, metrics: Metrics, config: Config) -> Path:
    """As `save_checkpoint`, by a process that holds the whole state and asks no other one."""
    target = _target(folder, trainer)
    _write(target, trainer, metrics, config, trainer.replica.whole_student(), _tensors(trainer))
    return target


def _target(folder: Path, trainer: Trainer) -> Path:
    return folder / f"step-{trainer.step:08d}"


def _write(
    target: Path, trainer: Trainer, metrics: Metrics, config: Config, student: Tower, tensors: dict[str, torch.Tensor]
) -> None:
    if not target.exists():
        # The lines first: no checkpoint may outlive, in a power cut, a line that is before it.
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
    """The newest whole checkpoint of a run, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def read_facts(path: Path) -> dict[str, Any]:
    """What `train.json` of a checkpoint says.

    Raises:
        AcedError: it is damaged.
    """
    with _reading(path):
        facts = json.loads((path / "train.json").read_bytes())
        if facts["format"] != _FORMAT:
            raise AcedError(f"The checkpoint {path} was written by another version of aced; use that version.")
        return dict(facts)


def read_tars(path: Path) -> KnownTars:
    """The tars of the run that a checkpoint is of; none where it has none, or is older than this file of it.

    Raises:
        AcedError: it is damaged.
    """
    with _reading(path):
        return KnownTars.load(json.loads((path / _TARS).read_bytes())) if (path / _TARS).exists() else KnownTars(())


def load_checkpoint(path: Path, trainer: Trainer, metrics: Metrics, config: Config) -> None:
    """Put a trainer back to where a checkpoint was written.

    Raises:
        AcedError: the checkpoint is damaged, or of another configuration (names the first key that differs), other
            data or other frozen models.
    """
    facts = read_facts(path)
    with _reading(path):
        check_same(facts["config"], config, path)
        _check_marks(facts["marks"], trainer, path)
        tensors = load_file(path / "train.safetensors")
        trainer.replica.load(load_file(path / "model" / "model.safetensors"))
        trainer.replica.scaler.load_state_dict(facts.get("scaler", {}))
        trainer.objective.load_state_dict(_under("objective.", tensors))
        _load_optimizer(trainer.optimizer, tensors)
        trainer.generator.set_state(tensors["generator"])
        held, device = _under("chooser.", tensors), trainer.student.device
        # Embeddings go where the student is; positions and steps stay on the CPU.
        trainer.chooser.load({k: v.to(device) if k.endswith((".image", ".text")) else v for k, v in held.items()})
        trainer.ledger = Ledger(**facts["ledger"], clock=trainer.ledger.clock)
        _load_faults(trainer.faults, facts["faults"])
        trainer.step, trainer.unscored = facts["step"], facts.get("unscored", False)
        if trainer.world.first:
            metrics.rewind(trainer.step, facts["metrics"])


def check_same(saved: dict[str, dict[str, Any]], config: Config, where: Path) -> None:
    """Raise an AcedError where a run of the config `saved` cannot go on with `config`.

    A key that there was not yet counts as its default, which is what the run then did.
    """
    saved = saved | {"data": _today(saved.get("data", {}))}
    for section, values in config:
        if section == "eval":
            continue
        earlier = type(values)().model_dump(mode="json") | saved.get(section, {})
        for key, value in values.model_dump(mode="json").items():
            before = earlier[key]
            if f"{section}.{key}" not in _FREE and before != value:
                raise AcedError(
                    f"{where} is of another configuration: {section}.{key} was {before!r} and is now {value!r}; set it "
                    "back, or choose another run.out for a new run."
                )


def _today(data: dict[str, Any]) -> dict[str, Any]:
    """A saved `data` section with `decoding` where it has what came before it; the default is not what that did."""
    if "scaled_decoding" in data and "decoding" not in data:
        return data | {"decoding": "scaled" if data["scaled_decoding"] else "exact"}
    return data


def _check_marks(saved: dict[str, str], trainer: Trainer, path: Path) -> None:
    for what, mark in trainer.marks.items():
        if saved.get(what) != mark:
            how = _how(path, trainer) if what == "the data" else ""
            raise AcedError(
                f"{path} cannot be gone on from: {what} changed since it was written{how}; put back what was there, or "
                "choose another run.out for a new run."
            )


def _how(path: Path, trainer: Trainer) -> str:
    """In what the data changed, where the checkpoint knows their tars, and what can be done about it."""
    differences = read_tars(path).differences(trainer.tars) if trainer.tars.tars else []
    if not differences:
        return ""
    return f" ({', '.join(differences)}): set data.lost_tars=allow to go on with the tars that are left"


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged checkpoint raises into an AcedError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        raise AcedError(
            f"The checkpoint {path} is damaged ({reason}); delete that folder to go on from the one before it."
        ) from error


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    tensors = {"generator": trainer.generator.get_state()}
    tensors |= {f"objective.{k}": v for k, v in trainer.objective.state_dict().items()}
    tensors |= {f"chooser.{k}": v for k, v in trainer.chooser.tensors().items()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": whole(value) for name, value in state.items()}
    return tensors


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
        "scaler": trainer.replica.scaler.state_dict(),
        "marks": trainer.marks,
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


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in _under("optimizer.", tensors).items():
        number, _, field = name.partition(".")
        state.setdefault(int(number), {})[field] = part_like(value, parameters[int(number)])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _load_faults(faults: Faults, saved: dict[str, Any]) -> None:
    faults.read, faults.keys = saved["read"], set(saved["keys"])
    faults.counts = Counter(saved["counts"])
    faults.examples = {name: Fault(*fields) for name, fields in saved["examples"].items()}


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
