"""Files at addresses, through fsspec: lookup, state in the store, and errors."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aced.errors import AcedError
from aced.files.patterns import braces

_ADDRESS = re.compile(r"[a-z0-9+.-]+(::|://)")
_TAR = re.compile(r"\.(tar|tgz|gz)$")
_SILENCE = 60.0
"""Seconds for which a web server may be silent."""
_ASKED_AT_ONCE = 32
_LISTED_FROM = 8
"""Minimum number of files in one folder for listing the folder instead of querying each."""
_CONTENT = ("ETag", "etag", "Content-MD5", "Digest", "blob_id", "sha256", "generation")
"""Keys under which fsspec's file systems describe the content of a file; the first one present suffices."""
_TIMES = ("mtime", "Last-Modified", "LastModified", "last_modified", "created", "updated")
_MODULES = {"aiohttp": "aiohttp requests"}
"""Further packages for protocols that lack a module."""


@dataclass(frozen=True)
class Remote:
    """A file at an address: its size in bytes (None if unknown) and a text that changes with its content."""

    address: str
    size: int | None
    state: str


class NotThere(AcedError):
    """There is nothing at an address, according to its server."""


class Changed(AcedError):
    """The file at an address has changed."""


class FetchStopped(Exception):
    """A file that is being fetched is no longer wanted."""


def is_address(pattern: str) -> bool:
    """Whether a pattern names something that fsspec must fetch; `file://` is a path."""
    return _ADDRESS.match(pattern) is not None and not pattern.startswith("file://")


def find(pattern: str) -> list[Remote]:
    """The files that an address names: one file, a folder (its tars), a glob or a brace range.

    A folder in which many files are named is listed once.

    Raises:
        AcedError: there is nothing, the protocol is unknown or a package for it is missing.
    """
    addresses = list(braces(pattern))
    single = [address for address in addresses if _TAR.search(address) and not _is_glob(address)]
    listed = _listed(single)
    asked = [address for address in single if address not in listed]
    listed |= zip(asked, _each(look, asked), strict=True)
    return [tar for address in addresses for tar in ([listed[address]] if address in listed else _below(address))]


def read_text(address: str) -> str:
    """The content of a small file at an address, as UTF-8.

    Raises:
        AcedError: it cannot be read.
    """
    with reached(address):
        system, path = open_url(address)
        return bytes(system.cat_file(path)).decode("utf-8")


def read_texts(addresses: Sequence[str]) -> dict[str, str]:
    """The content of small files in one folder, those that exist, several at once.

    Raises:
        AcedError: their store cannot be queried.
    """
    if not addresses:
        return {}
    with reached(addresses[0]):
        system, first = open_url(addresses[0])
        folder = first.rpartition("/")[0]
        paths = {f"{folder}/{address.rpartition('/')[2]}": address for address in addresses}
        try:
            found = system.cat(list(paths), on_error="omit")
        except FileNotFoundError:
            return {}
        return {paths[path]: bytes(content).decode("utf-8", "replace") for path, content in found.items()}


def look(address: str) -> Remote:
    """The file at one address.

    Raises:
        AcedError: as `find`.
    """
    with reached(address):
        system, path = open_url(address)
        return as_remote(system, path, system.info(path))


def _below(address: str) -> list[Remote]:
    """The files that match a glob or are in the folder at an address."""
    with reached(address):
        system, path = open_url(address)
        system.invalidate_cache(path)
        if _is_glob(path):
            names = system.glob(path, detail=True)
        elif system.isdir(path):
            names = {}
            for end in (".tar", ".tar.gz", ".tgz"):
                names |= system.glob(f"{path}/*{end}", detail=True)
        else:
            return [as_remote(system, path, system.info(path))]
        if not names:
            raise AcedError(f"Nothing matches {address}.")
        if _has_listings(address):
            return [as_remote(system, name, names[name]) for name in sorted(names)]
    return _each(look, sorted(names))


def _each(ask: Callable[[str], Remote], addresses: Sequence[str]) -> list[Remote]:
    """The answer for each address, several at a time; the first error ends it."""
    if len(addresses) < 2:
        return list(map(ask, addresses))
    crew = ThreadPoolExecutor(min(_ASKED_AT_ONCE, len(addresses)))
    try:
        return list(crew.map(ask, addresses))
    finally:
        crew.shutdown(cancel_futures=True)


def _is_glob(address: str) -> bool:
    return any(mark in address for mark in "*?[")


