"""The contract between data and its readers: `Source`, `Candidates` and `Column`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aced.errors import AcedError
from aced.pool.fetch.places import Places
from aced.pool.views import View

SOUND_KINDS = frozenset({"clean", "duplicate"})
"""Kinds of samples whose image and caption are both right, if a source reports kinds."""


@dataclass(frozen=True)
class Fault:
    """A sample that is unusable or unusual: its key, a short name of the fault for counting, and one sentence.

    `count` is more than 1 if one fault stands for many, of which this is an example.
    """

    key: str
    name: str
    detail: str
    count: int = 1


class Texts(Sequence[str]):
    """Captions of chosen rows, extracted on reading: training itself never reads them.

    Args:
        whole: the captions of all rows.
        rows: `[m]` the chosen rows, on any device.
    """

    def __init__(self, whole: Sequence[str], rows: Tensor) -> None:
        self._whole, self._rows = whole, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._picked[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._picked == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return list, (self._picked,)

    @cached_property
    def _picked(self) -> list[str]:
        return [self._whole[row] for row in self._rows.tolist()]


Key = str | View | tuple[str, str]
"""Identifies a tensor of a batch: the name of a field, the view of images, or ("column", name)."""


@dataclass(frozen=True)
class Candidates:
    """Loaded pairs, a table of B rows; faulty ones are already left out.

    All its tensors are on one device.

    Attributes:
        indices: `[B]` int64 positions in the source.
        texts: B captions; empty for rows that another process has loaded.
        images: for each requested `View`, `[B, 3, size, size]` uint8.
        faults: the requested samples that could not be used.
        notes: what is unusual about the others; see `aced.pool.faults.HARMLESS`.
        crops: `[B]` int64, the crop in which each image was read; None for whole images.
        coarse: `[B]` bool, the images that a student in training sees at a lower resolution; None: none of them. It is
            set last, on the CPU, for the step alone.
        columns: the values of each requested `Column`, `[B, ...]`, by its name.
        dropped: number of rows that were read and left out because a column has no value for them.
        listed: `indices` on the CPU, for a batch that was loaded onto another device; otherwise None.
    """

    indices: Tensor
    texts: Sequence[str]
    images: dict[View, Tensor]
    faults: tuple[Fault, ...] = field(default=())
    notes: tuple[Fault, ...] = field(default=())
    crops: Tensor | None = None
    coarse: Tensor | None = None
    columns: dict[str, Tensor] = field(default_factory=dict)
    dropped: int = 0
    listed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def asked(self) -> int:
        """Number of requested samples."""
        return len(self) + len(self.faults) + self.dropped

    def __getitem__(self, rows: Tensor) -> Candidates:
        """Only the chosen rows, in the order given; nothing waits if rows and batch are on one device."""
        rows = rows.to(self.indices.device, torch.int64)
        # Rows as a whole; plain indexing goes byte by byte.
        tensors = {key: values.index_select(0, rows) for key, values in self.tensors().items()}
        return self.with_tensors(tensors, Texts(self.texts, rows) if len(self.texts) else ())

    def split(self, size: int) -> list[Candidates]:
        """Consecutive parts of `size` rows, the last one shorter; nothing is copied."""
        pieces = [slice(start, start + size) for start in range(0, len(self), size)]
        parts = [{key: values[piece] for key, values in self.tensors().items()} for piece in pieces]
        rows = torch.arange(len(self))
        texts = [Texts(self.texts, rows[piece]) if len(self.texts) else () for piece in pieces]
        return [self.with_tensors(*part) for part in zip(parts, texts, strict=True)]

    def each(self, change: Callable[[Tensor], Tensor]) -> Candidates:
        """The same table with every tensor changed."""
        changed = self.with_tensors({key: change(values) for key, values in self.tensors().items()}, self.texts)
        rest = {name: getattr(self, name) for name in ("faults", "notes", "dropped", "listed")}
        return replace(changed, **rest)

    def column(self, column: Column) -> Tensor:
        """The values of a column: loaded with the batch, or otherwise now."""
        held = self.columns.get(column.name)
        return column.load(self).to(self.indices.device) if held is None else held

    def tensors(self) -> dict[Key, Tensor]:
        """All tensors with one row per pair."""
        own = {"indices": self.indices, "crops": self.crops, "coarse": self.coarse}
        found: dict[Key, Tensor] = {name: values for name, values in own.items() if values is not None}
        return found | self.images | {("column", name): values for name, values in self.columns.items()}

    def with_tensors(self, tensors: Mapping[Key, Tensor], texts: Sequence[str]) -> Candidates:
        """A table of other rows with the same columns, from tensors as `tensors` returns; without faults and notes."""
        return Candidates(
            indices=tensors["indices"],
            texts=texts,
            images={view: tensors[view] for view in self.images},
            crops=tensors.get("crops"),
            coarse=tensors.get("coarse"),
            columns={name: tensors["column", name] for name in self.columns},
        )


CUT = -1
"""Padding value of a row where `Column.sent` may cut it."""


class Column:
    """Data of each pair beside its image: token ids, a model's embeddings, or your own values.

    Columns are filled as a batch is loaded, in the processes that read the images if there are any, so a column must be
    picklable. Subclasses define where the values come from.

    Args:
        name: its name in `Candidates.columns`; two columns with the same name count as one.
        dtype: of the values.
        shape: of one pair's value.
    """

    def __init__(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape

    def load(self, candidates: Candidates) -> Tensor:
        """The values of B pairs, `[B, *shape]`, by their positions, captions, crops or images."""
        raise NotImplementedError

    def valid(self, candidates: Candidates) -> Tensor | None:
        """`[B]` bool: which pairs have a value; the others are left out of the batch. None: all of them."""
        return None

    def sent(self, values: Tensor) -> Tensor:
        """The values of a whole batch for a device: all of them, without unnecessary padding.

        Only the common end of all rows is cut, if it holds nothing but -1 (`CUT`).
        """
        return values

    @property
    def nbytes(self) -> int:
        """Bytes of one pair's value."""
        return math.prod(self.shape) * self.dtype.itemsize


