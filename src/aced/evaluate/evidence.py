"""Scores sample by sample: standard errors, paired comparison, and a compact form for JSON."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from aced.errors import AcedError

Reduce = Literal["mean", "mean of groups", "worst group", "f1", "map"]
"""How values become a score; see `Evidence`."""

_DTYPES = ("uint8", "uint16", "uint32", "float32")
_LARGEST = 1 << 31
"""Maximum size in bytes of an array in a JSON file: a damaged file must not exhaust the memory."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """A score as a function of weights on its units (images, or sets of images); all are 1 for the score itself.

    | reduce | values | groups | the score |
    |---|---|---|---|
    | `mean` | `[m]` hits | - | their mean |
    | `mean of groups` | `[m]` hits | `[m]` class or direction | the mean over the groups of the groups' means |
    | `worst group` | `[m]` hits | `[m]` group | the least of the groups' means |
    | `f1` | `[m]` predicted class | `[m]` true class | F1, averaged over the true classes that occur |
    | `map` | `[m, C]` rank of the image for the class, from 0 | `[m, C]` whether it has the class | mean average precision |

    Attributes:
        reduce: the kind of reduction.
        values: as in the table.
        groups: as in the table.
        units: `[m]` the unit of each value; None if value i is unit i. Captions of one image share a unit.
    """  # noqa: E501

    reduce: Reduce
    values: np.ndarray
    groups: np.ndarray | None = None
    units: np.ndarray | None = None

    @property
    def count(self) -> int:
        """The number of units."""
        return int(self.units.max()) + 1 if self.units is not None else len(self.values)

    def scorer(self) -> Callable[[np.ndarray], float]:
        """A function from weights `[count]` to the score; NaN if the weights leave nothing to score."""
        if self.reduce == "mean":
            score: Callable[[np.ndarray], float] = self._mean
        elif self.reduce == "f1":
            score = self._f1_scorer()
        elif self.reduce == "map":
            score = self._map_scorer()
        else:
            score = self._group_scorer()
        units = self.units
        return score if units is None else lambda weights: score(weights[units])

    def score(self) -> float:
        """The score itself."""
        return self.scorer()(np.ones(self.count))

    def _mean(self, weights: np.ndarray) -> float:
        total = weights.sum()
        return float(weights @ self.values / total) if total else math.nan

    def _group_scorer(self) -> Callable[[np.ndarray], float]:
        assert self.groups is not None
        groups, size = np.unique(self.groups, return_inverse=True)[1], len(np.unique(self.groups))
        reduce: Callable[[np.ndarray], Any] = np.mean if self.reduce == "mean of groups" else np.min

        def score(weights: np.ndarray) -> float:
            total = np.bincount(groups, weights, size)
            hits = np.bincount(groups, weights * self.values, size)
            there = total > 0
            return float(reduce(hits[there] / total[there])) if there.any() else math.nan

        return score

    def _f1_scorer(self) -> Callable[[np.ndarray], float]:
        assert self.groups is not None
        predicted, true = self.values.astype(np.int64), self.groups.astype(np.int64)
        size = int(max(predicted.max(), true.max())) + 1
        hit = (predicted == true).astype(np.float64)

        def score(weights: np.ndarray) -> float:
            hits = np.bincount(true, weights * hit, size)
            in_truth, in_prediction = np.bincount(true, weights, size), np.bincount(predicted, weights, size)
            there = in_truth > 0
            return float(np.mean(2 * hits[there] / (in_truth + in_prediction)[there])) if there.any() else math.nan

        return score

    def _map_scorer(self) -> Callable[[np.ndarray], float]:
        assert self.groups is not None
        order = np.argsort(self.values.astype(np.int64), axis=0, kind="stable")
        truth = np.take_along_axis(self.groups.astype(bool), order, axis=0)

        def score(weights: np.ndarray) -> float:
            sorted_weights = weights[order]
            hits = np.where(truth, sorted_weights, 0.0)
            seen, found = sorted_weights.cumsum(0), hits.cumsum(0)
            precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
            # A class without images has an average precision of 0, as in CLIP_benchmark.
            return float(np.mean((precision * hits).sum(0) / np.maximum(found[-1], 1.0)))

        return score


def bootstrap(
    scorers: list[Callable[[np.ndarray], float]], count: int, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Scores under the same resamples of the units, drawn with replacement: `[resamples, len(scorers)]`.

    Args:
        scorers: from `Evidence.scorer`, all over the same units.
        count: number of units.
        resamples: number of resamples of the units.
        seed: the same seed draws the same units.
    """
    generator = np.random.default_rng(seed)
    scores = np.empty((resamples, len(scorers)))
    for row in scores:
        weights = np.bincount(generator.integers(count, size=count), minlength=count).astype(np.float64)
        row[:] = [scorer(weights) for scorer in scorers]
    return scores


