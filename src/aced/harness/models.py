"""What MODEL means in `aced eval`: a run folder, a model folder, or an open_clip name with a local checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from aced.devices import find_device
from aced.errors import AcedError
from aced.startup import uncollected
from aced.towers import Tower, find_weights, load_tower
from aced.towers.compat import import_open_clip


def open_model(model: str, checkpoint: str, device: str) -> Tower:
    """The tower to evaluate, in evaluation mode.

    Args:
        model: a run folder, an exported model's folder, an open_clip JSON config, or an open_clip name.
        checkpoint: a local file of weights; needed with a name or a config.
        device: `auto`, or what torch calls it.

    Raises:
        AcedError: there is no such model, it has no trained weights, or the device is not there.
    """
    with uncollected():
        import_open_clip()
    if find_weights(model, checkpoint) is None:
        raise AcedError(f"{model} is a model without trained weights: give a local file with --checkpoint.")
    return load_tower(model, checkpoint or None, device=device_of(device), seed=0).eval()


def device_of(name: str) -> torch.device:
    """The device of a name; `auto` is CUDA where there is one.

    Raises:
        AcedError: torch knows no such device, or it is not there.
    """
    return find_device(name, f"--device {name}")


def default_folder(model: str) -> Path:
    """Where results go by default: `eval` in a run folder, `eval-<model>` here for everything else."""
    path = Path(model)
    if (path / "model").is_dir():
        return path / "eval"
    if path.name == "model" and (path.parent / "config.toml").is_file():
        return path.parent / "eval"
    return Path(f"eval-{path.stem if path.suffix == '.json' else path.name}")