def _has_listings(address: str) -> bool:
    """Whether a listing of a folder includes sizes; a web server's does not."""
    return re.match(r"https?:", address.rpartition("::")[2]) is None


def _listed(addresses: Sequence[str]) -> dict[str, Remote]:
    """Files described by a listing, where many are in one folder; web servers have no listings."""
    folders: dict[str, list[str]] = {}
    for address in addresses:
        folders.setdefault(address.rpartition("/")[0], []).append(address)
    found: dict[str, Remote] = {}
    for folder, members in folders.items():
        if len(members) < _LISTED_FROM or not _has_listings(folder):
            continue
        # A user without permission to list may still read; other errors are reported for the first file.
        with contextlib.suppress(AcedError), reached(folder):
            system, path = open_url(folder)
            system.invalidate_cache(path)
            entries = {entry["name"].rpartition("/")[2]: entry for entry in system.ls(path, detail=True)}
            for address in members:
                entry = entries.get(address.rpartition("/")[2])
                if entry is not None and entry.get("type") != "directory":
                    found[address] = as_remote(system, entry["name"], entry)
    return found


def as_remote(system: Any, name: str, facts: Mapping[str, Any]) -> Remote:
    """A file system's description of a file, from a listing or from a single query."""
    size = None if facts.get("size") is None else int(facts["size"])
    told = [f"{key}={facts[key]}" for key in _CONTENT if facts.get(key)][:1]
    # Without times if there is better, because a copy with the same content has another time.
    told = told or [f"{key}={_moment(facts[key])}" for key in _TIMES if facts.get(key)]
    return Remote(str(system.unstrip_protocol(name)), size, " ".join([str(size), *told]))


def _moment(told: object) -> str:
    """A time in one form: some file systems report it differently in listings and for single files."""
    if isinstance(told, datetime.datetime):
        told = told.timestamp()
    return f"{told:.3f}" if isinstance(told, float | int) else str(told)


def open_url(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    import fsspec

    if "hf://" in address:
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # one per file, over the program's own
    system, path = fsspec.core.url_to_fs(address, **_patience(address))
    return system, path


def _patience(address: str) -> dict[str, Any]:
    """Time limit for silence of a web server; the transfer itself may take any time.

    By default aiohttp limits a whole file to five minutes. The clients of other stores have their own limits.
    """
    protocols = [name for name in ("http", "https") if f"{name}://" in address]
    if not protocols:
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
    return {name: {"client_kwargs": {"timeout": timeout}} for name in protocols}


@contextlib.contextmanager
def reached(address: str) -> Iterator[None]:
    """Turn exceptions of fsspec and its file systems into AcedErrors."""
    try:
        yield
    except (AcedError, FetchStopped):
        raise
    except FileNotFoundError as error:
        # fsspec also says so of a web server that does not answer, and names the cause.
        cause = error.__cause__
        if cause is not None and not says_not_there(cause):
            reason = f"{type(cause).__name__}: {_first_line(cause)}"
            raise AcedError(f"{address} cannot be reached ({reason}): check the network and the address.") from error
        raise NotThere(f"There is nothing at {address}.") from None
    except PermissionError as error:
        raise AcedError(f"{address} cannot be read ({error}): check the credentials of its store.") from error
    except ImportError as error:
        raise AcedError(_package(address, error)) from error
    except ValueError as error:
        raise AcedError(f"{address} cannot be opened: {_first_line(error)}.") from error
    except Exception as error:
        # File systems raise any exception of their client library: aiohttp.ClientError, botocore's, ...
        if lacks_credentials(error):
            said = f"{address} cannot be read ({_first_line(error)}): set the credentials of its store."
            raise AcedError(said) from error
        raise AcedError(f"{address} cannot be fetched ({type(error).__name__}: {_first_line(error)}).") from error


def says_not_there(cause: BaseException) -> bool:
    """Whether a cause means the same in a client's own terms."""
    response = getattr(cause, "response", None)
    status = getattr(cause, "status", None) or getattr(response, "status_code", None)
    if isinstance(response, Mapping):  # botocore's
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return isinstance(cause, FileNotFoundError) or status == 404


def lacks_credentials(error: Exception) -> bool:
    """Whether an error is botocore's for a store that is queried without credentials, or with only some of them."""
    return "Credential" in type(error).__name__


def _package(address: str, error: ImportError) -> str:
    missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    module = (missing.name or "").partition(".")[0]
    how = f"pip install {_MODULES.get(module, module)}" if module else _first_line(error)
    return f"{address} needs a package that is not installed: {how}."


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
