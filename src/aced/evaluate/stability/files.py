"""Files of scores as rows: `results.json`, `eval.json`, `eval_results.jsonl`, CSV wide and long."""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aced.errors import AcedError

_MISSING = {"", "nan", "none", "null", "na", "n/a", "-", "–"}
"""Content of a CSV cell without a score, in lower case."""


@dataclass(frozen=True)
class Facts:
    """Facts about a task: `n` scored queries, the score of guessing, and the standard error of a row's score."""

    n: float | None = None
    chance: float | None = None
    stderr: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """The scores of one model.

    Attributes:
        name: of the model, in tables.
        recipe: rows of one recipe repeat it.
        seed: empty if there is none.
        where: the file, for messages.
        scores: by task; None if the score is missing.
        facts: by task, if the file has any.
        config: of a single run; rows of one recipe with different configs are not repeats.
    """

    name: str
    recipe: str
    seed: str
    where: str
    scores: dict[str, float | None]
    facts: dict[str, Facts] = field(default_factory=dict)
    config: str = ""


def read_rows(path: Path, recipe_columns: Sequence[str] = (), ignore: Sequence[str] = ()) -> list[ScoreRow]:
    """All rows of a file, or of the `results.json`, `eval.json` or `eval_results.jsonl` of a folder.

    Raises:
        AcedError: it is missing, of no known form, or malformed.
    """
    if path.is_dir():
        path = file_of(path)
    text = _text(path)
    if path.suffix == ".json":
        rows = _json_rows(path, text)
    elif path.suffix == ".jsonl":
        rows = [_jsonl(path, text)]
    elif path.suffix in (".csv", ".tsv"):
        rows = _csv(path, text, recipe_columns, ignore)
    else:
        raise AcedError(f"{path} is not a supported table; use .json, .jsonl, .csv or .tsv.")
    if not rows:
        raise AcedError(f"{path} holds no rows of scores.")
    return rows


def file_of(path: Path) -> Path:
    """The file of scores for a path: the file itself, or the one in the folder.

    Raises:
        AcedError: the folder holds none.
    """
    if not path.is_dir():
        return path
    for name in ("results.json", "eval.json", "eval_results.jsonl"):
        if (path / name).is_file():
            return path / name
    raise AcedError(f"{path} holds no results.json; name finished runs, a demo's folder, or a table.")


