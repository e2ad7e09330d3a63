"""Which unreadable samples a run has met already, in little memory however many there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from aced.pool.tars.keysample import hash_key

MOST = 1 << 16
"""Samples that are told from each other by a hash of their keys, each of 64 bits."""


@dataclass
class Met:
    """Samples that could not be read, each counted once.

    As many as `most` are remembered. Beyond that a sample that is not remembered counts as another one for as long as
    the data are read for the first time, in which each is met once, and never afterwards.

    Attributes:
        most: how many are remembered.
        count: how many there were.
        hashes: of the keys of those that are remembered.
    """

    most: int = MOST
    count: int = 0
    hashes: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, keys: Iterable[str]) -> Met:
        """Those of some keys."""
        found = cls()
        for key in keys:
            if found.is_new(key, first=True):
                found.add(key)
        return found

    def is_new(self, key: str, *, first: bool) -> bool:
        """Whether a sample was not met before; `first` while the data are read for the first time."""
        return _hashed(key) not in self.hashes and (first or len(self.hashes) < self.most)

    def add(self, key: str) -> int | None:
        """Count a sample; gives its hash where it is remembered, for `forget`."""
        self.count += 1
        if len(self.hashes) >= self.most:
            return None
        self.hashes.add(hashed := _hashed(key))
        return hashed

    def forget(self, count: int, hashes: Iterable[int]) -> None:
        """Go back to a count, without what was remembered since then."""
        self.count = count
        self.hashes.difference_update(hashes)


def _hashed(key: str) -> int:
    return hash_key(key.encode("utf-8", "surrogateescape"))
