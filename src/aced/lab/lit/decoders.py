"""The results of `aced lit` in a run's folder, read and checked for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, field_validator

from aced.lab.lit.lit_page import lit_html, lit_parts
from aced.registry.makers import Panel
from aced.runs.record_files import checked, read_json
from aced.runs.records import inline_image

FOLDER = "lit"
"""Where `aced lit RUN` writes its results, in the run's folder."""


class _Task(BaseModel, extra="allow"):
    name: str
    kind: str
    n: int
    scores: dict[str, float] = Field(min_length=1)
    baselines: dict[str, dict[str, float]]
    constant: str
    types: dict[str, dict[str, float]] = {}


class _Sizes(BaseModel, extra="allow"):
    layers: int
    width: int
    parameters: int
    vocabulary: int


class _Training(BaseModel, extra="allow"):
    steps: int
    batch: int
    lr: float
    beams: int


class _Results(BaseModel, extra="allow"):
    tower: str
    seed: int
    decoder: _Sizes
    training: _Training
    data: list[str]
    tasks: list[_Task] = Field(min_length=1)


class _Entry(BaseModel):
    task: str
    key: str
    image: str
    question: str | None
    written: str
    right: list[str] = Field(min_length=1)

    _inline = field_validator("image")(inline_image)


class _Gallery(BaseModel):
    entries: list[_Entry]


@dataclass(frozen=True)
class Decoder:
    """A decoder on a run's encoder.

    Attributes:
        folder: its path.
        results: its `results.json`.
        gallery: its `gallery.json`.
    """

    folder: Path
    results: dict[str, Any]
    gallery: list[dict[str, Any]]

    @property
    def tests(self) -> list[tuple[str, int]]:
        """Its test sets: names and sizes."""
        return [(task["name"], task["n"]) for task in self.results["tasks"]]


def load_decoder(run: Path) -> Decoder | None:
    """The decoder in a run's folder; None if there is none.

    Raises:
        AcedError: its results or its gallery are damaged.
    """
    folder = run / FOLDER
    file, pictures = folder / "results.json", folder / "gallery.json"
    if not file.is_file():
        return None
    results = checked(_Results, read_json(file), str(file)).model_dump()
    gallery = checked(_Gallery, {"entries": read_json(pictures)}, str(pictures)).model_dump()["entries"]
    return Decoder(folder, results, gallery)


def decoder_panel(runs: Sequence[tuple[str, Path]]) -> Panel | None:
    """The report's section about its runs' decoders, if `aced lit` was run; runs have titles and folders.

    Raises:
        AcedError: a decoder's results or its gallery are damaged.
    """
    found = [(title, load_decoder(folder)) for title, folder in runs]
    parts = decoder_parts([(title, decoder) for title, decoder in found if decoder is not None])
    return Panel("decoders", "Decoders", lit_html("part_lit.html", lit=parts)) if parts is not None else None


def decoder_parts(decoders: list[tuple[str, Decoder]]) -> dict[str, Any] | None:
    """The report's view of its runs' decoders; None if there are none.

    Decoders with the same test sets as the first are shown side by side; the others are named in `left_out`.

    Args:
        decoders: with the title of each one's run; runs of one title are seeds of one row.
    """
    if not decoders:
        return None
    tests = decoders[0][1].tests
    shown = [(title, decoder) for title, decoder in decoders if decoder.tests == tests]
    parts = lit_parts(
        [decoder.results for _, decoder in shown],
        [decoder.gallery for _, decoder in shown],
        [title for title, _ in shown],
    )
    return parts | {"left_out": [str(decoder.folder) for _, decoder in decoders if decoder.tests != tests]}
