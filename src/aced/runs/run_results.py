"""Finished runs, read from their folders and combined in the form of `results.json`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.runs.record_files import checked, read_bytes, read_json, read_lines
from aced.runs.records import EvalLine, Gallery, ReferenceScore, ResultRow, Results, RunRecord, StepLine


def load_run(folder: Path | str) -> RunRecord:
    """Read a run folder: `metrics.jsonl` and `config.toml`, and if present `evals.jsonl`,
    `gallery.json` and `results.json`.

    An incomplete last line of a `.jsonl` file (not JSON and without a newline) is left out, because a run that is under
    way or was killed leaves one; any other unreadable line is an error. If a resumed run logged steps again, the later
    lines count.

    Raises:
        AcedError: the folder or one of its two files is missing, nothing was logged yet, or a file is
            malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AcedError(f"There is no run folder {folder}; name the folder that `aced train` wrote.")
    steps = read_lines(folder / "metrics.jsonl", StepLine)
    if not steps:
        raise AcedError(f"{folder / 'metrics.jsonl'} has no complete line; wait until the run has logged a step.")
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
        evals=read_lines(evals_file, EvalLine) if evals_file.is_file() else [],
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
    """The results of separate runs, in the form of `results.json`.

    A run's scores are those of its own `results.json` or, without one, of its last evaluation; a run with neither has
    no average. Runs of one method are seeds of one row if only their `[run]` sections differ; otherwise their folders'
    names are added to the title, so that nothing unrelated is averaged.

    Raises:
        AcedError: there are no runs.
    """
    if not runs:
        raise AcedError("A report needs at least one run; name the folders that `aced train` wrote.")
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
    # Runs that share a cache have the same cost; if they differ, the highest is what all of them needed.
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


def _read_config(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = read_bytes(file).decode("utf-8")
        return text, tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are both ValueErrors
        raise AcedError(f"{file} is not valid TOML ({error}); restore the file that the run wrote.") from None


def _only_seeds(runs: Sequence[RunRecord]) -> bool:
    """Whether the runs share one config with different seeds."""
    configs = [{name: part for name, part in run.config.items() if name != "run"} for run in runs]
    return all(config == configs[0] for config in configs) and len({run.seed for run in runs}) == len(runs)


def _title(method: str) -> str:
    from aced.methods import METHODS

    return METHODS[method].title if method in METHODS else method
