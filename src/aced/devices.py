"""The device that a name means, and the time that its work takes."""

from __future__ import annotations

import time
from collections.abc import Callable

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


def clock_of(device: torch.device) -> Callable[[], float]:
    """Seconds that have passed since some moment; on a GPU, once it has done all that this thread asked of it."""
    if device.type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.current_stream(device).synchronize()
        return time.perf_counter()

    return clock