class Keys(Sequence[str]):
    """The keys of n samples, each made on demand.

    Args:
        key: of a sample, by its position.
        n: number of samples.
    """

    def __init__(self, key: Callable[[int], str], n: int) -> None:
        self._key, self._n = key, n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        found = range(self._n)[index]
        return [self._key(row) for row in found] if isinstance(found, range) else self._key(found)


if TYPE_CHECKING:
    from builtins import property as member
else:

    class member:
        """A member of `Source` with a default: reads like a property, and is set like a plain attribute.

        A source made from another one (`within`) takes members that are not set from that one.
        """

        def __init__(self, default: Callable[[Source], Any]) -> None:
            self.default, self.__doc__ = default, default.__doc__
            self._ask = attrgetter(default.__name__)

        def __get__(self, source: Source | None, owner: type[Source]) -> Any:
            if source is None:  # a dataclass with a field of this name looks for its default here
                raise AttributeError(f"{owner.__name__}.{self.default.__name__} belongs to an instance")
            return self.default(source) if source.within is None else self._ask(source.within)


class Source(ABC):
    """A finite, indexable collection of image-text pairs.

    A subclass defines `fingerprint`, `__len__` and `read`, and any other member whose default is wrong for its data, as
    an attribute of the instance or class, or as a property. `aced.PairSource` does the reading if the data come one
    pair at a time. A source must be picklable if `data.start_method` is `forkserver`; with workers, several processes
    call `read`.

    Attributes:
        within: the source that this one is made from, if any. Members that are not set here are taken from it.
    """

    within: Source | None = None

    @member
    def fingerprint(self) -> str:
        """A text that changes with the data: runs resume, and cached embeddings are used, only if it is the same."""
        raise AcedError(
            f"{type(self).__name__} has no fingerprint: set one that changes when its data change, as an attribute or "
            "a property."
        )

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        """The samples at `indices`, in that order, with `[m, 3, size, size]` uint8 images for every view.

        A sample that cannot be used is left out and has a `Fault` in the candidates' `faults` instead.

        Raises:
            AcedError: the data as a whole cannot be read.
        """

    def read_in_epochs(self, indices: Sequence[int], views: Sequence[View], epochs: Sequence[int]) -> Candidates:
        """As `read`, with the epoch of each sample; called instead if `captions_vary`."""
        raise AcedError(
            f"{type(self).__name__} says that its captions vary but not how: define read_in_epochs, or leave out "
            "captions_vary."
        )

    def fields_at(self, name: str, positions: Sequence[int]) -> Sequence[object]:
        """The value of a field of some samples, in the order given; None for a sample without one.

        The methods that choose by concepts read `data.concept_field`: a word, or a list of words.
        """
        return [None] * len(positions) if self.within is None else self.within.fields_at(name, positions)

    @member
    def name(self) -> str:
        """Name of the data in messages; default: the name of the class."""
        return type(self).__name__

    @member
    def keys(self) -> Sequence[str]:
        """A lasting identity of each sample; default: its position."""
        return Keys(str, len(self))

    @member
    def kinds(self) -> Sequence[str] | None:
        """How each sample was corrupted, if known; for reports, never for selection or training."""
        return None

    @member
    def faults(self) -> Sequence[Fault]:
        """What was left out or unusual when the data were opened."""
        return ()

    @member
    def parts(self) -> Mapping[str, str]:
        """For each part (a tar) by its name, a mark that copies share and changed parts do not; default: one part.

        Each part has its own file of cached embeddings, which is valid as long as its mark is the same.
        """
        return {}

    @member
    def part_sizes(self) -> Sequence[int]:
        """The number of samples in each of `parts`; part by part they are the samples in order."""
        return ()

    @member
    def columns(self) -> Sequence[Column]:
        """Further data of each pair for a run to load; `aced.Step.columns` has the values of a step."""
        return ()

    @member
    def lost(self) -> Mapping[str, str]:
        """The parts whose samples keep their positions but can no longer be read, with the name of the fault."""
        return {}

    @member
    def mixture(self) -> Sequence[int]:
        """Samples of each part that `data.weights` or `method.quota` tells apart, by default `data.shards`' entries."""
        return ()

    @member
    def captions_vary(self) -> bool:
        """Whether captions change from epoch to epoch; their embeddings cannot be cached then."""
        return False

    @member
    def in_memory(self) -> bool:
        """Whether samples are decoded in memory, so that worker processes would not load them any faster."""
        return False

    @member
    def places(self) -> Places | None:
        """Where its tars are, if it reads tars."""
        return None


