"""A study's rows, points and seeds as jobs, and its finished runs as lines of a .jsonl file.

`study.py` runs the jobs; `docs/evidence.py` reads the lines.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aced.errors import AcedError

Record = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A row of a study: a method with its settings.

    Attributes:
        name: in tables.
        keys: config keys, over those of the study.
        time: `of` and `step`, names of rows: as many steps as the first one's processor time allows at the price of a
            step of the second; or None.
        more_seeds: seeds of this row alone, after the study's; only measures of spread count them.
    """

    name: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    time: Mapping[str, str] | None = None
    more_seeds: Sequence[int] = ()


@dataclass(frozen=True)
class Study:
    """A study as its TOML file has it.

    Attributes:
        name: of the file, without its ending.
        records: the file of the finished runs.
        recipe: of all runs.
        seeds: of every row.
        keys: config keys of all runs.
        rows: the rows.
        points: by name, config keys over those of the row; one nameless point where the study has none.
        keep: rows whose models are kept.
    """

    name: str
    records: Path
    recipe: str
    seeds: Sequence[int]
    keys: Mapping[str, Any]
    rows: Sequence[Row]
    points: Mapping[str, Mapping[str, Any]]
    keep: Sequence[str]

    def seeds_of(self, row: Row) -> list[int]:
        """The study's seeds, then those of the row alone."""
        return list(dict.fromkeys([*self.seeds, *row.more_seeds]))

    def all_seeds(self) -> list[int]:
        """The study's seeds, then those that some rows have besides."""
        return list(dict.fromkeys(seed for row in self.rows for seed in self.seeds_of(row)))

    def all_keys(self) -> Iterator[tuple[str, Any]]:
        """Every config key that the study sets anywhere."""
        for keys in (self.keys, *(row.keys for row in self.rows), *self.points.values()):
            yield from keys.items()


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        row, point, seed: its place in the study.
        recipe: the recipe.
        keys: the config keys, with places not filled in.
        ready: whether it can start; if not, it waits for the times of other rows.
    """

    row: str
    point: str
    seed: int
    recipe: str
    keys: Mapping[str, Any]
    ready: bool = True

    @property
    def key(self) -> str:
        """What the run is known by: everything that decides its outcome, but for `time` rows, whose steps are
        measured."""
        text = json.dumps([self.recipe, self.seed, self.row, self.point, dict(sorted(self.keys.items()))])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def title(self) -> str:
        """For people."""
        return ", ".join(word for word in (self.row, self.point, f"seed {self.seed}") if word)

    @property
    def folder(self) -> str:
        """Of the run, in the study's."""
        words = [word for word in (self.row, self.point, f"s{self.seed}") if word]
        return "-".join(re.sub(r"[^a-z0-9.]+", "-", word.lower()).strip("-") for word in words)

    def filled(self, places: Mapping[str, str]) -> dict[str, str]:
        """The config keys as text, with `{place}` filled in, and `{seed}`, which models of another study have too."""
        known = {"seed": str(self.seed), **places}
        return {key: _text(value).format(**known) for key, value in self.keys.items()}


def _text(value: Any) -> str:
    """A value as `aced train KEY=VALUE` reads it."""
    return value if isinstance(value, str) else json.dumps(value)


def read_study(path: Path) -> Study:
    """Read a study.

    Raises:
        AcedError: the file is missing or malformed, or a row names another that is not there.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        rows = [Row(**row) for row in found["rows"]]
        study = Study(
            name=path.stem,
            records=path.with_suffix(".jsonl"),
            recipe=found["recipe"],
            seeds=found["seeds"],
            keys=found.get("keys", {}),
            rows=rows,
            points={point["name"]: point["keys"] for point in found.get("points", [])} or {"": {}},
            keep=found.get("keep", []),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AcedError(f"{path} is no study: {error}; benchmarks/study.py says what one has.") from None
    names = [row.name for row in rows]
    wanted = [*study.keep, *(name for row in rows if row.time for name in row.time.values())]
    for name in wanted:
        if name not in names:
            raise AcedError(f"{path} names a row '{name}', which it does not have.")
    if len(set(names)) < len(names):
        raise AcedError(f"{path} has two rows of one name.")
    return study


def read_records(path: Path) -> list[Record]:
    """The finished runs, in their order; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def append(path: Path, job: Job, found: Record) -> None:
    """Add a finished run."""
    own = {"row": job.row, "point": job.point, "seed": job.seed, "key": job.key, "keys": dict(job.keys)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(own | found) + "\n")


def jobs_of(study: Study, records: Sequence[Record], only: Sequence[str] = (), points: Sequence[str] = ()) -> list[Job]:
    """The jobs that have no record, seed by seed, so that every row has a first figure early.

    Args:
        study: the study.
        records: its finished runs.
        only: names of rows; empty: all.
        points: names of points; empty: all.
    """
    done = {record["key"] for record in records}
    timed = {(record["row"], record["point"], record["seed"]) for record in records}
    jobs = []
    for seed in study.all_seeds():
        for point, over in study.points.items():
            for row in study.rows:
                if seed not in study.seeds_of(row):
                    continue
                if (only and row.name not in only) or (points and point not in points):
                    continue
                keys = {**study.keys, **row.keys, **over}
                if row.time is None:
                    job = Job(row.name, point, seed, study.recipe, keys)
                    if job.key not in done:
                        jobs.append(job)
                elif (row.name, point, seed) not in timed:
                    steps = _steps(row.time, point, study.seeds, records)
                    known = {"train.steps": steps} if steps else {}
                    jobs.append(Job(row.name, point, seed, study.recipe, {**keys, **known}, ready=steps is not None))
    return jobs


def _steps(time: Mapping[str, str], point: str, seeds: Sequence[int], records: Sequence[Record]) -> int | None:
    """Steps of a row that gets another one's processor time; None until all seeds of both are there."""
    spent, prices = [], []
    for record in records:
        if record["point"] != point or record["seed"] not in seeds:  # further seeds would change what is finished
            continue
        if record["row"] == time["of"]:
            spent.append(record["processor_seconds"])
        if record["row"] == time["step"]:
            prices.append(record["processor_seconds"] / record["steps"])
    if len(spent) < len(seeds) or len(prices) < len(seeds):
        return None
    return max(1, round(statistics.median(spent) / statistics.median(prices)))
