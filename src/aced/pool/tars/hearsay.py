"""Numbers of pairs from files beside the tars of a pool, so that tars at addresses need no fetching to be counted.

open_clip and DataComp write `sizes.json` (`{"00000.tar": 9999}`), img2dataset a `00000_stats.json` for each tar, with
its `successes`. These numbers are trusted until a tar is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from aced.errors import AcedError
from aced.files.remote import read_texts
from aced.pool.tars.located import Tell

_AT_ONCE = 1000


def counts_beside(addresses: Sequence[str], tell: Tell = lambda _: None) -> dict[str, int]:
    """The number of pairs of some tars at addresses, as far as files beside them state it.

    Args:
        addresses: of single tars.
        tell: receives a sentence about files that cannot be used.
    """
    found: dict[str, int] = {}
    folders: dict[str, list[str]] = {}
    for address in addresses:
        folders.setdefault(address.rpartition("/")[0], []).append(address)
    for folder, tars in folders.items():
        sizes = _sizes(f"{folder}/sizes.json", tell)
        found |= {tar: sizes[name] for tar in tars if (name := tar.rpartition("/")[2]) in sizes}
        found |= _stats([tar for tar in tars if tar not in found])
    return found


def _sizes(address: str, tell: Tell) -> dict[str, int]:
    try:
        content = json.loads(read_texts([address]).get(address, "{}"))
        return {name: count for name, count in content.items() if _is_count(count)}
    except (ValueError, AttributeError, RecursionError):
        tell(f"{address} does not state how many pairs each tar holds, so it is ignored.")
    except AcedError as error:
        tell(f"{str(error).rstrip('.')}; it is ignored.")
    return {}


def _stats(tars: Sequence[str]) -> dict[str, int]:
    """img2dataset's number for each tar; a folder without one for its first tar is not asked further."""
    found: dict[str, int] = {}
    for part in [tars[:1], *(tars[at : at + _AT_ONCE] for at in range(1, len(tars), _AT_ONCE))]:
        names = {f"{tar.removesuffix('.gz').removesuffix('.tar')}_stats.json": tar for tar in part}
        try:
            texts = read_texts(list(names))
        except AcedError:
            break
        found |= dict(_successes({names[address]: text for address, text in texts.items()}))
        if not found:
            break
    return found


def _successes(texts: dict[str, str]) -> Iterator[tuple[str, int]]:
    for tar, text in texts.items():
        try:
            count = json.loads(text)["successes"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if _is_count(count):
            yield tar, count


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
