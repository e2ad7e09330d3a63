"""The folder in which manifests of pools and indexes of tars are kept, where the user names none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

AUTO = "auto"


def index_folder(named: str, tell: Callable[[str], None] = lambda _: None) -> Path | None:
    """The folder that a word stands for; of `auto` it is made, and told when it was not there.

    Args:
        named: a path, `auto` for the user's cache folder, or nothing for none.
        tell: gets a sentence about a folder that is made.

    Returns:
        The folder, which need not be there; None where nothing is kept.
    """
    if named != AUTO:
        return Path(named) if named else None
    folder = _cache_home()
    if folder is None or folder.is_dir():
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return folder  # whoever writes there tells why it cannot be done
    tell(f'Indexes of tars are kept in {folder} from now on (data.index_dir names another folder; "" keeps none).')
    return folder


def _cache_home() -> Path | None:
    """By the XDG Base Directory Specification, in which a path that is not absolute does not count."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~")
    if not os.path.isabs(base):
        base = os.path.join(home, ".cache") if os.path.isabs(home) else ""
    return Path(base, "aced", "index") if base else None
