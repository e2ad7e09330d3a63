"""A side-car as docs/embed.md describes it, made here byte by byte: what earlier versions wrote is still read."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aced.cache.sidecar import Damaged, Part, open_sidecar
from aced.errors import AcedError

KEYS = ["0000", "0001", "0002"]
IDENTITY = {"weights": "w", "preprocessing": "p", "tokenizer": "t", "architecture": "a", "tower": "all"}
TAR = Part("a.tar", "whole fast 0123", 0, 3)
IMAGE = np.array([[[1, 0], [0, 1]], [[0, 0], [0, 0]], [[0, -1], [-1, 0]]], dtype="<f2")
TEXT = np.array([[0, 1], [0, 0], [1, 0]], dtype="<f2")
VALID = np.array([1, 0, 1], dtype="u1")


def laid_out(path: Path, **changed: Any) -> Path:
    """Write the three samples, of which the second could not be read; `changed` are fields of the header."""
    keys = np.frombuffer(json.dumps(KEYS).encode(), "u1")
    tensors = {"image": ("F16", IMAGE), "text": ("F16", TEXT), "valid": ("U8", VALID), "keys": ("U8", keys)}
    header: dict[str, Any] = {}
    content = b""
    for name, (code, values) in tensors.items():
        end = len(content) + values.nbytes
        header[name] = {"dtype": code, "shape": list(values.shape), "data_offsets": [len(content), end]}
        content += values.tobytes()
    info = {"version": 2, "tower": "tiny", "identity": IDENTITY, "part": TAR.name, "mark": TAR.mark}
    info |= {"n": 3, "d": 2, "views": 2, "dtype": "float16", "scale": 10.0, "bias": -10.0}
    info |= {"ends": [KEYS[0], KEYS[1], KEYS[2]], "usable": 2, "faults": {"image_broken": 1}}
    info |= {"seconds": 1.5, "flops": 6e9, "sha256": hashlib.sha256(content).hexdigest()} | changed
    header["__metadata__"] = {"format": "aced side-car", "info": json.dumps(info), "precision": "bf16"}
    text = json.dumps(header).encode().ljust(9000)
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def test_a_side_car_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    found = open_sidecar(laid_out(tmp_path / "a.safetensors"), IDENTITY, TAR)
    assert found.keys == KEYS
    assert found.intact()
    assert np.array_equal(found.stored("image"), IMAGE)
    assert np.array_equal(found.stored("text"), TEXT)
    assert found.valid(np.arange(3)).tolist() == [True, False, True]
    assert (found.info.usable, found.info.faults, found.info.precision) == (2, {"image_broken": 1}, "bf16")
    assert (found.info.scale, found.info.bias, found.info.flops) == (10.0, -10.0, 6e9)


def test_its_hash_is_of_every_byte_behind_the_header(tmp_path: Path) -> None:
    path = laid_out(tmp_path / "a.safetensors")
    content = bytearray(path.read_bytes())
    content[-len(json.dumps(KEYS)) - 4] ^= 1
    path.write_bytes(content)
    assert not open_sidecar(path, IDENTITY, TAR).intact()


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"identity": IDENTITY | {"weights": "x"}}, AcedError, "of other weights .*by tiny"),
        ({"identity": IDENTITY | {"tower": "x"}}, AcedError, "of another model"),
        ({"mark": "whole fast 4567"}, AcedError, r"another tar .*a\.tar"),
        ({"version": 1}, AcedError, "another version"),
        ({"n": 4}, Damaged, "shapes"),
        ({"colour": "red"}, Damaged, "header"),
    ],
)
def test_what_is_not_asked_for_is_refused(
    tmp_path: Path, changed: dict[str, Any], kind: type[AcedError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        open_sidecar(laid_out(tmp_path / "a.safetensors", **changed), IDENTITY, TAR)
