"""The unreadable samples that a run has met, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from aced.pool.tars.keysample import hash_key

MOST = 1 << 16
"""Number of samples distinguished by a 64-bit hash of their keys."""


@dataclass
class Met:
    """Samples that could not be read, each counted once.

    At most `most` are remembered. Beyond that, a sample that is not remembered counts as new during the first pass over
    the data, in which each occurs once, and never afterwards.

    Attributes:
        most: maximum number remembered.
        count: number met.
        hashes: of the keys of the remembered ones.
    """

    most: int = MOST
    count: int = 0
    hashes: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, keys: Iterable[str]) -> Met:
        """The hashes of some keys."""
        found = cls()
        for key in keys:
            if found.is_new(key, first=True):
                found.add(key)
        return found

    def is_new(self, key: str, *, first: bool) -> bool:
        """Whether a sample is new; `first` during the first pass over the data."""
        return _hashed(key) not in self.hashes and (first or len(self.hashes) < self.most)

    def add(self, key: str) -> int | None:
        """Count a sample; returns its hash if it is remembered, for `forget`."""
        self.count += 1
        if len(self.hashes) >= self.most:
            return None
        self.hashes.add(hashed := _hashed(key))
        return hashed

    def forget(self, count: int, hashes: Iterable[int]) -> None:
        """Return to a count, without the samples remembered since."""
        self.count = count
        self.hashes.difference_update(hashes)


def _hashed(key: str) -> int:
    return hash_key(key.encode("utf-8", "surrogateescape"))
