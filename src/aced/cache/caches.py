"""The cached embeddings of one model: where its side-cars are stored, made, and read.

On a local disk all three are one folder. For an address, side-cars are made in a folder of the spool, uploaded when
complete, and fetched into the spool to be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from aced.cache.farhome import FarHome
from aced.cache.home import Files, Home, LocalHome
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
    """A cache of one model, in a folder on a local disk.

    Args:
        folder: the cache folder.
        tower: the hash of the model's identity.

    Attributes:
        place: the cache folder or its address, for messages.
        work: local folder in which side-cars are made.
        far: whether they are uploaded afterwards.
        home: where they are stored.
    """

    far = False

    def __init__(self, folder: Path, tower: str) -> None:
        self.place, self.work = str(folder), tower_folder(folder, tower)
        self.home: Home = LocalHome(self.work)

    def keep(self, path: Path) -> None:
        """A side-car was made in `work`: move it to its place; raises an AcedError."""

    def again(self) -> None:
        """Check again which side-cars exist: others may have made some."""

    def files(self, parts: Sequence[Part], source: Source, progress: Progress | None = None) -> Files:
        """The local files of the existing side-cars of parts of a source.

        Raises:
            AcedError: they are not available.
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
        for path in sorted(self.work.glob("*.safetensors")):  # of a process that was killed before the upload
            self.keep(path)

    def keep(self, path: Path) -> None:
        """As in `Cache`."""
        try:
            self.home.put(path)
        except AcedError:
            if path.exists():
                raise
            # Another process has already uploaded and removed it.
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
        AcedError: it is an address, but there is no spool.
    """
    if not is_address(str(place)):
        return Cache(Path(place), tower)
    if spool is None:
        raise AcedError(f"{place} is an address: set data.spool_dir (aced embed: --spool-dir) to a folder on a disk.")
    return FarCache(str(place), tower, spool)
