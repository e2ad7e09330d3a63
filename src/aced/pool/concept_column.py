"""The concepts of pairs, a column of a batch: what the image shows according to a field of the sample's .json."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from aced.errors import AcedError
from aced.pool.source import CUT, Candidates, Column, Source

MOST = 64
"""Concepts per pair that are kept."""
_LOOKED_AT = 256
"""Number of pairs that are checked for whether the pool has concepts at all."""


class Concepts(Column):
    """The concepts of each pair, `[B, 64]` int64 ids in ascending order, and -1 after a pair's last one.

    A concept is a word or a few; its id depends only on its letters, ignoring case.

    Args:
        source: provides the values, through its method `fields_at`.
        field: name of the field.

    Raises:
        AcedError: the source has no such values, judging by some of its pairs.
    """

    def __init__(self, source: Source, field: str) -> None:
        super().__init__(f"concepts {field}", torch.int64, (MOST,))
        self._source, self._field = source, field
        step = max(1, len(source) // _LOOKED_AT)
        if not any(map(concepts_of, source.fields_at(field, range(0, len(source), step)))):
            raise AcedError(
                f"{source.name}: no pair has concepts in '{field}', a word or a list of words: name the field of the "
                "samples' .json that holds them (data.concept_field), define fields_at in your own source, or "
                "use another method."
            )

    def load(self, candidates: Candidates) -> Tensor:
        """As in `Column`."""
        ids = torch.full((len(candidates), MOST), CUT, dtype=torch.int64)
        for row, value in enumerate(self._source.fields_at(self._field, candidates.indices.tolist())):
            own = sorted({_id_of(concept) for concept in concepts_of(value)})[:MOST]
            ids[row, : len(own)] = torch.tensor(own, dtype=torch.int64)
        return ids

    def sent(self, values: Tensor) -> Tensor:
        """As in `Column`: no wider than the pair with the most."""
        return values[:, : max(1, int((values >= 0).sum(1).max()) if len(values) else 1)]


def concepts_of(value: object) -> list[str]:
    """The concepts in a field of a .json: a word, or those of a list; anything but text is ignored."""
    words = value if isinstance(value, list) else [value]
    return [clean for word in words if isinstance(word, str) and (clean := " ".join(word.casefold().split()))]


@lru_cache(maxsize=1 << 16)
def _id_of(concept: str) -> int:
    digest = hashlib.sha256(concept.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") >> 1