def standard_error(evidence: Evidence, *, resamples: int = 500, seed: int = 0) -> tuple[float, str]:
    """The standard error of a score, and how it was found.

    A mean of hits over independent units has the binomial sqrt(p (1 - p) / n). All other scores use a bootstrap over
    the units.
    """
    hits = evidence.values
    if evidence.reduce == "mean" and evidence.units is None and bool(np.isin(hits, (0, 1)).all()):
        share = float(hits.mean())
        return math.sqrt(share * (1 - share) / len(hits)), "binomial"
    scores = bootstrap([evidence.scorer()], evidence.count, resamples=resamples, seed=seed)
    return float(np.nanstd(scores, ddof=1)), "bootstrap"


def pack(evidence: Evidence) -> dict[str, Any]:
    """A JSON object; hits take one bit each before compression."""
    packed: dict[str, Any] = {"reduce": evidence.reduce}
    for name in ("values", "groups", "units"):
        array: np.ndarray | None = getattr(evidence, name)
        packed[name] = None if array is None else _pack(array)
    return packed


def _pack(array: np.ndarray) -> dict[str, Any]:
    if array.dtype != bool and array.dtype.kind in "iu":
        array = array.astype(np.min_scalar_type(int(array.max(initial=0))))
    content = np.packbits(array) if array.dtype == bool else array.astype(array.dtype.newbyteorder("<"))
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "data": base64.b64encode(zlib.compress(content.tobytes(), 9)).decode(),
    }


def unpack(packed: Mapping[str, Any], where: str) -> Evidence:
    """The evidence in a JSON object.

    Args:
        packed: as `pack` writes it.
        where: the file and task, for the error.

    Raises:
        AcedError: it is damaged.
    """
    try:
        if packed["reduce"] not in get_args(Reduce):
            raise ValueError(f"'{packed['reduce']}' is unknown")
        values, groups, units = (_unpack(packed[name]) for name in ("values", "groups", "units"))
        if values is None or not len(values):
            raise ValueError("there are no values")
        for other in (groups, units):
            if other is not None and len(other) != len(values):
                raise ValueError("its arrays differ in length")
        if groups is None and packed["reduce"] != "mean":
            raise ValueError("it lacks groups")
        return Evidence(packed["reduce"], values, groups, units)
    except (KeyError, TypeError, ValueError, zlib.error, binascii.Error) as error:
        raise AcedError(f"{where}: the scores of the samples are damaged ({error}); evaluate again.") from None


def _unpack(packed: Mapping[str, Any] | None) -> np.ndarray | None:
    if packed is None:
        return None
    shape, name = tuple(int(size) for size in packed["shape"]), str(packed["dtype"])
    if name != "bool" and name not in _DTYPES:
        raise ValueError(f"values of type {name}")
    count = math.prod(shape)
    size = -(-count // 8) if name == "bool" else count * np.dtype(name).itemsize
    if not 0 <= size <= _LARGEST:
        raise ValueError("an array is too large")
    reader = zlib.decompressobj()
    content = reader.decompress(base64.b64decode(packed["data"], validate=True), size + 1)
    if len(content) != size:
        raise ValueError("an array has another length")
    if name == "bool":
        return np.unpackbits(np.frombuffer(content, np.uint8), count=count).astype(bool).reshape(shape)
    return np.frombuffer(content, np.dtype(name).newbyteorder("<")).astype(name).reshape(shape)
