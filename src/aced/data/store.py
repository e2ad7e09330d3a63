"""Cached embeddings: a frozen tower's view of every sample of a source, computed once, kept in side-cars.

A cache folder holds, for each model, one side-car for each tar (`aced.data.sidecar`). A `Store` puts those of one model
and one source together and is asked by positions in the source. Nothing is held per sample: a binary search leads from
a position to its part, and from there it is a row of a memory map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.data.atomic import sweep_leftovers
from aced.data.embedding import EmbeddingTower, Progress, Settings, check_space, embed_parts
from aced.data.rowcodec import DTYPES
from aced.data.sidecar import (
    Damaged,
    Part,
    SideCar,
    SideCarInfo,
    open_sidecar,
    overhead_bytes,
    parts_of,
    sidecar_path,
    tower_folder,
    why_missing,
)
from aced.data.source import Source
from aced.errors import AcedError

_HASHED_BYTES = 1 << 29


@dataclass(frozen=True)
class StoreInfo:
    """What the side-cars of a store have in common, and their sums.

    Attributes:
        tower: name of the model.
        identity: its hashes, see `SideCarInfo`.
        n: samples of the source.
        d, views, dtype: shape and type of the embeddings; views is the smallest number of any side-car.
        scale, bias: logit scale and bias of the model.
        bytes: of all files.
        usable: samples that have an embedding.
        faults: why the others have none: samples by name of the fault.
        seconds, flops: what making the side-cars cost, whenever that was.
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


class Store:
    """Embeddings of one tower, addressed by positions in the source it was opened for.

    Args:
        folder: where the side-cars lie.
        n: samples of the source.
        parts: of the source.
        sidecars: that of each part.
        rows: for each part, the side-car's row of each sample, or None where they agree.

    Attributes:
        folder: where the side-cars lie.
        info: tower, shape and costs.
    """

    def __init__(
        self,
        folder: Path,
        n: int,
        parts: Sequence[Part],
        sidecars: Sequence[SideCar],
        rows: Sequence[np.ndarray | None],
    ) -> None:
        self.folder, self.sidecars = folder, list(sidecars)
        self.info = _sum_up(n, [sidecar.info for sidecar in sidecars], sum(sidecar.bytes for sidecar in sidecars))
        self._starts = np.array([part.start for part in parts], dtype=np.int64)
        self._rows = list(rows)
        self._whole = all(sidecar.info.usable == sidecar.info.n for sidecar in sidecars)

    def __len__(self) -> int:
        """Number of samples of the source."""
        return self.info.n

    def valid(self, indices: Tensor) -> Tensor:
        """Which samples have embeddings: `[B]` source positions to `[B]` bool."""
        if self._whole:
            return torch.ones(len(indices), dtype=torch.bool)
        valid = torch.zeros(len(indices), dtype=torch.bool)
        for sidecar, places, rows in self._found(indices):
            valid[torch.from_numpy(places)] = torch.from_numpy(sidecar.valid(rows))
        return valid

    def lookup(self, indices: Tensor, crops: Tensor | None = None) -> Embeddings:
        """Embeddings of the samples at B source positions: `[B, d]` float32, CPU, rows of unit length.

        Args:
            indices: `[B]` positions.
            crops: `[B]` which view of its image each sample is wanted in; None for the whole image.

        Raises:
            AcedError: a sample was faulty when its side-car was made and so has no embedding.
        """
        if not bool((valid := self.valid(indices)).all()):
            raise AcedError(
                f"{int((~valid).sum())} of {len(indices)} samples have no embedding in {self.folder}, because they "
                "were faulty when it was made; if the data were repaired since then, delete the side-cars of those "
                "tars and run 'aced embed' again."
            )
        image, text = (torch.empty(len(indices), self.info.d) for _ in range(2))
        views = None if crops is None else crops.cpu().numpy()
        for sidecar, places, rows in self._found(indices):
            into = torch.from_numpy(places)
            image[into] = sidecar.image(rows, 0 if views is None else views[places])
            text[into] = sidecar.text(rows)
        return Embeddings(image, text, scale=self.info.scale, bias=self.info.bias)

    def _found(self, indices: Tensor) -> Iterator[tuple[SideCar, np.ndarray, np.ndarray]]:
        """For each side-car that is needed: itself, places in `indices`, and its rows for them."""
        if not len(indices):  # of nothing numpy makes one part
            return
        positions = indices.cpu().numpy().astype(np.int64)
        part = np.searchsorted(self._starts, positions, side="right") - 1
        if (part == part[0]).all():  # the usual case where the data are one part
            needed, pieces = part[:1], [np.arange(len(part))]
        else:
            order = np.argsort(part, kind="stable")
            needed, first = np.unique(part[order], return_index=True)
            pieces = np.split(order, first[1:])
        for number, places in zip(needed.tolist(), pieces, strict=True):
            local, mapping = positions[places] - self._starts[number], self._rows[number]
            yield self.sidecars[number], places, local if mapping is None else mapping[local]


