"""Batches on a device: each is assembled in pinned memory and sent while the device works on the previous one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from aced.pool.loader.assembly import Place
from aced.pool.source import Candidates, Column, Key

_AHEAD = 2
"""Batches that may be on the device beside the one being sent: more would only take memory."""


class Line(Protocol):
    """The transfer to a device."""

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory that can be sent from."""
        ...

    def send(self, batch: Candidates) -> tuple[Candidates, Any]:
        """A batch on the device, or on its way there, and a mark after it."""
        ...

    def receive(self, batch: Candidates, mark: Any) -> None:
        """Make later work of the device wait for the mark, then use the batch."""
        ...

    def mark(self) -> Any:
        """A mark after all work that the device was given so far."""
        ...

    def wait(self, mark: Any) -> None:
        """Wait until the device, or the transfer, has reached a mark."""
        ...


class CudaLine:
    """A separate stream beside that of the training step."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """As in `Line`: pinned."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def send(self, batch: Candidates) -> tuple[Candidates, torch.cuda.Event]:
        """As in `Line`."""
        with torch.cuda.stream(self._stream):
            return batch.each(lambda values: values.to(self._device, non_blocking=True)), self._stream.record_event()

    def receive(self, batch: Candidates, mark: torch.cuda.Event) -> None:
        """As in `Line`."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(mark)
        for values in batch.tensors().values():
            values.record_stream(current)  # otherwise their memory would be freed before they were read

    def mark(self) -> torch.cuda.Event:
        """As in `Line`."""
        return torch.cuda.current_stream(self._device).record_event()

    def wait(self, mark: torch.cuda.Event) -> None:
        """As in `Line`."""
        mark.synchronize()


class _Buffer:
    """Memory from which batches are sent one after the other."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._rooms: dict[Key, Tensor] = {}
        self.mark: Any = None

    def place(self, key: Key, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory for a tensor, once the previous content has been sent."""
        if self.mark is not None:
            self._line.wait(self.mark)
            self.mark = None
        room = self._rooms.get(key)
        if room is None or len(room) < shape[0] or room.shape[1:] != shape[1:] or room.dtype != dtype:
            room = self._rooms[key] = self._line.room(shape, dtype)
        return room[: shape[0]]


class Sent(Iterator[Candidates]):
    """Batches on a device, each sent one step before it is needed.

    Args:
        take: returns the next batch, in the memory that it receives; None at the end.
        columns: the content of the batches.
        line: the transfer to the device.
    """

    def __init__(self, take: Callable[[Place], Candidates | None], columns: Sequence[Column], line: Line) -> None:
        self._take, self._line = take, line
        self._columns = {column.name: column for column in columns}
        self._buffers = deque([_Buffer(line), _Buffer(line)])
        self._in_use: deque[Any] = deque()
        self._coming: tuple[Candidates, Any] | Exception | None = None
        self._begun = False

    def __next__(self) -> Candidates:
        if not self._begun:
            self._coming, self._begun = self._begin(), True
        coming = self._coming
        if coming is None:
            raise StopIteration
        if isinstance(coming, Exception):
            raise coming
        # After all work on the previous batch: the device has finished with it when it reaches this mark.
        self._in_use.append(self._line.mark())
        if len(self._in_use) > _AHEAD:
            self._line.wait(self._in_use.popleft())
        self._line.receive(*coming)
        self._coming = self._begin()
        return coming[0]

    def _begin(self) -> tuple[Candidates, Any] | Exception | None:
        """Send the next batch; a failure is raised in its turn, because the previous step comes first."""
        buffer = self._buffers[0]
        self._buffers.rotate()
        try:
            batch = self._take(buffer.place)
        except Exception as error:
            return error
        if batch is None:
            return None
        sent, buffer.mark = self._line.send(self._needed(batch, buffer.place))
        return sent, buffer.mark

    def _needed(self, batch: Candidates, place: Place) -> Candidates:
        """The batch, with only the columns that a device needs, and a list of it that stays here."""
        columns = dict(batch.columns)
        for name, values in batch.columns.items():
            needed = self._columns[name].sent(values)
            if needed.shape != values.shape:
                columns[name] = place(("sent", name), tuple(needed.shape), needed.dtype)
                columns[name].copy_(needed)
        return replace(batch, columns=columns, listed=batch.indices.clone())
