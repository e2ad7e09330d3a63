"""What a file is instead: pointers, web pages, error messages, nothing."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from aced.files.standins import HEAD, stand_in, stand_in_at

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 605219813\n"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (LFS, "git lfs pull"),
        (b"/annex/objects/SHA256E-s10--0123.tar\n", "git annex get"),
        (b"../.git/annex/objects/aa/bb/SHA256E-s10--0123.tar", "git annex get"),
        (b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n", "web page"),
        (b"\xef\xbb\xbf\r\n  <HTML lang='de'>", "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "AccessDenied"),
        (b"Entry not found", "Entry not found"),
        (b'{"error":"Repository not found"}', "Repository not found"),
        (b"", "empty"),
    ],
)
def test_what_stands_in_for_a_file_is_named(content: bytes, word: str, tmp_path: Path) -> None:
    assert word in (stand_in(content) or "")
    (tmp_path / "file").write_bytes(content)
    assert stand_in_at(tmp_path / "file") == stand_in(content)


def _torch_file() -> bytes:
    out = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, out)
    return out.getvalue()


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        # A member may be a web page, and its name may look like one.
        info = tarfile.TarInfo("<html>.txt")
        info.size = len(LFS)
        tar.addfile(info, io.BytesIO(LFS))
    return out.getvalue()


def _png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        _torch_file(),
        save({"a": torch.zeros(3)}),
        _png(),
        gzip.compress(LFS, mtime=0),
        json.dumps({"embed_dim": 8}).encode(),
        b"version 2",
        bytes(1024),
    ],
)
def test_real_files_are_let_through(content: bytes) -> None:
    assert stand_in(content[:HEAD]) is None


def test_a_tar_whose_first_member_has_an_odd_name_is_a_tar() -> None:
    assert stand_in(_tar()[:HEAD]) is None
