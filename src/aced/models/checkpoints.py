"""Safe reading of weight files, recognised by their content; other files get a helpful error."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from aced.errors import AcedError
from aced.files.standins import HEAD, stand_in
from aced.models.bigvision import BigVision
from aced.models.hub_folder import INDEX
from aced.models.torchscript import is_torchscript, read_torchscript

_ZIP, _MAX_HEADER = b"PK\x03\x04", 100_000_000
_ELSEWHERE = "use the PyTorch weights of the same model (.safetensors, .pt or .bin), or convert it"
_PACKED = "it is compressed with {0}; unpack it first"
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", _PACKED.format("gzip")),
    (b"BZh", _PACKED.format("bzip2")),
    (b"\xfd7zXZ", _PACKED.format("xz")),
    (b"\x28\xb5\x2f\xfd", _PACKED.format("zstd")),
    (b"\x89HDF", f"it is an HDF5 file (Keras or TensorFlow); {_ELSEWHERE}"),
    (b"GGUF", f"it is a GGUF file (llama.cpp); {_ELSEWHERE}"),
    (b"\x93NUMPY", "it is a single numpy array; name a file that holds a model's state dict"),
)
_SUFFIXES = {
    ".onnx": f"it is an ONNX graph; {_ELSEWHERE}",
    ".msgpack": f"it is a Flax (JAX) file; {_ELSEWHERE}",
    ".index": f"it is a TensorFlow checkpoint; {_ELSEWHERE}",
    ".tflite": f"it is a TensorFlow Lite model; {_ELSEWHERE}",
}
_CUT = "it is cut short or damaged; fetch it again"


def read_checkpoint(path: Path) -> Any:
    """Read a local file of weights: tensors by name, and anything saved with them.

    Args:
        path: .safetensors, a file of `torch.save`, a TorchScript archive (its code is not run), big_vision's .npz, or
            the index of weights in several files, recognised by its content. Pickled objects other than tensors, plain
            values and numpy scalars are refused.

    Raises:
        AcedError: there is no such file, it is of another kind, or it is damaged.
    """
    if not path.exists():
        raise AcedError(f"There is no checkpoint {path}; name a local file.")
    if path.is_dir():
        raise AcedError(f"{path}: {_folder(path)}.")
    try:
        with path.open("rb") as file:
            head, size = file.read(HEAD), path.stat().st_size
        if what := stand_in(head) or _foreign(path, head):
            raise AcedError(f"{path}: {what}.")
        if path.name.endswith(INDEX):
            return _sharded(path)
        if _is_safetensors(head):
            return _safetensors(path, head, size)
        if path.suffix == ".safetensors" and not head.startswith((_ZIP, b"\x80")):
            raise AcedError(f"{path}: the checkpoint cannot be read: it is not a safetensors file.")
        if head.startswith(_ZIP):
            names = _members(path)
            if is_torchscript(names):
                return read_torchscript(path)
            if names and all(name.endswith(".npy") for name in names):
                return BigVision(path)
            if what := _no_torch_file(names):
                raise AcedError(f"{path}: {what}.")
        # An open file: given a path, torch.load would trust the suffix.
        with torch.serialization.safe_globals(_numpy_scalars()), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise AcedError(f"{path}: {_not_plain(path, str(error))}") from None
    except zipfile.BadZipFile:
        raise AcedError(f"{path}: {_CUT}.") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AcedError(f"{path}: the checkpoint cannot be read: {reason}") from None


def _folder(path: Path) -> str:
    """What to do about a folder given instead of a file."""
    if (path / ".metadata").is_file():
        return (
            "it is a sharded checkpoint of torch.distributed; convert it to one file with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pt`"
        )
    if (path / "tower.json").is_file() or (path / "open_clip_config.json").is_file():
        return "it is a model folder; name it as the model, without a checkpoint"
    files = sorted(one.name for one in path.iterdir() if one.is_file())
    named = f" (there are {', '.join(files[:3])}{', ...' if len(files) > 3 else ''})" if files else ""
    return f"it is a folder; name a file of weights in it{named}"


def _foreign(path: Path, head: bytes) -> str | None:
    """Another framework's format, or a compressed file."""
    if path.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[path.suffix.lower()]
    return next((what for magic, what in _MAGIC if head.startswith(magic)), None)


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER


def _safetensors(path: Path, head: bytes, size: int) -> dict[str, Any]:
    if size < 8 + int.from_bytes(head[:8], "little"):
        raise AcedError(f"{path}: {_CUT}.")
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        cut = any(word in str(error) for word in ("Incomplete", "incomplete"))
        raise AcedError(f"{path}: {_CUT if cut else f'the checkpoint cannot be read: {error}'}.") from None


def _sharded(path: Path) -> dict[str, Any]:
    """The tensors of all files that an index lists."""
    try:
        files = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AcedError(f"{path}: it is not an index of weights in several files.") from None
    found: dict[str, Any] = {}
    for name in files:
        part = path.parent / Path(str(name)).name
        if not part.is_file():
            raise AcedError(f"{path}: it lists {part.name}, which is missing; fetch all files of the model.")
        content = read_checkpoint(part)
        if not isinstance(content, dict):
            raise AcedError(f"{part}: it holds no named tensors.")
        found |= content
    return found


def _members(path: Path) -> list[str]:
    """The names in a zip archive; AcedError if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise AcedError(f"{path}: {_CUT}.") from None


def _no_torch_file(names: list[str]) -> str | None:
    """What a zip archive is if `torch.save` did not write it; None if it did."""
    if any(name.endswith("data.pkl") for name in names):
        return None
    inside = next((name for name in names if name.endswith((".pt", ".pth", ".bin", ".safetensors", ".ckpt"))), None)
    return f"it is a zip archive; unpack it and name {inside or 'the file of weights in it'}"


def _numpy_scalars() -> list[Any]:
    """The pickled form of a numpy number: harmless, and found in open_clip's own older checkpoints."""
    kinds = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"}
    # numpy 1 and 2 name different modules; each must read the other's files.
    makers = [_scalar_of(f"numpy.{core}.multiarray") for core in ("core", "_core")]
    return [*makers, np.dtype, *sorted(kinds, key=lambda kind: kind.__name__)]


def _scalar_of(module: str) -> Any:
    """The function that makes numpy scalars, under the name that a file uses."""
    make: Any = np.float64(0).__reduce__()[0]

    def scalar(*arguments: Any) -> Any:
        return make(*arguments)

    scalar.__module__, scalar.__qualname__ = module, "scalar"
    return scalar


def _not_plain(path: Path, error: str) -> str:
    """Why a pickle is not opened."""
    # Of torch.load's message only the class name helps; its advice would run any code in the file.
    found = re.search(r"(?:Unsupported global: GLOBAL|GLOBAL) ([\w.]+)", error)
    what = f"an object of {found[1]}" if found and "." in found[1] else "more than tensors"
    return (
        f"not a plain file of tensors: it holds {what}. Only `weights_only` files are opened, because others can "
        "run code; convert it to .safetensors or, if you trust it, with "
        f"`python -c \"import torch; torch.save(torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
        "['state_dict'], 'weights.pt')\"`."
    )
