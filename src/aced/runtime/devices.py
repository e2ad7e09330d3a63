"""Devices by name, clocks for their work, and transfer of their results."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch
from torch import Tensor

from aced.errors import AcedError


class Clock(Protocol):
    """Measures durations on a device that may still be working when asked."""

    def mark(self) -> Any:
        """This moment."""
        ...

    def between(self, start: Any, end: Any, *, wait: bool) -> float | None:
        """Seconds between two moments; None if the device has not reached the second, unless it should `wait`."""
        ...


class HostClock:
    """The clock of a device that has finished its work when a call returns."""

    def mark(self) -> float:
        """As in `Clock`."""
        return time.perf_counter()

    def between(self, start: float, end: float, *, wait: bool) -> float:
        """As in `Clock`."""
        return end - start


def find_device(name: str, said: str) -> torch.device:
    """The device of a name; `auto` is CUDA if available.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        said: the user's own words, for the error.

    Raises:
        AcedError: torch knows no such device, or it does not exist here.
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


def clock_of(device: torch.device) -> Clock:
    """The clock for a device's work."""
    return StreamClock(device) if device.type == "cuda" else HostClock()


class StreamClock:
    """Times a GPU's work by events in its stream, without waiting for it.

    A phase lasts as long as the GPU takes between its two moments, idle or not: the cost of loading is the time that
    the GPU waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        """As in `Clock`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def between(self, start: torch.cuda.Event, end: torch.cuda.Event, *, wait: bool) -> float | None:
        """As in `Clock`."""
        if wait:
            end.synchronize()
        elif not end.query():
            return None
        return start.elapsed_time(end) / 1000


def sent(values: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device; transfer to a GPU is asynchronous."""
    if device.type != "cuda" or values.device.type == "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class Readout:
    """Numbers that a device may still be computing, on their way to the host without waiting.

    Args:
        values: a tensor, which may be overwritten afterwards.

    Attributes:
        late: whether they may still need waiting for.
    """

    def __init__(self, values: Tensor) -> None:
        if values.device.type != "cuda":
            self._host, self._arrived = values.detach().to("cpu", copy=True), None
            self.late = False
            return
        self.late = True
        self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._host.copy_(values.detach(), non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record(torch.cuda.current_stream(values.device))

    def read(self) -> Tensor:
        """The numbers, on the CPU, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host
