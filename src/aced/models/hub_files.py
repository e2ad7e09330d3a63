"""Model files from the Hugging Face hub: downloads by its own client into its own cache, with helpful errors.

The client honours HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and tokens, and makes processes of one machine wait for each
other's downloads. It checks sizes; hashes are checked here.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aced.errors import AcedError

FileProgress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Opens a bar with a description: `with progress("Fetching x") as count: count(done, total)`."""

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "config.json", "vocab*", "merges.txt")
TOKENIZER_MODELS = ("*.model", "*.spm")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the hub.

    Attributes:
        repo: `ORGANISATION/MODEL`.
        names: alternatives; the first one that exists is used.
        revision: a branch, tag or commit; None for the main branch.
        hand: what to do with the file after fetching it by hand, as the end of a sentence.
    """

    repo: str
    names: tuple[str, ...]
    revision: str | None = None
    hand: str = "name its path"


class NotOnHub(AcedError):
    """The repository exists and has none of the files."""


@contextmanager
def silently(_: str) -> Iterator[Callable[[int, int], None]]:
    """A `FileProgress` that draws nothing, for small files."""
    yield lambda done, total: None


def fetch(file: HubFile, progress: FileProgress | None = None) -> Path:
    """The path of a hub file in the cache; downloads it unless it is there.

    Args:
        file: the file.
        progress: opens the bar of a download; None shows the client's own.

    Raises:
        NotThere: the repository has no such file.
        AcedError: it cannot be fetched, or arrived damaged; nothing damaged stays in the cache.
    """
    import huggingface_hub.errors as hub

    for name in file.names:
        try:
            return _fetch(file, name, progress)
        except hub.LocalEntryNotFoundError as error:  # no network: one of the other names may be in the cache
            cached = next((found for other in file.names if (found := _cached(file, other))), None)
            if cached is not None:
                return cached
            raise AcedError(_sentence(error, file, name)) from None
        except hub.EntryNotFoundError:
            continue
        except (hub.HFValidationError, _transport(), OSError, ValueError, RuntimeError) as error:
            raise AcedError(_sentence(error, file, name)) from None
    some = f"{file.names[0]} or similar" if len(file.names) > 2 else " or ".join(file.names)
    raise NotOnHub(f"The repository {_named(file)} on {endpoint()} has no {some}.")


def fetch_folder(file: HubFile, progress: FileProgress | None = None) -> Path:
    """A folder with the files of a repository whose names match the patterns `file.names`.

    Raises:
        AcedError: as `fetch`.
    """
    import huggingface_hub
    import huggingface_hub.errors as hub

    try:
        with _bars(f"Fetching {file.repo}", progress) as bar:
            folder: str = huggingface_hub.snapshot_download(
                file.repo, revision=file.revision, allow_patterns=list(file.names), tqdm_class=bar
            )
    except (hub.HFValidationError, hub.EntryNotFoundError, _transport(), OSError, ValueError, RuntimeError) as error:
        raise AcedError(_sentence(error, file, "")) from None
    return Path(folder)


def endpoint() -> str:
    """The address of the hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


# -- one file ------------------------------------------------------------------------------------------------------


def _fetch(file: HubFile, name: str, progress: FileProgress | None) -> Path:
    import huggingface_hub

    before = _cached(file, name)
    download: Any = huggingface_hub.hf_hub_download
    with _bars(f"Fetching {name} of {file.repo}", progress) as bar:
        # Versions before 1 draw their own bar.
        own = {"tqdm_class": bar} if "tqdm_class" in inspect.signature(download).parameters else {}
        path = Path(download(file.repo, name, revision=file.revision, **own))
    if path != before:
        _check_hash(path, file, name)
    return path


def _cached(file: HubFile, name: str) -> Path | None:
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(file.repo, name, revision=file.revision)
    return Path(found) if isinstance(found, str) else None


