"""Patterns of tars to paths: files, folders, globs and brace ranges."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from aced.errors import AcedError
from aced.files.several import pieces
from aced.runtime.paths import expand_path

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_PLAIN, _PACKED = re.compile(r"\.tar$", re.I), re.compile(r"\.(tar\.gz|tgz)$", re.I)
_MAGIC = "*?[{"
_MOST_FOLDERS = 2000
"""Number of folders searched for tars that a pattern does not name, for hints."""


def expand_tars(patterns: Sequence[str]) -> list[Path]:
    """The tars that patterns name, in the order given (within a folder or glob: sorted), each once.

    Args:
        patterns: files, folders (all `*.tar`, `*.tar.gz` and `*.tgz` in them, in any case, except hidden ones), globs
            (`**` for folders at any depth; a matching folder means its tars), names with braces (`{00000..00010}`,
            `{a,b}`). An existing file or folder with exactly the pattern's name takes precedence.

    Raises:
        AcedError: there are no tars, or an address is given instead of a path.
    """
    if not patterns:
        raise AcedError("No data is named: name at least one tar, a folder of tars, or a pattern.")
    found: dict[str, Path] = {}
    for pattern in patterns:
        try:
            pattern = expand_path(pattern)
        except ValueError as error:
            raise AcedError(f"{pattern}: {error}.") from None
        for path in _expand(pattern):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def tars_below(pattern: str) -> tuple[str, Path] | None:
    """A folder that a pattern names and a tar further down in it, which is not read; None if there is none."""
    pattern = os.path.expanduser(pattern.removeprefix("file://"))
    head = _literal_head(pattern)
    names = [pattern] if os.path.lexists(pattern) else [head + tail for tail in braces(pattern.removeprefix(head))]
    for name in names:
        there = os.path.lexists(name) or "**" in name
        for folder in [name] if there else sorted(glob.glob(glob.escape(head) + name.removeprefix(head))):
            if tar := _first_below(folder):
                return folder.rstrip("/"), tar
    return None


def _first_below(folder: str) -> Path | None:
    for place, folders, _ in islice(os.walk(folder, followlinks=True), _MOST_FOLDERS):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        if place != folder and (tars := _tars_in(Path(place))):
            return tars[0]
    return None


def _expand(pattern: str) -> list[Path]:
    if not pattern.strip():
        raise AcedError("One of the sources of data is an empty string: name a tar, a folder of tars, or a pattern.")
    pattern = pattern.removeprefix("file://")
    if re.match(r"[a-z0-9+]+://", pattern) or pattern.startswith("pipe:"):
        raise AcedError(f"{pattern} is not a path: download the tars first and name the files or their folder.")
    if os.path.lexists(pattern):
        return _existing(Path(pattern))
    head = _literal_head(pattern)
    paths: list[Path] = []
    for tail in braces(pattern.removeprefix(head)):
        if os.path.lexists(head + tail):
            paths += _existing(Path(head + tail))
        else:
            paths += _matching(pattern, head, tail)
    return paths


def _literal_head(pattern: str) -> str:
    """The leading folders of a pattern that exist as written, if that is worth saying."""
    parts = pattern.split("/")
    for count in range(len(parts) - 1, 0, -1):
        head = "/".join(parts[:count])
        if os.path.isdir(head):
            return f"{head}/" if any(mark in head for mark in _MAGIC) else ""
    return ""


def _matching(pattern: str, head: str, tail: str) -> list[Path]:
    """The files that a glob matches, and the tars in the folders that it matches."""
    names = sorted(glob.glob(glob.escape(head) + tail, recursive=True))
    if "**" in tail:  # links may lead to a file in many ways; the shortest path names it
        names.sort(key=lambda name: name.count("/"))
    matches = [Path(name) for name in names]
    if not matches:
        raise AcedError(_nothing(pattern, head + tail))
    if tail.rstrip("/").rpartition("/")[2] == "**":  # matches everything below; the folders are meant
        matches = [match for match in matches if match.is_dir()]
    found = [tar for match in matches for tar in (_tars_in(match) if match.is_dir() else [match])]
    if not found:
        raise AcedError(f"{head}{tail} matches {len(matches)} folder{'s' * (len(matches) > 1)} without any .tar files.")
    return found


def _existing(path: Path) -> list[Path]:
    if not path.exists():
        raise AcedError(f"{path} is a link to a file that does not exist.")
    if not path.is_dir():
        return [path]
    tars = _tars_in(path)
    if not tars:
        other = next(iter(sorted(path.glob("*.tar.*"))), None)
        hint = f"; {other.name} must be unpacked to a .tar first" if other else ""
        if below := _first_below(str(path)):
            hint = f" itself; there are some further down, such as {below}: name '{path}/**/*.tar' to read them all"
        raise AcedError(f"The folder {path} holds no .tar files{hint}.")
    return tars


def _tars_in(folder: Path) -> list[Path]:
    """The tars in a folder; if one was unpacked beside its gzip file, only the tar."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    found = [name for name in names if _PLAIN.search(name)]
    stems = {_PLAIN.sub("", name) for name in found}
    for name in names:
        if _PACKED.search(name) and (stem := _PACKED.sub("", name)) not in stems:
            stems.add(stem)
            found.append(name)
    return sorted(folder / name for name in found)


def _nothing(pattern: str, name: str) -> str:
    names = pieces(pattern)
    if len(names) > 1 and any(map(_names_something, names)):
        listed = json.dumps(names, ensure_ascii=False)
        return f"There is no {pattern}; several sources are a list, '{listed}', or '{'::'.join(names)}'."
    if "\\" in name and (os.path.lexists(other := name.replace("\\", "/")) or glob.glob(other, recursive=True)):
        return f"There is no {name}, but there is {other}: write / between folders."
    if glob.has_magic(name):
        return f"No file matches {name}."
    part = f" (from {pattern})" if name != pattern else ""
    folder = Path(name).parent
    if not folder.is_dir():
        return f"There is no folder {folder}, so no {Path(name).name} in it{part}."
    return f"There is no file or folder {name}{part}."


def _names_something(pattern: str) -> bool:
    """Whether a pattern matches anything that exists."""
    try:
        return bool(_expand(os.path.expanduser(pattern)))
    except AcedError:
        return False


def braces(pattern: str) -> Iterator[str]:
    """The expansion of a pattern: `a{0..2}` to a0, a1, a2 (zero-padded as written), `a{x,y}` to ax, ay; nested too."""
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


def distinct_names(paths: Sequence[Path | str]) -> list[str]:
    """A name for each tar: its file name, with as many parent folders as distinguish equal file names."""
    files = [os.path.basename(path) for path in paths]
    if len(set(files)) == len(files):
        return files
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
