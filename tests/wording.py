"""Compares a text with what it must hold, whatever its sentences are: keys, paths, numbers, names."""

from __future__ import annotations

import re

GAP = " … "


def tells(text: str, marks: str) -> bool:
    """Whether `text` holds the marks, which " … " separates, in this order and as whole words.

    Line breaks, which a narrow terminal adds, count as spaces. "1 … damaged" is in "1 of them damaged", not in
    "31 are damaged" and not in "0.1 damaged".
    """
    flat, start = " ".join(text.split()), 0
    for mark in marks.split(GAP):
        found = re.compile(rf"(?<!\w)(?<!\d[.,]){re.escape(mark.strip())}(?!\w|[.,]\d)").search(flat, start)
        if found is None:
            return False
        start = found.end()
    return True
