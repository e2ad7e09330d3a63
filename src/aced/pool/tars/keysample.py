"""Keys that occur in several tars of a pool, found through hashes of all keys or of a fixed share of them.

A hash takes 12 bytes with the number of its tar. For a large pool only hashes that end in some zero bits are kept, so
that any number of tars takes 50 MB at most; which ones does not depend on the order of the tars.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from aced.files.atomic import write_cache
from aced.pool.tars.tarindex import TarIndex

MOST = 1 << 22
"""Maximum number of keys that are all compared."""


def hash_key(key: bytes) -> int:
    """64 bits that every process and machine computes identically."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def hash_keys(index: TarIndex) -> np.ndarray:
    """`[n]` uint64 hashes of the keys of a tar's samples with an image and a caption of either kind."""
    image, txt, json = (index.places[part][:, 1] > 0 for part in ("image", "txt", "json"))
    keys = index.keys.take(np.flatnonzero(image & (txt | json)))
    spans = pairwise(keys.ends.tolist())
    return np.fromiter((hash_key(keys.content[a:b]) for a, b in spans), dtype=np.uint64, count=len(keys))


class KeySample:
    """Hashes of the keys of a pool's tars, at most `most` of them.

    Attributes:
        bits: how many zero bits a hash must end in to be kept.
    """

    def __init__(self, most: int = MOST) -> None:
        self.bits, self._most = 0, most
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._count = 0

    def add(self, tar: int, hashes: np.ndarray) -> None:
        """Add the keys of a tar by its number."""
        hashes = hashes[self._kept(hashes)]
        self._parts.append((hashes, np.full(len(hashes), tar, dtype=np.int32)))
        self._count += len(hashes)
        while self._count > self._most:
            self.bits += 1
            parts = [(kept, self._kept(kept), tars) for kept, tars in self._parts]
            self._parts = [(kept[rows], tars[rows]) for kept, rows, tars in parts]
            self._count = sum(len(kept) for kept, _ in self._parts)

    def _kept(self, hashes: np.ndarray) -> np.ndarray:
        kept: np.ndarray = hashes & np.uint64((1 << self.bits) - 1) == 0
        return kept

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """`[n]` hashes and `[n]` numbers of their tars, in the order of these."""
        hashes = np.concatenate([np.empty(0, dtype=np.uint64), *(part for part, _ in self._parts)])
        tars = np.concatenate([np.empty(0, dtype=np.int32), *(part for _, part in self._parts)])
        order = np.argsort(tars, kind="stable")
        return hashes[order], tars[order]

    def repeated(self) -> tuple[int, int, set[int]]:
        """About how many keys occur again in a later tar, the first such tar, and the hashes of those in it."""
        hashes, tars = self.arrays()
        order = np.argsort(hashes, kind="stable")
        again = order[1:][np.diff(hashes[order].view(np.int64)) == 0]
        if not len(again):
            return 0, -1, set()
        first = int(tars[again].min())
        return len(again) << self.bits, first, {int(value) for value in hashes[again[tars[again] == first]]}

    def save(self, path: Path, names: Sequence[str]) -> None:
        """Store the hashes; `names` identify the tars by their numbers.

        Raises:
            AcedError: the file cannot be written.
        """
        hashes, tars = self.arrays()
        out = io.BytesIO()
        listed = np.frombuffer(json.dumps([self.bits, list(names)]).encode(), dtype=np.uint8)
        np.savez(out, hashes=hashes, tars=tars, names=listed)
        write_cache(path, out.getvalue())

    @classmethod
    def load(cls, path: Path, numbers: Mapping[str, int], most: int = MOST) -> KeySample | None:
        """The stored hashes of the tars in `numbers`, which maps them to new numbers; None if they cannot be used."""
        try:
            with np.load(path, allow_pickle=False) as file:
                bits, names = json.loads(file["names"].tobytes())
                hashes, tars = file["hashes"], file["tars"]
            now = np.array([numbers.get(name, -1) for name in names], dtype=np.int32)
            places = now[tars]
            kept = places >= 0
            found = cls(most)
            found.bits, found._parts, found._count = bits, [(hashes[kept], places[kept])], int(kept.sum())
            return found
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, RuntimeError, zipfile.BadZipFile):
            return None
