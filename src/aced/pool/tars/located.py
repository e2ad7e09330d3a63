"""From the patterns of a config to single tars: paths, addresses, and the entries of manifests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aced.errors import AcedError
from aced.files.patterns import expand_tars, tars_below
from aced.files.remote import Remote, find, is_address
from aced.pool.fetch.spool import Spool, unspooled
from aced.pool.tars.manifest import Repeated, TarFacts
from aced.pool.tars.manifestfile import names_manifest, read_named

Tell = Callable[[str], None]
"""Prints a sentence for the user."""


Named = Path | Remote | TarFacts
"""A tar as named: a local one, one at an address, or one that a manifest vouches for."""


class Groups(NamedTuple):
    """The tars that patterns name.

    Attributes:
        groups: the tars of each pattern, each where it is named first.
        repeated: for each manifest among them, keys that several of its tars share.
        found: a server's answer for each address, to be passed to `remember`.
    """

    groups: list[list[Named]]
    repeated: list[Repeated]
    found: dict[str, list[Remote]]


def group_tars(
    patterns: Sequence[str], spool: Spool | None, *, apart: bool = False, tell: Tell | None = None
) -> Groups:
    """The tars of each pattern, each tar once; nothing is fetched, and no tar is opened.

    Args:
        patterns: files, folders, globs, brace ranges, addresses that fsspec knows, and manifests.
        spool: where addresses are fetched; without it they are refused.
        apart: whether the patterns are separate sources, so that none may name a tar of another.
        tell: receives a sentence about tars that the patterns may have missed.

    Raises:
        AcedError: there are no tars, or a tar is in two sources.
    """
    if not patterns:
        expand_tars(patterns)  # reports what is missing
    groups: list[list[Named]] = [[] for _ in patterns]
    seen: dict[str, int] = {}
    found: dict[str, list[Remote]] = {}
    repeated: list[Repeated] = []
    twice = 0
    for number, pattern in enumerate(patterns):
        for tar in _expand(pattern, spool, found, repeated, tell):
            identity = _identity(tar)
            if identity not in seen:
                seen[identity] = number
                groups[number].append(tar)
            elif apart and seen[identity] != number:
                raise AcedError(
                    f"{identity} is in two sources of data.shards, {patterns[seen[identity]]} and {pattern}: with "
                    "data.weights or method.quota each tar belongs to one."
                )
            else:
                twice += 1
    if tell is not None:
        _tell_missed(patterns, twice, tell)
    return Groups(groups, repeated, found)


def source_of(tar: Named) -> str:
    """The user's name for a tar: its path or its address."""
    return tar.address if isinstance(tar, Remote) else tar.source if isinstance(tar, TarFacts) else str(tar)


def may_be_there(tar: Named) -> bool:
    """Whether a tar may be the one that was named; a local one that a manifest lists is checked."""
    if not isinstance(tar, TarFacts) or is_address(tar.source):
        return True
    try:
        return os.stat(tar.source).st_size == tar.size
    except OSError:
        return False


def _identity(tar: Named) -> str:
    return os.path.realpath(tar) if isinstance(tar, Path) else source_of(tar)


def _tell_missed(patterns: Sequence[str], twice: int, tell: Tell) -> None:
    """Report tars that the patterns may have been meant to include, and how many they name more than once."""
    for pattern in patterns:
        if not is_address(pattern) and (missed := tars_below(pattern)):
            name, below = missed
            tell(f"Of {name} only the tars in the folder itself are read, not {below}: '{name}/**/*.tar' names all.")
    if twice:
        tell(f"{twice:,} tar{'s are' if twice > 1 else ' is'} named more than once and count once.")


def name_tars(patterns: Sequence[str], spool: Spool | None, tell: Tell | None = None) -> tuple[list[list[str]], int]:
    """Paths and addresses of the single tars that each pattern names, each tar once; nothing is fetched.

    Also returns the sizes of those at addresses, as far as their stores report them.

    Args:
        patterns, spool, tell: as for `group_tars`.

    Raises:
        AcedError: there are no tars, or an address has no spool.
    """
    named = group_tars(patterns, spool, tell=tell)
    if spool is not None:
        remember(named.found, spool, tell)
    far = sum(tar.size or 0 for group in named.groups for tar in group if isinstance(tar, Remote))
    return [[source_of(tar) for tar in group] for group in named.groups], far


def remember(found: Mapping[str, Sequence[Remote]], spool: Spool, tell: Tell | None) -> None:
    """Remember the files behind addresses; if that cannot be written, a run needs their server again."""
    try:
        for pattern, remotes in found.items():
            spool.remember(pattern, remotes)
    except AcedError as error:
        if tell is not None:
            tell(f"{str(error).rstrip('.')}; the next run needs the servers of its addresses again.")


def _expand(
    pattern: str,
    spool: Spool | None,
    found: dict[str, list[Remote]],
    repeated: list[Repeated],
    tell: Tell | None,
) -> Sequence[Named]:
    """The tars of a pattern; `found` receives a server's answer, and fetched files replace it if the server is down."""
    if names_manifest(pattern):
        manifest = read_named(pattern)
        repeated.append(manifest.repeated)
        return manifest.tars
    if not is_address(pattern):
        return expand_tars([pattern])
    if spool is None:
        raise unspooled(pattern)
    try:
        found[pattern] = find(pattern)
        return found[pattern]
    except AcedError as error:
        kept = spool.recall(pattern)
        if kept is None:
            raise
        if tell is not None:
            tell(
                f"{str(error).rstrip('.')}, but everything fetched from there earlier is complete: its "
                f"{len(kept):,} tar{'s are' if len(kept) > 1 else ' is'} read from {spool.folder}."
            )
        return kept
