"""Bytes of an image file to pixels, with a named fault for everything that is not a usable image."""

from __future__ import annotations

import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 89_000_000
MAX_ASPECT = 20
# What libjpeg says when part of the picture is missing; Pillow would fill it with grey.
_MISSING = ("premature end", "bad huffman code")


class ImageFault(Exception):
    """An image that cannot be used: `name` for counting (stable), the message for people."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


def decode_image(content: bytes) -> np.ndarray:
    """A JPEG, PNG, WebP or other image (its first frame) as `[H, W, 3]` uint8, pixel for pixel as by Pillow.

    Alpha is dropped and EXIF orientation is not applied, as in open_clip. Unlike Pillow's `convert`, 16-bit
    grey is scaled by 1/257 instead of clipped, and a JPEG with a missing part is refused.

    Raises:
        ImageFault: `image_empty`, `image_too_large` (over 89 million pixels), `image_aspect` (longer than
            20 to 1), `image_truncated` or `image_unreadable`.
    """
    if not content:
        raise ImageFault("image_empty", "the image has no bytes")
    if content[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(content)
        if pixels is not None:
            return pixels
    return _decode_any(content)


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    """The fast path; None where Pillow must decide. The pixels are Pillow's, bit for bit."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    _check_size(width, height)
    if colours not in ("YCbCr", "RGB", "Gray"):
        return None
    try:
        return simplejpeg.decode_jpeg(content, colorspace="RGB")
    except ValueError as error:
        if any(words in str(error).lower() for words in _MISSING):
            raise ImageFault("image_truncated", f"part of the JPEG is missing ({error})") from error
        # Harmless oddities, such as bytes between segments, that Pillow reads over.
        return None


def _decode_any(content: bytes) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                _check_size(*image.size)
                image.load()
                return _to_rgb(image)
    except ImageFault:
        raise
    except Image.DecompressionBombError as error:
        raise ImageFault("image_too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageFault("image_unreadable", "this is not an image in a known format") from error
    except Exception as error:
        # Pillow's plugins let any exception through when a file is damaged: struct.error, SyntaxError, ...
        words = str(error) or type(error).__name__
        name = "image_truncated" if "truncated" in words.lower() else "image_unreadable"
        raise ImageFault(name, f"the image cannot be decoded ({words})") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageFault("image_too_large", f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageFault("image_aspect", f"{width} x {height} pixels are longer than {MAX_ASPECT} to 1")


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))