def _sum_up(n: int, infos: Sequence[SideCarInfo], size: int) -> StoreInfo:
    first, faults = infos[0], Counter[str]()
    for info in infos:
        faults.update(info.faults)
    return StoreInfo(
        tower=first.tower,
        identity=first.identity,
        n=n,
        d=first.d,
        views=min(info.views for info in infos),
        dtype=first.dtype,
        scale=first.scale,
        bias=first.bias,
        bytes=size,
        usable=sum(info.usable for info in infos),
        faults=dict(faults),
        seconds=sum(info.seconds for info in infos),
        flops=sum(info.flops for info in infos),
    )


def build_store(
    cache: Path | str,
    source: Source,
    tower: EmbeddingTower,
    settings: Settings,
    progress: Progress | None = None,
) -> Store:
    """The embeddings of a source by a tower: side-cars that are there are used, the others are made.

    Args:
        cache: the cache folder.
        source: the samples.
        tower: the frozen model.
        settings: type, views, micro-batch and workers.
        progress: called with (samples done, samples that were missing).

    Raises:
        AcedError: a side-car is damaged or of something else, no sample is usable, an embedding is not finite, or
            there is no room for it.
    """
    cache, identity = Path(cache), tower.identity()
    missing, _ = sort_parts(cache, identity, parts_of(source), settings)
    if lost := next((part for part in missing if part.lost), None):
        raise AcedError(
            f"{lost.name} is lost and has no side-car in {cache}: name the cache that the run has used, which has one."
        )
    if missing:
        overhead = sum(overhead_bytes(part, source) for part in missing)
        check_space(cache, sum(map(len, missing)), tower.width, settings, overhead)
        sweep_leftovers(tower_folder(cache, identity["tower"]))
        for _part in embed_parts(cache, source, tower, missing, settings, progress):
            pass
    return open_store(cache, identity, source, settings)


def sort_parts(
    cache: Path, identity: Mapping[str, str], parts: Sequence[Part], settings: Settings, *, repair: bool = False
) -> tuple[list[Part], list[Part]]:
    """The parts that have no side-car yet, and with `repair` those whose side-car is damaged (they are in both).

    Raises:
        AcedError: a side-car is damaged (without `repair`), of something else, of another type, or has fewer views.
    """
    if settings.dtype not in DTYPES:
        raise AcedError(f"Embeddings are stored as {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, not {settings.dtype}.")
    missing: list[Part] = []
    damaged: list[Part] = []
    for part in parts:
        path = sidecar_path(cache, identity["tower"], part)
        if not path.exists():
            missing.append(part)
            continue
        try:
            _check(open_sidecar(path, identity, part), settings)
        except Damaged:
            if not repair:
                raise
            missing.append(part)
            damaged.append(part)
    return missing, damaged


def _check(sidecar: SideCar, settings: Settings) -> None:
    info = sidecar.info
    for what, there, asked, wrong in (
        ("embeddings as", info.dtype, settings.dtype, info.dtype != settings.dtype),
        ("views:", info.views, settings.views, info.views < settings.views),
    ):
        if wrong:
            raise AcedError(
                f"The side-car {sidecar.path} holds {what} {there}, and {asked} is asked for: ask for {there}, or "
                "choose another cache folder."
            )


def open_store(cache: Path | str, identity: Mapping[str, str], source: Source, settings: Settings) -> Store:
    """Open the side-cars of a tower for a source, or refuse.

    Side-cars of up to 512 MiB together are checked by their hashes, larger ones by their headers and sizes.

    Raises:
        AcedError: a side-car is missing (it says what there is instead), damaged, of other weights, another
            preprocessing, tokenizer or tar, of another type, or no sample has an embedding.
    """
    cache, parts = Path(cache), parts_of(source)
    sidecars = []
    for part in parts:
        path = sidecar_path(cache, identity["tower"], part)
        if not path.exists():
            raise AcedError(
                f"{part.name} has no side-car of this model: {why_missing(cache, identity, part)}; run 'aced embed'."
            )
        sidecars.append(open_sidecar(path, identity, part))
        _check(sidecars[-1], settings)
    store = Store(
        tower_folder(cache, identity["tower"]),
        len(source),
        parts,
        sidecars,
        # The mark says that the side-car of a lost tar has its samples in their order.
        [None if p.lost else sidecar.rows_of(p.keys(source)) for sidecar, p in zip(sidecars, parts, strict=True)],
    )
    if store.info.bytes <= _HASHED_BYTES and (changed := [one for one in sidecars if not one.intact()]):
        raise Damaged(
            f"The side-car of embeddings {changed[0].path} is damaged (its content has changed): delete the file and "
            "run 'aced embed' again, which makes only what is missing."
        )
    if store.info.usable == 0:
        why = ", ".join(f"{name} {count}" for name, count in store.info.faults.items())
        raise AcedError(f"No sample of {source.name} has an embedding: none was usable ({why}).")
    return store
