"""What runs leave on disk, read and checked: `results.json` and run folders."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator

from aced.errors import AcedError

BUDGETS = ("samples_trained", "samples_loaded", "flops", "seconds")
"""The four budgets that methods are compared on, in the order of tables and charts."""


class TaskFaults(BaseModel):
    """How many images of a task have a fault, and one of them."""

    images: int
    example: str = ""


class TaskScore(BaseModel):
    """A task's score: `value` and `chance` in [0, 1]; `n` scored queries; faults of images by name."""

    value: float
    chance: float | None = None
    n: int | None = None
    left_out: dict[str, TaskFaults] = {}
    odd: dict[str, TaskFaults] = {}


class ResultRow(BaseModel):
    """One finished run in `results.json`; `average` in percent, `clean_share` in [0, 1]."""

    method: str
    title: str = ""
    seed: int = 0
    average: float | None = None
    tasks: dict[str, TaskScore] = {}
    budgets: dict[str, float] = {}
    clean_share: float | None = None
    run: str = ""
    failed: dict[str, str] = {}
    """Tasks that could not be scored, and why; `average` is over the others."""
    embedding: dict[str, float] | None = None
    """What making the cached embeddings that the run used cost: `samples`, `seconds`, `flops`, `bytes`."""


class ReferenceScore(BaseModel):
    """The frozen reference: its scores and what it cost."""

    average: float | None = None
    tasks: dict[str, TaskScore] = {}
    train_seconds: float | None = None
    embed_seconds: float | None = None
    train_flops: float | None = None
    embed_flops: float | None = None


class Results(BaseModel):
    """`results.json`."""

    rows: Annotated[list[ResultRow], Field(min_length=1)]
    reference: ReferenceScore | None = None
    environment: dict[str, Any] = {}
    summary: list[str] = []


class Means(BaseModel):
    """Mean score of a super-batch's candidates and of those that were chosen."""

    pool: float
    chosen: float


class Kinds(BaseModel):
    """How many pairs of each kind were chosen, and how many there were to choose from."""

    chosen: dict[str, float] = {}
    pool: dict[str, float] = {}


class Samples(BaseModel):
    """How many samples the source has, how many of them were read, and how many of these could not be used."""

    total: int
    read: int
    unreadable: int


class LineClock(BaseModel):
    """When the process that wrote a line began to train, and when it wrote it; Unix time."""

    started: float
    written: float


class StepLine(BaseModel):
    """A line of `metrics.jsonl`; `budgets`, `flops`, `seconds`, `faults` and `samples` are running totals."""

    step: int
    steps: int | None = None
    loss: float | None = None
    contrastive: float | None = None
    kd: float | None = None
    lr: float | None = None
    learnability: Means | None = None
    budgets: dict[str, float] = {}
    flops: dict[str, float] = {}
    seconds: dict[str, float] = {}
    kinds: Kinds | None = None
    faults: dict[str, float] = {}
    samples: Samples | None = None
    clock: LineClock | None = None


class EvalLine(BaseModel):
    """A line of `evals.jsonl`; `average` in percent, over the tasks that could be scored."""

    step: int
    average: float | None = None
    tasks: dict[str, TaskScore] = {}
    failed: dict[str, str] = {}
    budgets: dict[str, float] = {}


def inline_image(value: str) -> str:
    """The value, if it is a picture inside the page: anything else would make the page fetch something."""
    if not value.startswith("data:image/"):
        raise ValueError("not an inline image (data:image/...)")
    return value


class Pair(BaseModel):
    """A pair of the gallery."""

    image: str
    caption: str
    score: float | None = None
    kind: str | None = None

    _inline = field_validator("image")(inline_image)


class Gallery(BaseModel):
    """The most and the least learnable pairs."""

    most: list[Pair] = []
    least: list[Pair] = []


@dataclass(frozen=True)
class RunRecord:
    """A run folder, read.

    Attributes:
        folder: where it lies.
        config: the resolved config as a nested dict.
        config_text: the same as it was written.
        steps: the logged steps, ascending.
        evals: evaluations during training, ascending; often none.
        gallery: the most and least learnable pairs, where the run wrote them.
        row: the run's own row of results, where its folder holds a `results.json`.
    """

    folder: Path
    config: dict[str, Any]
    config_text: str
    steps: list[StepLine]
    evals: list[EvalLine] = field(default_factory=list)
    gallery: Gallery | None = None
    row: ResultRow | None = None

    @property
    def method(self) -> str:
        """The method's name in the config."""
        return str(_section(self.config, "method").get("name", "run"))

    @property
    def seed(self) -> int:
        """The run's seed in the config."""
        seed = _section(self.config, "run").get("seed", 0)
        return seed if isinstance(seed, int) else 0