def _check_hash(path: Path, file: HubFile, name: str) -> None:
    """Discard a download that differs from the hub's hash; large files are named in the cache by their SHA-256."""
    blob = path.parent / os.readlink(path) if path.is_symlink() else path
    if not _SHA256.fullmatch(blob.name):
        return
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise AcedError(
            f"{name} of {_named(file)} arrived damaged: its hash differs from the one on {endpoint()}; try again."
        )


@contextmanager
def _bars(description: str, progress: FileProgress | None) -> Iterator[Any]:
    """The class of bars for the hub's client: the first one moves ours, which opens once something is fetched."""
    if progress is None:
        yield None
        return
    from tqdm import tqdm

    draw: FileProgress = progress
    with ExitStack() as opened:

        class Bar(tqdm):  # type: ignore[misc]
            monitor_interval = 0
            owner: Any = None
            count: Callable[[int, int], None] | None = None

            def __init__(self, *words: Any, **options: Any) -> None:
                if Bar.owner is None:
                    Bar.owner = self
                options.pop("name", None)
                super().__init__(*words, **options | {"file": io.StringIO(), "disable": False})

            def display(self, *_: Any, **__: Any) -> bool:
                if Bar.owner is self and self.total:
                    count = Bar.count or opened.enter_context(draw(description))
                    Bar.count = count
                    count(int(self.n), int(self.total))
                return True

            def update_transfer(self, *_: Any) -> None:
                """Bytes from the network, if they differ from those of the file."""

        yield Bar


# -- sentences -----------------------------------------------------------------------------------------------------


def _sentence(error: Exception, file: HubFile, name: str) -> str:
    """Why a file cannot be fetched, and what to do."""
    import huggingface_hub.errors as hub

    what = f"{name} of {_named(file)}" if name else f"the files of {_named(file)}"
    if isinstance(error, hub.HFValidationError):
        return f"'{file.repo}' is not the name of a repository: write hf-hub:ORGANISATION/MODEL."
    hand = _by_hand(file, name)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub.GatedRepoError):
        return f"{what} requires accepting the terms at {endpoint()}/{file.repo}: do so and {_LOG_IN}, {hand}"
    if isinstance(error, hub.RevisionNotFoundError):
        return f"The repository {file.repo} on {endpoint()} has no revision '{file.revision}'."
    if isinstance(error, hub.RepositoryNotFoundError):
        return (
            f"There is no repository {file.repo} on {endpoint()}, or it is private: check the name, or {_LOG_IN} (a "
            "expired token looks the same)."
        )
    if status in (401, 403):
        return f"{endpoint()} refuses {what} (status {status}): {_LOG_IN}, {hand}"
    if isinstance(error, hub.LocalEntryNotFoundError):
        return _out_of_reach(error, what, hand)
    if "Consistency check failed" in str(error):
        return f"{what} arrived with another size than on {endpoint()}: try again, {hand}"
    if status is not None:
        return f"{endpoint()} answers with status {status} for {what}: try again later, {hand}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{what} cannot be kept in {_cache()}: {error.strerror}; make room, or set HF_HOME to another folder."
    return f"{what} cannot be fetched from {endpoint()} ({_reason(error)}): try again, {hand}"


def _out_of_reach(error: Exception, what: str, hand: str) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set and {what} is not in {_cache()}: unset it to download, {hand}"
    why = error.__cause__ or error
    return (
        f"{what} is not in {_cache()}, and {endpoint()} cannot be reached or does not answer like a hub "
        f"({_reason(why)}): check the network and HF_ENDPOINT, {hand}"
    )


def _by_hand(file: HubFile, name: str) -> str:
    """The alternative, as the end of a sentence."""
    if not name:
        return f"or fetch them by hand from {endpoint()}/{file.repo} and {file.hand}."
    import huggingface_hub

    return f"or fetch {huggingface_hub.hf_hub_url(file.repo, name, revision=file.revision)} by hand and {file.hand}."


def _named(file: HubFile) -> str:
    return f"{file.repo}@{file.revision}" if file.revision else file.repo


def _cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__


def _transport() -> type[Exception]:
    """The exceptions of the client's HTTP library: requests' error before its version 1, httpx's since."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base
