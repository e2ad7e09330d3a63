"""The device that a name means."""

from __future__ import annotations

import torch

from aced.errors import AcedError


def find_device(name: str, said: str) -> torch.device:
    """The device of a name; `auto` is CUDA where there is one.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        said: how the user gave it, for the error.

    Raises:
        AcedError: torch knows no such device, or it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise AcedError(f"{said} cannot be used here: {reason}; 'auto' chooses one.") from None
    return device
