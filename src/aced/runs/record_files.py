"""Reading records from JSON and JSON lines, with one sentence for any fault of a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from aced.errors import AcedError
from aced.runs.records import EvalLine, StepLine

Record = TypeVar("Record", bound=BaseModel)
Logged = TypeVar("Logged", StepLine, EvalLine)


def checked(model: type[Record], value: Any, where: str) -> Record:
    """A value from a file as a record.

    Raises:
        AcedError: it has another form.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        message = first["msg"].removeprefix("Value error, ")
        raise AcedError(
            f"{where} cannot be used ({key}: {message[0].lower()}{message[1:]}); write it again with `aced`."
        ) from None


def read_bytes(file: Path, last: int | None = None) -> bytes:
    """The bytes of a file, or its last `size` bytes.

    Raises:
        AcedError: it is missing or cannot be read.
    """
    try:
        with file.open("rb") as opened:
            if last is not None:
                opened.seek(max(0, opened.seek(0, os.SEEK_END) - last))
            return opened.read()
    except FileNotFoundError:
        raise AcedError(f"{file} is missing; name a folder that a run of `aced` wrote.") from None
    except OSError as error:
        raise AcedError(f"{file} cannot be read ({error.strerror}); check its permissions.") from None


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        AcedError: it is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_bytes(file))
    except ValueError as error:
        raise AcedError(f"{file} is not valid JSON ({error}); write it again with `aced`.") from None


def read_tail(file: Path, model: type[Logged], size: int = 1 << 18) -> list[Logged]:
    """The records of a `.jsonl` file as in `load_run`, from its last `size` bytes only; none if it is missing.

    Raises:
        AcedError: the file cannot be read, or one of these lines is malformed.
    """
    if not file.is_file():
        return []
    raw = read_bytes(file, size)
    if len(raw) < size:
        return _ascending(_parsed(raw, file, model))
    return _ascending(_parsed(raw.partition(b"\n")[2], file, model, f" of the last {size:,} bytes"))


def read_lines(file: Path, model: type[Logged]) -> list[Logged]:
    """The lines of a `.jsonl` file, ascending; for steps that were logged again, the later ones.

    Raises:
        AcedError: the file is missing or cannot be read, or a line is malformed.
    """
    return _ascending(_parsed(read_bytes(file), file, model))


def _parsed(raw: bytes, file: Path, model: type[Logged], where: str = "") -> list[Logged]:
    lines = raw.splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise AcedError(
                f"{file} line {number}{where} is not valid JSON; remove the line or leave the run out."
            ) from None
        found.append(checked(model, value, f"{file} line {number}{where}"))
    return found


def _ascending(lines: list[Logged]) -> list[Logged]:
    kept: list[Logged] = []
    for line in lines:
        while kept and kept[-1].step >= line.step:
            kept.pop()
        kept.append(line)
    return kept
