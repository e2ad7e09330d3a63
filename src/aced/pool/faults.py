"""All faults of tars, samples, images and captions by name: their meaning, and whether the sample is lost.

Names are stable: metrics, tables and pages count by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aced.pool.source import Fault

LEFT_OUT = {
    "tar_truncated": "the file ends inside a member or without two zero blocks (a broken download)",
    "tar_bad_header": "a damaged header; ordinary readers stop there silently",
    "tar_data_after_end": "data after the end mark: a header became zeros, or two tars were joined",
    "tar_zero_tail": "the rest of the file is zeros",
    "tar_not_a_tar": "a git-lfs pointer, a web page, a compressed file, or another file",
    "tar_empty_file": "no bytes, or no members",
    "tar_gzip_damaged": "a gzip stream that ends early or fails its check",
    "tar_unreadable": "the system cannot read the file",
    "tar_gone": "a sample whose tar was there when the run began and can no longer be read",
    "tar_changed": "a sample whose tar has changed since the run began",
    "count_wrong": "a sample that a file beside its tar lists and the tar lacks",
    "no_image": "the sample has no jpg, jpeg, png or webp",
    "no_caption": "the sample has no member for the caption",
    "dotted_key": "images like `a.b.jpg`: a key ends at the first dot, so this is field `b.jpg` of sample `a`",
    "empty_member": "the image or the caption has no bytes",
    "image_unreadable": "not an image in a known format, or damaged",
    "image_truncated": "a part of the image is missing or zeros",
    "image_empty": "an image without bytes",
    "image_too_large": "over 89 million pixels",
    "image_aspect": "longer than 20 to 1",
    "caption_empty": "nothing but white space",
    "caption_no_field": "the json lacks the field that `data.caption` names",
    "caption_no_text": "that field is null, a number, a dict, a list of these, or a text cut into single words",
    "caption_bad_json": "the json cannot be read",
}
"""Faults that exclude a sample, or (`tar_...`) an unknown number of them."""

HARMLESS = {
    "not_regular": "a link or special file, which is not read",
    "folder": "an entry for a folder",
    "no_key": "a file whose name has no key or no suffix, such as `.hidden.jpg` or `README`",
    "duplicate_member": "one name twice in a row: the first is used",
    "duplicate_key": "a key that occurs again elsewhere: a separate sample, called `KEY#2`",
    "key_in_two_tars": "a key that another tar has too: samples are identified by tar and key",
    "count_more": "samples of a tar beyond the number that a file beside it states; they are not read",
    "two_images": "several images, such as jpg and png, for one key: jpg before jpeg, png, webp",
    "image_alpha": "transparency, which is dropped as by open_clip",
    "image_16_bit": "16-bit grey, scaled to 8 bits",
    "image_animated": "several frames, of which the first is used",
    "image_turned": "an EXIF orientation, which is not applied (nor is it by open_clip)",
    "caption_not_utf8": "UTF-16 (read correctly), or bytes that are not UTF-8, replaced by U+FFFD",
    "caption_cleaned": "a byte order mark, NUL or carriage returns, removed",
    "caption_words": "a list of a few single words, each of which counts as a caption",
    "caption_placeholder": "`nan`, `None`, `null` or similar, which programs write for no caption",
    "caption_printed": "a caption that looks like a printed list or dict, such as `['a cat']`",
    "caption_long": "over 8,192 characters, of which the first are kept",
}
"""What is unusual but used: it excludes no sample."""


class FaultList:
    """Faults in the order in which they were found, at most `limit` of each name; the last one counts the rest.

    A hundred million samples may have a million faults, too many to keep as objects.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._faults: list[Fault] = []
        self._rows: dict[str, list[int]] = {}

    def add(self, fault: Fault) -> None:
        """Append a fault, or count it in the last one of its name."""
        rows = self._rows.setdefault(fault.name, [])
        if len(rows) < self._limit:
            rows.append(len(self._faults))
            self._faults.append(fault)
            return
        last = self._faults[rows[-1]]
        self._faults[rows[-1]] = replace(last, count=last.count + fault.count)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)
