"""Bytes of an image file to pixels, with a named fault for every unusable image."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from aced.files.standins import HEAD, stand_in

MAX_PIXELS = 89_000_000
MAX_ASPECT = 20
# libjpeg's messages when part of the image is missing; Pillow would fill it with grey.
_MISSING = ("premature end", "bad huffman code")
_EXIF = b"Exif\0\0"
_EXIF_WITHIN = 4096
"""EXIF is the first or second segment of a JPEG."""
_ORIENTATION = 0x0112


class ImageFault(Exception):
    """An image that cannot be used: `name` for counting (stable), the message for people."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


ImageNote = tuple[str, str]
"""Name and detail of something unusual about an image that is used."""


def decode_image(content: bytes) -> np.ndarray:
    """A JPEG, PNG, WebP or other image (its first frame) as `[H, W, 3]` uint8, pixel for pixel as in Pillow.

    Alpha is dropped and EXIF orientation is not applied, as in open_clip. Unlike Pillow's `convert`, 16-bit
    grey is scaled by 1/257 instead of clipped, and a JPEG with a missing part is refused.

    Raises:
        ImageFault: `image_empty`, `image_too_large` (over 89 million pixels), `image_aspect` (longer than
            20 to 1), `image_truncated` or `image_unreadable`.
    """
    return decode_noted(content)[0]


def decode_noted(content: bytes, *, least: int = 0) -> tuple[np.ndarray, list[ImageNote]]:
    """As `decode_image`, with what is unusual: `image_alpha`, `image_16_bit`, `image_animated`, `image_turned`.

    With `least`, a JPEG may be decoded smaller, by the scaling of its own transform (1/8 to 7/8), with both sides at
    least that long: many times faster for large photos, but not pixel for pixel the resized full image.
    """
    if not content:
        raise ImageFault("image_empty", "the image has no bytes")
    if content[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(content, least, _check_size)
        if pixels is not None:
            return pixels, _turned(content)
    return _decode_any(content)


def decode_like_pillow(content: bytes) -> tuple[np.ndarray, list[ImageNote]]:
    """An image as CLIP_benchmark's reader (webdataset's `pil`) gets it from Pillow, and what is unusual about it.

    Everything that Pillow reads is accepted: the missing part of a JPEG is grey (`image_truncated`), 16-bit grey is
    clipped (`image_16_bit`), and one side may be more than 20 times the other (`image_aspect`).

    Raises:
        ImageFault: Pillow cannot read it: `image_empty`, `image_truncated`, `image_unreadable`, or `image_too_large`
            (over 179 million pixels).
    """
    if not content:
        raise ImageFault("image_empty", "the image has no bytes")
    pixels: np.ndarray | None = None
    notes: list[ImageNote] = []
    if content[:2] == b"\xff\xd8":
        try:
            pixels = _decode_jpeg(content, 0, lambda *_: None)
            notes = _turned(content) if pixels is not None else []
        except ImageFault as fault:
            notes = [(fault.name, str(fault))]
    if pixels is None:
        pixels, more = _as_pillow_has_it(content)
        notes += more
    height, width = pixels.shape[:2]
    return pixels, notes + ([("image_aspect", _long(width, height))] if _is_long(width, height) else [])


def _decode_jpeg(content: bytes, least: int, check_size: Callable[[int, int], None]) -> np.ndarray | None:
    """The fast path; None if Pillow must decide. The pixels are Pillow's, bit for bit."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    check_size(width, height)
    if width * height > MAX_PIXELS or colours not in ("YCbCr", "RGB", "Gray"):
        return None
    try:
        return simplejpeg.decode_jpeg(content, colorspace="RGB", min_height=least, min_width=least)
    except ValueError as error:
        if any(words in str(error).lower() for words in _MISSING):
            raise ImageFault("image_truncated", f"part of the JPEG is missing ({error})") from error
        # Harmless irregularities, such as bytes between segments, that Pillow ignores.
        return None


def _turned(content: bytes) -> list[ImageNote]:
    """Whether EXIF asks for a JPEG to be turned or mirrored."""
    start = content.find(_EXIF, 0, _EXIF_WITHIN)
    if start < 0:
        return []
    exif = Image.Exif()
    try:
        exif.load(content[start : start + (1 << 16)])
        orientation = exif.get(_ORIENTATION, 1)
    except Exception:  # Pillow lets any exception through; unreadable EXIF turns nothing
        return []
    return _orientation_note(orientation)


def _orientation_note(orientation: object) -> list[ImageNote]:
    if orientation in range(2, 9):
        return [("image_turned", f"its EXIF orientation {orientation} is not applied")]
    return []


def _check_cmyk(content: bytes) -> None:
    """Pillow fills a missing part of a CMYK JPEG with grey; the strict decoder reports it."""
    try:
        simplejpeg.decode_jpeg(content, colorspace="CMYK")
    except ValueError as error:
        if any(words in str(error).lower() for words in _MISSING):
            raise ImageFault("image_truncated", f"part of the JPEG is missing ({error})") from error


def _decode_any(content: bytes) -> tuple[np.ndarray, list[ImageNote]]:
    with _opened(content) as image:
        _check_size(*image.size)
        if image.format == "JPEG" and image.mode == "CMYK":
            _check_cmyk(content)
        image.load()
        return _to_rgb(image), _oddities(image)


def _as_pillow_has_it(content: bytes) -> tuple[np.ndarray, list[ImageNote]]:
    with _opened(content) as image:
        image.load()
        notes = [note for note in _oddities(image) if note[0] != "image_16_bit"]
        if image.format == "JPEG" and image.mode == "CMYK":
            try:
                _check_cmyk(content)
            except ImageFault as fault:
                notes.append((fault.name, str(fault)))
        if _is_16_bit(image):
            notes.append(("image_16_bit", "its 16-bit grey is clipped to 8 bits, as by Pillow"))
        return np.asarray(image.convert("RGB")), notes


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """An image opened by Pillow; errors inside become named faults."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                yield image
    except ImageFault:
        raise
    except Image.DecompressionBombError as error:
        raise ImageFault("image_too_large", str(error)) from error
    except UnidentifiedImageError as error:
        what = stand_in(content[:HEAD]) or "this is not an image in a known format"
        raise ImageFault("image_unreadable", what) from error
    except Exception as error:
        # Pillow's plugins let any exception through when a file is damaged: struct.error, SyntaxError, ...
        words = str(error) or type(error).__name__
        name = "image_truncated" if "truncated" in words.lower() else "image_unreadable"
        raise ImageFault(name, f"the image cannot be decoded ({words})") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageFault("image_too_large", f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
    if _is_long(width, height):
        raise ImageFault("image_aspect", _long(width, height))


def _is_long(width: int, height: int) -> bool:
    return max(width, height) > MAX_ASPECT * min(width, height)


def _long(width: int, height: int) -> str:
    return f"{width} x {height} pixels are longer than {MAX_ASPECT} to 1"


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def _to_rgb(image: Image.Image) -> np.ndarray:
    if _is_16_bit(image):
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _oddities(image: Image.Image) -> list[ImageNote]:
    notes: list[ImageNote] = []
    if _is_16_bit(image):
        notes.append(("image_16_bit", "its 16-bit grey is scaled to 8 bits"))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        notes.append(("image_alpha", "its transparency is dropped"))
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(("image_animated", f"the first of its {frames} frames is used"))
    return notes + _orientation_note(image.getexif().get(_ORIENTATION, 1))