def read_facts(path: Path) -> dict[str, Facts]:
    """n and chance of tasks, from a CSV with the columns `task,n,chance` or a JSON object of such objects.

    The object may also be the `tasks` of a list of tasks, whose entries have a `name` and as n a `size`.

    Raises:
        AcedError: it is missing or malformed.
    """
    text = _text(path)
    entries: dict[str, Any] = {}
    if path.suffix == ".json":
        entries = _json(path, text)
        if isinstance(entries, dict) and isinstance(entries.get("tasks"), dict):
            entries = {
                str(entry.get("name", key)): entry | {"n": entry.get("n", entry.get("size"))}
                for key, entry in entries["tasks"].items()
                if isinstance(entry, dict)
            }
    else:
        for line in csv.DictReader(io.StringIO(text)):
            if not {"task", "n", "chance"} <= line.keys():
                raise AcedError(f"{path} must have the columns task, n and chance.")
            entries[line["task"]] = {key: line[key] or None for key in ("n", "chance")}
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise AcedError(f"{path} must hold an object of tasks, each with n and chance.")
    return {task: _fact(entry, f"{path}, task '{task}'") for task, entry in entries.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise AcedError(f"There is no file {path} with results.") from None
    except UnicodeDecodeError:
        raise AcedError(f"{path} is not UTF-8 text.") from None
    except OSError as error:
        raise AcedError(f"{path} cannot be read ({error.strerror}).") from None


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise AcedError(f"{path} is not valid JSON ({error}).") from None


def _fact(entry: Mapping[str, Any], where: str) -> Facts:
    n, chance, stderr = (_number(entry.get(key), f"{key} of {where}") for key in ("n", "chance", "stderr"))
    if n is not None and (n < 1 or n != int(n)):
        raise AcedError(f"n of {where} is {n:g}, not a positive whole number.")
    if chance is not None and not 0 <= chance <= 1:
        raise AcedError(f"chance of {where} is {chance:g}, not between 0 and 1.")
    return Facts(n, chance, stderr)


def _number(value: Any, where: str) -> float | None:
    """A number; None for the symbol of a missing one."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _MISSING):
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or math.isinf(number):
        raise AcedError(f"{where}: {value!r} is not a number.")
    return None if math.isnan(number) else number


# --- JSON -----------------------------------------------------------------------------------------------------------


def _json_rows(path: Path, text: str) -> list[ScoreRow]:
    results = _json(path, text)
    if isinstance(results, dict) and isinstance(results.get("tasks"), dict) and "rows" not in results:
        # An `eval.json`: one model, named by its folder, as next to an `eval_results.jsonl`.
        return [_row(path, path.absolute().parent.name, "", results["tasks"], "")]
    entries = results.get("rows") if isinstance(results, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AcedError(f"{path} has no list 'rows', as a results.json of `aced` has.")
    rows = []
    for entry in entries:
        recipe = str(entry.get("title") or entry.get("method") or "")
        config = _config(path.parent) if entry.get("run") == "." else ""
        rows.append(_row(path, recipe, str(entry.get("seed", "")), entry.get("tasks"), config))
    return rows


def _row(path: Path, recipe: str, seed: str, tasks: Any, config: str) -> ScoreRow:
    if not recipe or not isinstance(tasks, dict) or not all(isinstance(task, dict) for task in tasks.values()):
        raise AcedError(f"{path} has a row without a method or without an object 'tasks'.")
    name = f"{recipe} seed {seed}" if seed else recipe
    scores = {task: _number(part.get("value"), f"{path}, task '{task}'") for task, part in tasks.items()}
    facts = {task: _fact(part, f"{path}, task '{task}'") for task, part in tasks.items()}
    return ScoreRow(name, recipe, seed, str(path), scores, facts, config)


def _config(folder: Path) -> str:
    """A run's config without its folder and seed, as one string; empty if there is none."""
    file = folder / "config.toml"
    if not file.is_file():
        return ""
    try:
        sections = tomllib.loads(_text(file))
    except ValueError as error:
        raise AcedError(f"{file} is not valid TOML ({error}).") from None
    return json.dumps({name: part for name, part in sections.items() if name != "run"}, sort_keys=True, default=str)


def _jsonl(path: Path, text: str) -> ScoreRow:
    """DataComp's format: a line for each task, with its main metric; the folder names the model."""
    scores: dict[str, float | None] = {}
    facts = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        entry = _json(Path(where), line)
        metrics = entry.get("metrics") if isinstance(entry, dict) else None
        task = entry.get("dataset") or entry.get("key") if isinstance(entry, dict) else None
        if not isinstance(metrics, dict) or not task:
            raise AcedError(f"{where} has no 'dataset' or no 'metrics', as DataComp's eval_results.jsonl has.")
        scores[str(task)] = _number(metrics.get("main_metric"), where)
        facts[str(task)] = _fact({**metrics, **entry}, where)
    name = path.absolute().parent.name
    return ScoreRow(name, name, "", str(path), scores, facts)


# --- CSV ------------------------------------------------------------------------------------------------------------


def _csv(path: Path, text: str, recipe_columns: Sequence[str], ignore: Sequence[str]) -> list[ScoreRow]:
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix == ".tsv" else ",")
    columns = [name.strip() for name in reader.fieldnames or []]
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if not columns or twice is not None:
        raise AcedError(f"{path} has " + ("no header." if twice is None else f"two columns '{twice}'."))
    reader.fieldnames = columns
    for column in recipe_columns:
        if column not in columns:
            raise AcedError(f"{path} has no column '{column}' for --recipe-column; it has {', '.join(columns)}.")
    lines = []
    for line in reader:
        if None in line or None in line.values():
            raise AcedError(f"{path} line {reader.line_num} does not have {len(columns)} cells like its header.")
        lines.append(line)
    if {"task", "value"} <= set(columns):
        return _long(path, columns, lines, recipe_columns)
    left = [c for c in columns if c in recipe_columns or not any(fnmatch.fnmatchcase(c, p) for p in ignore)]
    return _wide(path, left, lines, recipe_columns)


def _wide(path: Path, columns: list[str], lines: list[dict[str, str]], recipe_columns: Sequence[str]) -> list[ScoreRow]:
    """A row for each model, a column for each task; columns without numbers name the model."""
    names = [c for c in columns if c in recipe_columns or c == "seed" or not any(_is_number(line[c]) for line in lines)]
    tasks = [c for c in columns if c not in names]
    rows = []
    for number, line in enumerate(lines, 2):
        scores = {task: _number(line[task], f"{path} line {number}, column '{task}'") for task in tasks}
        name, recipe = _labels(line, names, recipe_columns, str(number))
        rows.append(ScoreRow(name, recipe, line.get("seed", "").strip(), str(path), scores))
    return rows


def _long(path: Path, columns: list[str], lines: list[dict[str, str]], recipe_columns: Sequence[str]) -> list[ScoreRow]:
    """A line for each score: the columns `task`, `value`, optionally `n` and `chance`; the others name the model."""
    names = [c for c in columns if c not in ("task", "value", "n", "chance")]
    rows: dict[str, ScoreRow] = {}
    for number, line in enumerate(lines, 2):
        where = f"{path} line {number}"
        name, recipe = _labels(line, names, recipe_columns, "")
        row = rows.setdefault(name, ScoreRow(name, recipe, line.get("seed", "").strip(), str(path), {}))
        if line["task"] in row.scores:
            raise AcedError(f"{where}: '{name}' has a second score for task '{line['task']}'.")
        row.scores[line["task"]] = _number(line["value"], where)
        row.facts[line["task"]] = _fact(line, where)
    return list(rows.values())


def _labels(
    line: Mapping[str, str], names: Sequence[str], recipe_columns: Sequence[str], other: str
) -> tuple[str, str]:
    """A row's name, and its recipe: the named columns, otherwise all except the seed, otherwise one for all rows."""
    own = recipe_columns or [c for c in names if c != "seed"]
    recipe = " ".join(line[c].strip() for c in own).strip() or "all rows"
    return " ".join(line[c].strip() for c in names).strip() or f"row {other}".strip(), recipe


def _is_number(cell: str) -> bool:
    try:
        return not math.isnan(float(cell))
    except ValueError:
        return False
