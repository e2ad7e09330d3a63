"""How a sample's image becomes a tower's pixels: exactly as in evaluation, or faster.

Training, scoring and embedding into side-cars decode in one way, and everything kept of it records the name of that
way: a side-car or checkpoint of another way is not used. Evaluation always uses `exact`.
"""

from __future__ import annotations

from dataclasses import dataclass

from aced.errors import AcedError
from aced.pool.resizing import Resize, by_pillow, by_torch


@dataclass(frozen=True)
class Decoding:
    """One way of decoding.

    Attributes:
        name: in `data.decoding`.
        resize: to the tower's size.
        scaled: whether large JPEGs are decoded at n/8 of their size, see `aced.pool.images.decode_noted`.
    """

    name: str
    resize: Resize
    scaled: bool = False

    @property
    def mark(self) -> str:
        """The difference between the pixels of two ways, for the end of a fingerprint."""
        return "" if self.name == EXACT.name else f" [{self.name}]"


EXACT = Decoding("exact", by_pillow)
"""Pixel for pixel as open_clip's inference transform."""
FAST = Decoding("fast", by_torch)
"""The same filter with torch's kernels: about 0.3 % of the values differ, by one level of 255."""
SCALED = Decoding("scaled", by_torch, scaled=True)
"""Different pixels of the same image."""

DECODINGS = {way.name: way for way in (EXACT, FAST, SCALED)}


def find_decoding(name: str) -> Decoding:
    """The way of that name.

    Raises:
        AcedError: there is none.
    """
    if name not in DECODINGS:
        raise AcedError(f"The decoding is '{name}'; use {', '.join(list(DECODINGS)[:-1])} or {list(DECODINGS)[-1]}.")
    return DECODINGS[name]