def load_run(folder: Path | str) -> RunRecord:
    """Read a run folder: `metrics.jsonl` and `config.toml`, and where they are there `evals.jsonl`,
    `gallery.json` and `results.json`.

    A `.jsonl` file's last line that breaks off (it is not JSON and has no newline) is left out, because a run
    that is under way or was killed leaves one; any other line that cannot be read is an error. Where a run
    was resumed and logged steps again, the later lines count.

    Raises:
        AcedError: the folder or one of its two files is missing, nothing was logged yet, or a file is
            malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AcedError(f"There is no run folder {folder}; give the folder that `aced train` wrote.")
    steps = _ascending(_read_lines(folder / "metrics.jsonl", StepLine))
    if not steps:
        raise AcedError(f"{folder / 'metrics.jsonl'} has no whole line; wait until the run has logged a step.")
    text, config = _read_config(folder / "config.toml")
    evals_file, gallery_file = folder / "evals.jsonl", folder / "gallery.json"
    row = None
    if (folder / "results.json").is_file():
        row = parse_results(read_json(folder / "results.json"), str(folder / "results.json")).rows[0]
    return RunRecord(
        folder=folder,
        config=config,
        config_text=text,
        steps=steps,
        evals=_ascending(_read_lines(evals_file, EvalLine)) if evals_file.is_file() else [],
        gallery=checked(Gallery, read_json(gallery_file), str(gallery_file)) if gallery_file.is_file() else None,
        row=row,
    )


def load_results(path: Path | str) -> dict[str, Any]:
    """Read and check a `results.json`, given the file or the folder that holds it.

    Raises:
        AcedError: it is missing or malformed.
    """
    path = Path(path)
    file = path / "results.json" if path.is_dir() else path
    raw = read_json(file)
    parse_results(raw, str(file))
    return dict(raw)


def results_of(runs: Sequence[RunRecord], environment: dict[str, Any] | None = None) -> dict[str, Any]:
    """The results of runs that were made one by one, in the form of `results.json`.

    A run's scores are its own `results.json`'s or, without one, its last evaluation's; a run with neither has
    no average. Runs of one method are seeds of one row if only their `[run]` sections differ; otherwise their
    folders' names are added to the title, so that nothing is averaged that does not belong together.

    Raises:
        AcedError: there are no runs.
    """
    if not runs:
        raise AcedError("A report needs at least one run; give the folders that `aced train` wrote.")
    rows = []
    for run in runs:
        last = run.evals[-1] if run.evals else None
        row = run.row or ResultRow(
            method=run.method,
            title=_title(run.method),
            seed=run.seed,
            average=last.average if last else None,
            tasks=last.tasks if last else {},
            failed=last.failed if last else {},
            budgets=run.steps[-1].budgets,
        )
        rows.append(row.model_copy(update={"run": str(run.folder)}))
    for title in {row.title for row in rows}:
        same = [i for i, row in enumerate(rows) if row.title == title]
        if not _only_seeds([runs[i] for i in same]):
            for i in same:
                rows[i] = rows[i].model_copy(update={"title": f"{title} ({runs[i].folder.name})"})
    results = {"rows": [row.model_dump() for row in rows], "environment": environment or {}}
    # Runs that share a cache say the same; where they do not, the dearest is what all of them needed.
    dearest = max((row.embedding for row in rows if row.embedding), key=lambda c: c.get("seconds", 0.0), default=None)
    return results | ({"reference": embedding_score(dearest)} if dearest else {})


def embedding_score(cost: Mapping[str, float]) -> dict[str, Any]:
    """The cost of cached embeddings as results.json's `reference`."""
    known = ReferenceScore(embed_seconds=cost.get("seconds"), embed_flops=cost.get("flops"))
    return known.model_dump(exclude_none=True)


def parse_results(results: Any, where: str = "results") -> Results:
    """Check a nested dict in the form of `results.json`.

    Raises:
        AcedError: a key is missing or a value has the wrong type.
    """
    return checked(Results, results, where)


Record = TypeVar("Record", bound=BaseModel)
Logged = TypeVar("Logged", StepLine, EvalLine)


def checked(model: type[Record], value: Any, where: str) -> Record:
    """A value from a file as a record.

    Raises:
        AcedError: it does not have the form.
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


def _read_bytes(file: Path, last: int | None = None) -> bytes:
    """The bytes of a file, or its last so many."""
    try:
        with file.open("rb") as opened:
            if last is not None:
                opened.seek(max(0, opened.seek(0, os.SEEK_END) - last))
            return opened.read()
    except FileNotFoundError:
        raise AcedError(f"{file} is missing; give a folder that a run of `aced` has written.") from None
    except OSError as error:
        raise AcedError(f"{file} cannot be read ({error.strerror}); check its permissions.") from None


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        AcedError: it is missing, cannot be read, or is no JSON.
    """
    try:
        return json.loads(_read_bytes(file))
    except ValueError as error:
        raise AcedError(f"{file} is not valid JSON ({error}); write it again with `aced`.") from None


def read_tail(file: Path, model: type[Logged], size: int = 1 << 18) -> list[Logged]:
    """What `load_run` reads of a `.jsonl` file, from its last `size` bytes alone; nothing where it is missing.

    Raises:
        AcedError: the file cannot be read, or one of these lines is malformed.
    """
    if not file.is_file():
        return []
    raw = _read_bytes(file, size)
    if len(raw) < size:
        return _ascending(_parsed(raw, file, model))
    return _ascending(_parsed(raw.partition(b"\n")[2], file, model, f" of the last {size:,} bytes"))


def _read_lines(file: Path, model: type[Logged]) -> list[Logged]:
    return _parsed(_read_bytes(file), file, model)


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


def _read_config(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = _read_bytes(file).decode("utf-8")
        return text, tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are both ValueErrors
        raise AcedError(f"{file} is not valid TOML ({error}); restore the file that the run wrote.") from None


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _only_seeds(runs: Sequence[RunRecord]) -> bool:
    """Whether the runs are one config under different seeds."""
    configs = [{name: part for name, part in run.config.items() if name != "run"} for run in runs]
    return all(config == configs[0] for config in configs) and len({run.seed for run in runs}) == len(runs)


def _title(method: str) -> str:
    from aced.methods import METHODS

    return METHODS[method].title if method in METHODS else method
