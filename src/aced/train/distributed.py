"""The processes of a job: one, or several that torchrun started, which exchange tensors over gloo or NCCL.

The rest of the package knows only a `World`. In a single process every exchange returns its input.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _set_pg_timeout

from aced.core.embeddings import Embeddings
from aced.core.ranks import Alone
from aced.core.shares import Share
from aced.errors import AcedError
from aced.train.heartbeat import Counters

T = TypeVar("T")

_FIRST_STEP = datetime.timedelta(minutes=30)
"""Ranks that compile their models or fill their loaders reach the first exchanges minutes apart."""


class World(Alone):
    """A job of one process, and the operations of any job beyond those of `core` (`aced.core.ranks.TorchRanks`).

    Every process makes the same calls in the same order; in each, tensors have one type and one number of columns.

    Attributes:
        rank: this process, from 0.
        size: W, the number of processes.
    """

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def exchange(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Send rows: the first `send[0]` to rank 0 and so on; `receive[r]` come from rank r, in that order."""
        return rows

    def meet(self) -> None:
        """Wait for all ranks without a time limit: for work that only the first does, such as writing and scoring."""

    def check(self) -> None:
        """Raise `JobEnded` if another process has reported why the job ends; for work without exchanges."""

    def connect(self, device: torch.device) -> None:
        """Start the job's exchanges.

        Raises:
            AcedError: NCCL is missing.
        """

    def warm(self) -> None:
        """The first step is finished: exchanges now wait no longer than the job's limit."""

    def close(self) -> None:
        """End the job's exchanges."""

    def tell(self, reason: str) -> bool:
        """Record why the job ends; True for the first rank that does, which should print it."""
        return True

    def leave(self, word: str) -> None:
        """Set a flag that every rank sees from now on."""

    def finds(self, word: str) -> bool:
        """Whether a rank has set a flag; not an exchange, so each may check at any time."""
        return False

    def everyones(self, value: Any) -> list[Any]:
        """Every rank's value, JSON-serialisable; two exchanges."""
        if self.size == 1:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = self.counts(len(own))
        return [json.loads(part.numpy().tobytes()) for part in self.gather(own, lengths).split(lengths)]

    def counts(self, count: int) -> list[int]:
        """Every rank's `count`."""
        return self.gather(torch.tensor([count]), [1] * self.size).tolist()

    def lists(self, values: Tensor, most: int) -> list[Tensor]:
        """Every rank's `values`, `[n]` int64 on the CPU; n may differ between ranks, up to `most`.

        One exchange.
        """
        if self.size == 1:
            return [values]
        padded = torch.zeros(1, 1 + most, dtype=torch.int64)
        padded[0, 0], padded[0, 1 : 1 + len(values)] = len(values), values
        return [row[1 : 1 + int(row[0])] for row in self.gather(padded, [1] * self.size)]

    def in_turn(self, work: Callable[[], T]) -> T:
        """`work()`, by the first rank before the others: they then find its files on the disk."""
        if self.first:
            result = work()
            self.meet()
        else:
            self.meet()
            result = work()
        self.meet()  # unlike other exchanges, without a time limit
        return result

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their mean over the ranks, in one exchange."""
        if self.size == 1 or not tensors:
            return
        flat = self.sum(torch.cat([t.reshape(-1) for t in tensors])) / self.size
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def share(self, own: Embeddings, counts: Sequence[int], multiplied_in: torch.dtype | None = None) -> Share:
        """This rank's pairs of a batch of which rank r has `counts[r]`, for the losses.

        Args:
            own: embeddings of this rank's pairs.
            counts: every rank's number of pairs.
            multiplied_in: type of the losses' products if the device has fast ones; None: that of `own`.
        """
        return Share(own, counts, self, multiplied_in or own.image.dtype)

    def embeddings(self, own: Embeddings, counts: Sequence[int]) -> Embeddings:
        """Every rank's embeddings, one rank after the other, without gradient; rank r has `counts[r]`."""
        own = own.detach()
        if self.size == 1:
            return own
        image, text = self.gather(torch.cat([own.image, own.text], 1), counts).chunk(2, dim=1)
        return Embeddings(image, text, own.scale, own.bias)


