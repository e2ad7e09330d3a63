"""The MODEL argument of `aced eval`: a run folder, a model folder, a repository, or an open_clip name with weights."""

from __future__ import annotations

from pathlib import Path

import torch

from aced.models import Tower, load_recipe, trained_recipe
from aced.models.compat import import_open_clip
from aced.models.hub_files import FileProgress
from aced.runtime.devices import find_device
from aced.runtime.startup import uncollected


def open_model(model: str, checkpoint: str, device: str, progress: FileProgress | None = None) -> Tower:
    """The tower to evaluate, in evaluation mode.

    Args:
        model: a run folder, an exported model's folder, `hf-hub:ORGANISATION/MODEL`, an open_clip JSON config, or an
            open_clip name.
        checkpoint: a local file of weights, or one of the name's tags; needed with a name or a config.
        device: `auto`, or a torch device.
        progress: opens a bar for downloads.

    Raises:
        AcedError: there is no such model, it has no trained weights, or the device does not exist.
    """
    with uncollected():
        import_open_clip()
    place = device_of(device)
    return load_recipe(trained_recipe(model, checkpoint), place, 0, progress).eval()


def device_of(name: str) -> torch.device:
    """The device of a name; `auto` is CUDA if available.

    Raises:
        AcedError: torch knows no such device, or it does not exist here.
    """
    return find_device(name, f"--device {name}")


def default_folder(model: str) -> Path:
    """The default folder of results: `eval` in a run folder, `eval-<model>` here for everything else."""
    path = Path(model)
    if (path / "model").is_dir():
        return path / "eval"
    if path.name == "model" and (path.parent / "config.toml").is_file():
        return path.parent / "eval"
    return Path(f"eval-{path.stem if path.suffix == '.json' else path.name}")
