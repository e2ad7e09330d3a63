"""The scores of guessing in small sets of images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from aced.errors import AcedError


def chance_of_selection(images: int, captions: int) -> float:
    """The probability that guessing is right throughout a set.

    With one image it is one of the captions, with one caption one of the images. With two of each, both pairs must
    outscore both mismatches: of the 4! orders of four scores 2! * 2! do.

    Raises:
        AcedError: a set of another size.

    >>> chance_of_selection(1, 2), round(chance_of_selection(2, 2), 4)
    (0.5, 0.1667)
    """
    if min(images, captions) == 1 and max(images, captions) > 1:
        return 1 / max(images, captions)
    if images == captions == 2:
        return 1 / 6
    raise AcedError(
        f"sets of {images} images and {captions} captions are not supported; use one image and several captions, "
        "several images and one caption, or two of each."
    )


def chance_of_association(candidates: int, associated: int) -> float:
    """The expected Jaccard index of guessing which k of n candidates belong to a cue.

    >>> chance_of_association(3, 1) == 1 / 3, round(chance_of_association(10, 3), 4)
    (True, 0.2008)
    """
    k, others = associated, candidates - associated
    ways = [comb(k, hits) * comb(others, k - hits) for hits in range(k + 1)]
    return sum(way * hits / (2 * k - hits) for hits, way in enumerate(ways)) / comb(candidates, k)


def chance_in_sets(associated: Sequence[Sequence[bool]], metric: str) -> float | None:
    """The mean of `chance_of_association` over the sets that a metric counts; None if it counts none.

    `jaccard_score_10-12` counts sets of 10 candidates or more, `avg_jaccard_score` all.
    """
    counted = [row for row in associated if len(row) >= 10 or metric == "avg_jaccard_score"]
    if not counted:
        return None
    return sum(chance_of_association(len(row), sum(map(bool, row))) for row in counted) / len(counted)
