"""The cached embeddings of one model: where its side-cars lie, where they are made, and where they are read.

In a folder of a local disk all three are one. At an address side-cars are made in a folder of the spool, put there
whole, and fetched into the spool to be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from aced.cache.farhome import FarHome
from aced.cache.home import Files, Home
from aced.cache.sidecar import Part, sidecar_name, tower_folder
from aced.cache.travelling import Travelling
from aced.errors import AcedError
from aced.files.atomic import sweep_leftovers
from aced.files.remote import Remote, is_address
from aced.files.spoolroom import spooled_name
from aced.pool.fetch.spool import Spool
from aced.pool.fetch.streamed import streams
from aced.pool.packed import PackedStrings
from aced.pool.source import Source
from aced.runtime.counting import Progress


class Cache:
    """A cache of one model, in a folder of a local disk.

    Args:
        folder: the cache folder.
        tower: the hash of the model's identity.

    Attributes:
        place: the cache folder or its address, for messages.
        work: local folder in which side-cars are made.
        far: whether they then leave it.
        home: where they lie.
    """

    far = False

    def __init__(self, folder: Path, tower: str) -> None:
        self.place, self.work = str(folder), tower_folder(folder, tower)
        self.home = Home(self.work)

    def keep(self, path: Path) -> None:
        """A side-car was made in `work`: take it to where it belongs; raises an AcedError."""

    def again(self) -> None:
        """Others may have made side-cars: look again at what is there."""

    def files(self, parts: Sequence[Part], source: Source, progress: Progress | None = None) -> Files:
        """The local files of the side-cars of parts of a source, which are there.

        Raises:
            AcedError: they cannot be had.
        """
        return Files(self.work)


class FarCache(Cache):
    """A cache at an address."""

    far = True

    def __init__(self, address: str, tower: str, spool: Spool) -> None:
        self.place, self._spool = address, spool
        self.home: FarHome = FarHome(f"{address.rstrip('/')}/embeddings/{tower}")
        own = hashlib.sha256(self.home.address.encode()).hexdigest()[:16]
        self.work = spool.folder / f"side-cars-{own}"
        sweep_leftovers(self.work)
        for path in sorted(self.work.glob("*.safetensors")):  # of a process that was killed before it put them there
            self.keep(path)

    def keep(self, path: Path) -> None:
        """As in `Cache`."""
        try:
            self.home.put(path)
        except AcedError:
            if path.exists():
                raise
            # Another process has put it there and away.
        path.unlink(missing_ok=True)

    def again(self) -> None:
        """As in `Cache`."""
        self.home.again()

    def files(self, parts: Sequence[Part], source: Source, progress: Progress | None = None) -> Files:
        """As in `Cache`: they are fetched, now or with their tars."""
        remotes = [self.home.remote(sidecar_name(part)) for part in parts]
        if streams(source):
            return Travelling(source, parts, remotes)
        self._spool.fetch(remotes, progress)
        return Spooled(self._spool.folder, remotes)


class Spooled(Files):
    """Side-cars that were fetched into a spool."""

    def __init__(self, folder: Path, remotes: Sequence[Remote]) -> None:
        super().__init__(folder)
        self._names = PackedStrings.of(spooled_name(remote.address, remote.state) for remote in remotes)

    def path(self, number: int, name: str) -> Path:
        """As in `Files`."""
        return self.folder / self._names[number]


def cache_at(place: str | Path, tower: str, spool: Spool | None = None) -> Cache:
    """The cache of a model in a cache folder or at the address of one.

    Raises:
        AcedError: it is an address, and there is no spool.
    """
    if not is_address(str(place)):
        return Cache(Path(place), tower)
    if spool is None:
        raise AcedError(f"{place} is an address: set data.spool_dir (aced embed: --spool-dir) to a folder on a disk.")
    return FarCache(str(place), tower, spool)