class TorchRanks(World):
    """One of torchrun's processes; call `connect` before anything except `tell` and `meet`.

    Args:
        timeout: seconds that an exchange waits for the other ranks; in the first step at least `_FIRST_STEP`.
    """

    def __init__(self, timeout: float) -> None:
        from torch.distributed.rendezvous import rendezvous

        self._limit = datetime.timedelta(seconds=timeout)
        self._store, self.rank, self.size = next(iter(rendezvous("env://", timeout=self._limit)))
        self._meetings = 0

    def connect(self, device: torch.device) -> None:
        """As in `World`: with CUDA, tensors there travel over NCCL, all others over gloo."""
        cuda = device.type == "cuda"
        if cuda:
            if not dist.is_nccl_available():
                raise AcedError(
                    "This build of torch lacks NCCL, which several processes on GPUs need; set run.device=cpu."
                )
            torch.cuda.set_device(device)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=self._store,
            rank=self.rank,
            world_size=self.size,
            timeout=max(self._limit, _FIRST_STEP),
            device_id=device if cuda else None,
        )

    def warm(self) -> None:
        """As in `World`."""
        _set_pg_timeout(self._limit, dist.group.WORLD)

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """As in `aced.core.ranks.TorchRanks`."""
        most = max(counts)
        if most == 0:
            return rows
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def sum(self, values: Tensor) -> Tensor:
        """As in `aced.core.ranks.TorchRanks`."""
        values = values.clone()
        dist.all_reduce(values)
        return values

    def sum_rows(self, values: Tensor, counts: Sequence[int]) -> Tensor:
        """As in `aced.core.ranks.TorchRanks`, summed in the order of ranks."""
        # Not a reduction, which sums in another order on each rank: numbers shared by ranks must be identical.
        own = counts[self.rank]
        first, *others = self.exchange(values, counts, [own] * self.size).split([own] * self.size)
        total = first.clone()
        for other in others:
            total += other
        return total

    def exchange(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """As in `World`."""
        received = rows.new_empty(sum(receive), *rows.shape[1:])
        dist.all_to_all_single(received, rows.contiguous(), list(receive), list(send))
        return received

    def meet(self) -> None:
        """As in `World`: through the store, which has no time limit of its own."""
        self._meetings += 1
        name = f"meeting {self._meetings}"
        self._store.add(name, 1)
        pause = 0.01
        while self._store.add(name, 0) < self.size:
            self.check()
            time.sleep(pause)
            pause = min(0.25, 1.5 * pause)

    def check(self) -> None:
        """As in `World`."""
        if self.ended:
            raise JobEnded

    def tell(self, reason: str) -> bool:
        """As in `World`."""
        return self._store.add("ended", 1) == 1

    def leave(self, word: str) -> None:
        """As in `World`."""
        self._store.add(f"word {word}", 1)

    def finds(self, word: str) -> bool:
        """As in `World`."""
        return self._store.add(f"word {word}", 0) > 0

    def store(self) -> Counters:
        """Another connection to the job's store, for a separate thread."""
        return self._store.clone()

    @property
    def ended(self) -> bool:
        """Whether a rank has reported why the job ends."""
        return self._store.add("ended", 0) > 0

    def close(self) -> None:
        """As in `World`."""
        self.meet()
        dist.destroy_process_group()


class JobEnded(Exception):
    """Another rank has reported why the job ends."""


def open_world(timeout: float) -> World:
    """The job of this process: torchrun's, or a job of one.

    Raises:
        AcedError: the environment is not torchrun's.
    """
    if "RANK" not in os.environ:
        return World()
    missing = [name for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise AcedError(
            f"The environment has RANK but not {missing[0]}: start several processes with torchrun, or unset RANK for "
            "one."
        )
    return TorchRanks(timeout)


def local_device(name: str) -> str:
    """The device that `run.device` means in this process: with torchrun, `auto` and `cuda` are the rank's own GPU.

    Raises:
        AcedError: there are more processes on this machine than GPUs.
    """
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or "RANK" not in os.environ or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    if int(rank) >= torch.cuda.device_count():
        raise AcedError(
            f"Process {rank} of this machine has no GPU: there are {torch.cuda.device_count()}. Start as many with "
            "torchrun --nproc-per-node, or set run.device=cpu."
        )
    return f"cuda:{rank}"
