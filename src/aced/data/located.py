"""From the patterns of a config to tars on a local disk: paths as they are, addresses and gzip through the spool."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aced.data.remote import Remote, find, is_address
from aced.data.spool import Located, Spool, is_gzip
from aced.data.tarpaths import expand_tars, tars_below
from aced.errors import AcedError

Progress = Callable[[int, int], None]
Tell = Callable[[str], None]
"""Says a sentence to the user."""


def locate_tars(
    patterns: Sequence[str],
    spool: Spool | None,
    *,
    apart: bool = False,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> list[list[Located]]:
    """The tars of each pattern, each tar once.

    Args:
        patterns: files, folders, globs, brace ranges, and addresses that fsspec knows.
        spool: where addresses and gzip files go; without it addresses are refused and gzip files are left as they are.
        apart: whether the patterns are sources of their own, so that none may name a tar of another.
        progress: called with (files fetched, all files that must be fetched).
        tell: gets a sentence about what the patterns may have missed.

    Raises:
        AcedError: nothing there, a tar in two sources, or what the spool raises.
    """
    groups, found = _grouped(patterns, spool, apart=apart, tell=tell)
    remotes = [tar for group in groups for tar in group if isinstance(tar, Remote)]
    fetched: dict[str, Path] = {}
    if remotes and spool is not None:
        paths = spool.fetch(remotes, progress)
        fetched = {remote.address: path for remote, path in zip(remotes, paths, strict=True)}
        _remember(found, spool, tell)
    return [[_located(tar, fetched, spool) for tar in group] for group in groups]


def _tell_missed(patterns: Sequence[str], twice: int, tell: Tell) -> None:
    """Say which tars the patterns may have been meant to name too, and how many they name more than once."""
    for pattern in patterns:
        if not is_address(pattern) and (missed := tars_below(pattern)):
            name, below = missed
            tell(
                f"Of {name} only the tars in the folder itself are read, and not {below}: '{name}/**/*.tar' names all."
            )
    if twice:
        tell(f"{twice:,} tar{'s are' if twice > 1 else ' is'} named more than once and count once.")


def name_tars(patterns: Sequence[str], spool: Spool | None, tell: Tell | None = None) -> list[list[str]]:
    """Paths and addresses of the single tars that each pattern names, each tar once; nothing is fetched.

    Args:
        patterns, spool, tell: as for `locate_tars`.

    Raises:
        AcedError: nothing there, or an address without a spool.
    """
    groups, found = _grouped(patterns, spool, apart=False, tell=tell)
    if spool is not None:
        _remember(found, spool, tell)
    return [[tar.address if isinstance(tar, Remote) else str(tar) for tar in group] for group in groups]


def _grouped(
    patterns: Sequence[str], spool: Spool | None, *, apart: bool, tell: Tell | None
) -> tuple[list[list[Path | Remote]], dict[str, list[Remote]]]:
    """What each pattern names, each tar where it is named first, and all that a server said of each address."""
    if not patterns:
        expand_tars(patterns)  # says what is missing
    groups: list[list[Path | Remote]] = [[] for _ in patterns]
    seen: dict[str, int] = {}
    found: dict[str, list[Remote]] = {}
    twice = 0
    for number, pattern in enumerate(patterns):
        for tar in _expand(pattern, spool, found, tell):
            identity = tar.address if isinstance(tar, Remote) else os.path.realpath(tar)
            if identity not in seen:
                seen[identity] = number
                groups[number].append(tar)
            elif apart and seen[identity] != number:
                raise AcedError(
                    f"{identity} is in two sources of data.shards, {patterns[seen[identity]]} and {pattern}: with "
                    "data.weights each tar belongs to one."
                )
            else:
                twice += 1
    if tell is not None:
        _tell_missed(patterns, twice, tell)
    return groups, found


def _remember(found: Mapping[str, Sequence[Remote]], spool: Spool, tell: Tell | None) -> None:
    """Keep what addresses name; where that cannot be written, a run needs their server again."""
    try:
        for pattern, remotes in found.items():
            spool.remember(pattern, remotes)
    except AcedError as error:
        if tell is not None:
            tell(f"{str(error).rstrip('.')}: the next run needs the servers of its addresses again.")


def _expand(
    pattern: str, spool: Spool | None, found: dict[str, list[Remote]], tell: Tell | None
) -> list[Path] | list[Remote]:
    """The tars of a pattern; `found` gets what a server says, and what was fetched stands in where it is down."""
    if not is_address(pattern):
        return expand_tars([pattern])
    if spool is None:
        raise AcedError(
            f"{pattern} is an address: set data.spool_dir to a folder to fetch its tars to, or name a path."
        )
    try:
        found[pattern] = find(pattern)
        return found[pattern]
    except AcedError as error:
        kept = spool.recall(pattern)
        if kept is None:
            raise
        if tell is not None:
            tell(
                f"{str(error).rstrip('.')}, but what was fetched from there earlier is whole: its "
                f"{len(kept):,} tar{'s are' if len(kept) > 1 else ' is'} read from {spool.folder}."
            )
        return kept


def _located(tar: Path | Remote, fetched: dict[str, Path], spool: Spool | None) -> Located:
    path = fetched[tar.address] if isinstance(tar, Remote) else tar
    source = tar.address if isinstance(tar, Remote) else str(tar)
    try:
        packed = is_gzip(path)
    except OSError:
        packed = False  # the index tells why it cannot be read
    if not packed or spool is None:
        return Located(source, path)
    unpacked = spool.unpack(path)
    return Located(source, unpacked.path, unpacked.fault)
