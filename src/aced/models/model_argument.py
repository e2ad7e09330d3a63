"""What MODEL means in `aced eval`: a run folder, a model folder, a repository, or an open_clip name with weights."""

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
        checkpoint: a local file of weights, or a tag of a name's; needed with a name or a config.
        device: `auto`, or what torch calls it.
        progress: opens a bar for what is downloaded.

    Raises:
        AcedError: there is no such model, it has no trained weights, or the device is not there.
    """
    with uncollected():
        import_open_clip()
    place = device_of(device)
    return load_recipe(trained_recipe(model, checkpoint), place, 0, progress).eval()


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