REQUIRED = ("fingerprint", "__len__", "read")
"""The members that every source defines itself."""


def members_of_sources() -> dict[str, str]:
    """The members of `Source` by name, each with its description; the required ones first."""
    kinds = (member, FunctionType)
    found = {name: value.__doc__ or "" for name, value in vars(Source).items() if isinstance(value, kinds)}
    return {name: found[name] for name in (*REQUIRED, *(name for name in found if name not in REQUIRED))}


def check_source(source: object, what: str) -> Source:
    """The source, after a quick check of the contract.

    Args:
        source: anything.
        what: its name in messages.

    Raises:
        AcedError: it does not derive from `Source`, has no fingerprint, or its parts do not add up to its samples.
    """
    if not isinstance(source, Source):
        raise AcedError(
            f"{what} is {_described(source)}, which does not derive from aced.Source: derive its class from "
            "aced.PairSource, or from aced.Source if it reads batches in its own way."
        )
    if not isinstance(source.fingerprint, str):
        raise AcedError(f"{what} has the fingerprint {source.fingerprint!r}: make it a text.")
    names = [column.name if isinstance(column, Column) else "" for column in source.columns]
    if "" in names or len(set(names)) < len(names):
        raise AcedError(
            f"{what} has the columns {list(map(_described, source.columns))} named {names}: make each an instance of a "
            "class that derives from aced.Column, with a name of its own."
        )
    sizes = source.part_sizes
    if len(sizes) != len(source.parts) or (source.parts and sum(sizes) != len(source)):
        raise AcedError(
            f"{what} has {len(source):,} samples, {len(source.parts):,} parts, and part_sizes for {len(sizes):,} parts "
            f"with {sum(sizes):,} samples: give each part its size, and every sample a part."
        )
    return source


def _described(found: object) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
