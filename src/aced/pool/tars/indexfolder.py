"""The default folder of pool manifests and tar indexes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

AUTO = "auto"


def index_folder(named: str, tell: Callable[[str], None] = lambda _: None) -> Path | None:
    """The folder that a word means; for `auto` it is created, and reported if it is new.

    Args:
        named: a path, `auto` for the user's cache folder, or nothing for none.
        tell: receives a sentence about a folder that is created.

    Returns:
        The folder, which need not exist; None if nothing is kept.
    """
    if named != AUTO:
        return Path(named) if named else None
    folder = _cache_home()
    if folder is None or folder.is_dir():
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return folder  # writing there will report the reason
    tell(f'Indexes of tars are now kept in {folder} (data.index_dir sets another folder; "" keeps none).')
    return folder


def _cache_home() -> Path | None:
    """According to the XDG Base Directory Specification, which ignores relative paths."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~")
    if not os.path.isabs(base):
        base = os.path.join(home, ".cache") if os.path.isabs(home) else ""
    return Path(base, "aced", "index") if base else None
