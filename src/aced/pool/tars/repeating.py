"""Keys that several tars of a pool share, carried from one manifest to the next without reading tars again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from aced.pool.packed import PackedStrings
from aced.pool.tars.keysample import KeySample, hash_key
from aced.pool.tars.manifest import NONE_REPEATED, Manifest, Repeated, TarFacts

_KEYS = ".keys.npz"


class Repeating:
    """Finds keys that occur in more than one tar of a pool.

    Args:
        kept: the manifest's file, beside which hashes of the keys are stored; None: nowhere.
        before: the manifest as it was.
        facts: of each tar in order; None if the tar is being read now.
        listed: the entries of manifests that the user names.
    """

    def __init__(
        self,
        kept: Path | None,
        before: Manifest | None,
        facts: Sequence[TarFacts | None],
        listed: Sequence[Repeated] = (),
    ) -> None:
        self._file = kept.with_name(kept.name + _KEYS) if kept else None
        self._before = before
        self._listed = list(listed)
        self._sample: KeySample | None = None
        self._partial = bool(listed)
        known = [one for one in facts if one is not None]
        if len(known) == len(facts) and (self._listed or (before and known == list(before.tars))):
            return
        numbers = {_name(one): number for number, one in enumerate(facts) if one is not None}
        if numbers and self._file is not None:
            self._sample = KeySample.load(self._file, numbers)
        if numbers and self._sample is None:
            self._partial = True
            self._listed += [before.repeated] if before else []
        self._sample = self._sample or KeySample()

    @property
    def reads(self) -> bool:
        """Whether hashes of the keys are needed."""
        return self._sample is not None

    def add(self, tar: int, hashes: np.ndarray | None) -> None:
        """Add the keys of a tar that was read."""
        if self._sample is not None and hashes is not None:
            self._sample.add(tar, hashes)

    def found(self, tars: Sequence[TarFacts], keys_of: Callable[[int], PackedStrings]) -> Repeated:
        """How many keys occur again in another tar, and the first one that does.

        Args:
            tars: all of them in order.
            keys_of: the keys of a tar by its number.
        """
        listed = NONE_REPEATED
        for one in self._listed:
            first = listed if listed.times else one
            exact = listed.exact and one.exact and len(self._listed) == 1 and self._sample is None
            listed = first._replace(times=listed.times + one.times, exact=exact)
        if self._sample is None:
            return listed if self._listed or self._before is None else self._before.repeated
        count, tar, hashes = self._sample.repeated()
        exact = not self._partial and self._sample.bits == 0
        if not count:
            return listed._replace(exact=exact)
        keys = (key for key in keys_of(tar) if hash_key(key.encode("utf-8", "surrogateescape")) in hashes)
        return Repeated(count + listed.times, tars[tar].source, next(keys, ""), exact)

    def save(self, tars: Sequence[TarFacts]) -> None:
        """Store the hashes beside the manifest.

        Raises:
            AcedError: the file cannot be written.
        """
        if self._sample is not None and self._file is not None:
            self._sample.save(self._file, [_name(tar) for tar in tars])


def _name(tar: TarFacts) -> str:
    return f"{tar.content} {tar.source}"
