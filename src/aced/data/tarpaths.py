"""Patterns of tars to paths: files, folders, globs and brace ranges."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from aced.errors import AcedError
from aced.paths import expand_path

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_tars(patterns: Sequence[str]) -> list[Path]:
    """The tars that patterns name, in the order given (within a folder or glob: sorted), each once.

    Args:
        patterns: files, folders (all `*.tar`, `*.tar.gz` and `*.tgz` in them), globs, names with braces
            (`{00000..00010}`, `{a,b}`).

    Raises:
        AcedError: nothing there, or an address instead of a path.
    """
    if not patterns:
        raise AcedError("No data are named: name at least one tar, a folder of tars, or a pattern.")
    found: dict[str, Path] = {}
    for pattern in patterns:
        try:
            pattern = expand_path(pattern)
        except ValueError as error:
            raise AcedError(f"{pattern}: {error}.") from None
        for path in _expand(pattern):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _expand(pattern: str) -> list[Path]:
    pattern = pattern.removeprefix("file://")
    if re.match(r"[a-z0-9+]+://", pattern) or pattern.startswith("pipe:"):
        raise AcedError(f"{pattern} is not a path: download the tars first and name the files or their folder.")
    if os.path.lexists(pattern):
        return _existing(Path(pattern))
    paths: list[Path] = []
    for name in braces(pattern):
        if os.path.lexists(name):
            paths += _existing(Path(name))
            continue
        matches = sorted(glob.glob(name))
        if not matches:
            raise AcedError(_nothing(pattern, name))
        paths += [Path(match) for match in matches]
    return paths


def _existing(path: Path) -> list[Path]:
    if not path.exists():
        raise AcedError(f"{path} is a link to a file that does not exist.")
    if not path.is_dir():
        return [path]
    tars = {tar.name.removesuffix(".tar"): tar for tar in path.glob("*.tar")}
    # Of a tar that was unpacked beside its gzip file, the tar is read.
    for ending in (".tar.gz", ".tgz"):
        for packed in path.glob(f"*{ending}"):
            tars.setdefault(packed.name.removesuffix(ending), packed)
    if not tars:
        other = next(iter(sorted(path.glob("*.tar.*"))), None)
        hint = f"; {other.name} must be unpacked to a .tar first" if other else ""
        raise AcedError(f"The folder {path} holds no .tar files{hint}.")
    return sorted(tars.values())


def _nothing(pattern: str, name: str) -> str:
    if glob.has_magic(name):
        return f"No file matches {name}."
    part = f" (from {pattern})" if name != pattern else ""
    folder = Path(name).parent
    if not folder.is_dir():
        return f"There is no folder {folder}, so no {Path(name).name} in it{part}."
    return f"There is no file or folder {name}{part}."


def braces(pattern: str) -> Iterator[str]:
    """What a pattern stands for: `a{0..2}` for a0, a1, a2 (zero-padded as written), `a{x,y}` for ax, ay; nested too."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    body = match.group(1)
    span = _RANGE.fullmatch(body)
    if span:
        first, last = span.groups()
        if int(last) < int(first):
            raise AcedError(f"The range {match.group(0)} in {pattern} runs backwards.")
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        words = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    elif "," in body:
        words = body.split(",")
    else:
        raise AcedError(f"{match.group(0)} in {pattern} is neither a range {{00..09}} nor a list {{a,b}}.")
    for word in words:
        yield from braces(pattern[: match.start()] + word + pattern[match.end() :])


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A name for each tar: its file name, with as many parent folders as tell equal file names apart."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    depth = [1] * len(paths)
    while True:
        names = ["/".join(part[-count:]) for part, count in zip(parts, depth, strict=True)]
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(name, []).append(row)
        clashes = [row for same in rows.values() if len(same) > 1 for row in same]
        grow = [row for row in clashes if depth[row] < len(parts[row])]
        if not grow:
            return names
        for row in grow:
            depth[row] += 1
