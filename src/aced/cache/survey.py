"""A survey of a source's side-cars: which exist and what they hold, from their list or their headers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aced.cache.home import Home
from aced.cache.making import EmbedSettings
from aced.cache.rowcodec import DTYPES
from aced.cache.sidecar import (
    Damaged,
    Part,
    SideCarInfo,
    check_made_for,
    sidecar_name,
)
from aced.cache.sidecarlist import SideCarList
from aced.errors import AcedError


@dataclass(frozen=True)
class StoreInfo:
    """The common properties and sums of a store's side-cars.

    Attributes:
        tower: name of the model.
        identity: its hashes, see `SideCarInfo`.
        n: samples of the source.
        d, views, dtype: shape and type of the embeddings; views is the smallest number of any side-car.
        scale, bias: logit scale and bias of the model.
        bytes: of all files.
        usable: samples that have an embedding.
        faults: why the others have none: samples by name of the fault.
        seconds, flops: total cost of making the side-cars, whenever that was.
    """

    tower: str
    identity: dict[str, str]
    n: int
    d: int
    views: int
    dtype: str
    scale: float
    bias: float
    bytes: int
    usable: int
    faults: dict[str, int]
    seconds: float
    flops: float


class Survey:
    """The existing side-cars of some parts, P of them; 130 bytes per part.

    Args:
        home: place of the model's side-cars.
        identity: the model's `identity()`.
        parts: of the source.
        settings: the requested type and views.
        repair: whether a damaged side-car counts as missing.
        listed: the list of the folder's side-cars, if already read.

    Attributes:
        home, parts, identity: as above.
        missing: numbers of the parts without a side-car.
        damaged: those of them whose side-car is damaged.
        rows, usable, sizes: `[P]` int64, number of samples in each side-car, number with an embedding, and bytes.
        hashes: `[P]` S64, the `SideCarInfo.sha256` of each.
        listed: the list, with the headers that were read added; it is not written.

    Raises:
        AcedError: a side-car is damaged (without `repair`), belongs to something else, has another type or fewer views.
    """

    def __init__(
        self,
        home: Home,
        identity: Mapping[str, str],
        parts: Sequence[Part],
        settings: EmbedSettings,
        *,
        repair: bool = False,
        listed: SideCarList | None = None,
    ) -> None:
        if settings.dtype not in DTYPES:
            raise AcedError(f"Embeddings are stored as {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, not {settings.dtype}.")
        self.home, self.parts = home, parts
        self.identity, self._settings = identity, settings
        self.listed = SideCarList(home) if listed is None else listed
        self.rows, self.usable, self.sizes = (np.zeros(len(parts), dtype=np.int64) for _ in range(3))
        self._views, self._seconds, self._flops = (np.zeros(len(parts)) for _ in range(3))
        self.hashes = np.zeros(len(parts), dtype="S64")
        self._faults: dict[int, dict[str, int]] = {}
        self._first: SideCarInfo | None = None
        self.missing: list[int] = []
        self.damaged: list[int] = []
        for number in range(len(parts)):
            self._look(number, repair=repair)

    def _look(self, number: int, *, repair: bool) -> None:
        part = self.parts[number]
        name = sidecar_name(part)
        state = self.home.state(name)
        if state is None:
            self.missing.append(number)
            return
        called = self.home.named(name)
        try:
            info = self.listed.get(name, state)
            if info is None:
                info = self.home.info(name, self.identity, part)
                self.listed.add(name, state, info)
            else:
                check_made_for(called, info, self.identity, part)
        except Damaged:
            if not repair:
                raise
            self.missing.append(number)
            self.damaged.append(number)
            return
        check_wanted(called, info, self._settings)
        self._put(number, info, state.size)

    def _put(self, number: int, info: SideCarInfo, size: int) -> None:
        self.rows[number], self.usable[number], self.sizes[number] = info.n, info.usable, size
        self._views[number], self._seconds[number], self._flops[number] = info.views, info.seconds, info.flops
        self.hashes[number] = info.sha256
        if info.faults:
            self._faults[number] = info.faults
        if self._first is None:
            self._first = info

    def faults(self, number: int) -> dict[str, int]:
        """The faults of a part's samples without an embedding, counted by name."""
        return self._faults.get(number, {})

    def info(self) -> StoreInfo:
        """The sums, if nothing is missing."""
        first, faults = self._first, Counter[str]()
        assert first is not None
        for number in sorted(self._faults):
            faults.update(self._faults[number])
        return StoreInfo(
            tower=first.tower,
            identity=first.identity,
            n=sum(map(len, self.parts)),
            d=first.d,
            views=int(self._views.min()),
            dtype=first.dtype,
            scale=first.scale,
            bias=first.bias,
            bytes=int(self.sizes.sum()),
            usable=int(self.usable.sum()),
            faults=dict(faults),
            # One after the other, so that the last bits equal those of earlier versions.
            seconds=sum(self._seconds.tolist()),
            flops=sum(self._flops.tolist()),
        )

    def mark(self) -> str:
        """A mark of every byte of the side-cars, but not of when and how fast they were made."""
        return hashlib.sha256(json.dumps([one.decode() for one in self.hashes.tolist()]).encode()).hexdigest()


def check_wanted(path: str, info: SideCarInfo, settings: EmbedSettings) -> None:
    """Refuse a side-car of another type, or with fewer views."""
    for what, there, asked, wrong in (
        ("embeddings as", info.dtype, settings.dtype, info.dtype != settings.dtype),
        ("views:", info.views, settings.views, info.views < settings.views),
    ):
        if wrong:
            raise AcedError(
                f"The side-car {path} holds {what} {there}, but {asked} is requested: request {there}, or "
                "choose another cache folder."
            )
