"""The block `lit` of docs/evidence.md: decoders on the frozen encoders of a study, beside those without images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import evidence_lines
from evidence_lines import BASELINE, Record, best_bold, gain_text, markdown, paired, read_records, text_of

from aced.report.aggregate import Stat, stat
from aced.report.numbers import DASH

FLOORS = {"no image": "decoder without images", "constant": "one constant text", "human": "another true caption"}
"""Rows without an encoder, by their names in results."""
Read = Callable[[Record, str], float | None]
"""A score of a decoder, or of one of its `FLOORS`, in hundredths; None where there is none. An empty name: its own."""


def lit_block(runs: Sequence[Record]) -> str:
    """The table, with paired differences to the baseline's encoders, and what the decoders have in common."""
    return markdown(lit_table(runs)) + _note(runs) if runs else "Not run yet.\n"


def lit_table(runs: Sequence[Record]) -> list[list[str]]:
    """Encoders in the order of their lines, then the floors, against the scores of each test set."""
    encoders = list(dict.fromkeys(str(run["row"]) for run in runs))
    names = [*encoders, *(title for key, title in FLOORS.items() if any(_has(run, key) for run in runs))]
    base = [run for run in runs if run["row"] == BASELINE]
    columns: list[list[str]] = [["", *names]]
    for title, read in _scores(runs[0]):
        stats = [_stat([run for run in runs if run["row"] == name], read, "") for name in encoders]
        floors = [_stat(runs, read, key) for key, name in FLOORS.items() if name in names]
        columns.append([title, *best_bold(stats), *(text_of(_steady(one)) for one in floors)])
        gains = [_gain([run for run in runs if run["row"] == name], base, read) for name in encoders]
        cells = [DASH if name == BASELINE else gain_text(gain) for name, gain in zip(encoders, gains, strict=True)]
        columns.append([f"over {BASELINE}", *cells, *(DASH for _ in floors)])
    return [list(row) for row in zip(*columns, strict=True)]


def lit_gain(row: str, over: str, title: str) -> Stat | None:
    """Of a row's encoders over another's, by the score with this title in the table; None without a pair."""
    runs = read_records(evidence_lines.STUDIES / "lit.jsonl")
    read = dict(_scores(runs[0]))[title]
    own, base = ([run for run in runs if run["row"] == name] for name in (row, over))
    return _gain(own, base, read)


def _scores(run: Record) -> list[tuple[str, Read]]:
    """Columns: the first score of each test set of captions, and each sort of question."""
    found: list[tuple[str, Read]] = []
    for task in run["tasks"]:
        if task["kind"] == "caption":
            score = next(iter(task["scores"]))
            found.append((f"{task['name']}: {score} × 100", _score(task["name"], score)))
        elif not task["types"]:
            found.append((f"{task['name']}, %", _score(task["name"], "accuracy")))
        else:
            found += [(f"{task['name']}: {sort}, %", _sort(task["name"], sort)) for sort in task["types"]]
    return found


def _task(run: Record, name: str) -> Record:
    return next(task for task in run["tasks"] if task["name"] == name)


def _score(task: str, score: str) -> Read:
    def read(run: Record, floor: str) -> float | None:
        found = _task(run, task)
        scores = found["baselines"].get(floor) if floor else found["scores"]
        return None if scores is None else 100.0 * float(scores[score])

    return read


def _sort(task: str, sort: str) -> Read:
    def read(run: Record, floor: str) -> float | None:
        value = _task(run, task)["types"][sort].get(floor or "accuracy")
        return None if value is None else 100.0 * float(value)

    return read


def _has(run: Record, floor: str) -> bool:
    return any(floor in task["baselines"] for task in run["tasks"])


def _stat(runs: Sequence[Record], read: Read, floor: str) -> Stat | None:
    """Over the seeds; a floor is the same on every encoder of a seed, so one of each seed counts."""
    chosen = list({run["seed"]: run for run in runs}.values()) if floor else runs
    return stat(read(run, floor) for run in chosen)


def _steady(one: Stat | None) -> Stat | None:
    """Without its spread where every seed has the same value."""
    return one if one is None or one.std else Stat(one.mean, None, one.n)


def _gain(runs: Sequence[Record], base: Sequence[Record], read: Read) -> Stat | None:
    return paired(runs, base, lambda run: read(run, "") or 0.0)


def _note(runs: Sequence[Record]) -> str:
    seeds, tests = len({run["seed"] for run in runs}), [f"{task['name']}: {task['n']:,}" for task in runs[0]["tasks"]]
    training, decoder = runs[0]["training"], runs[0]["decoder"]
    seconds = stat(run["processor_seconds"] for run in runs)
    over = "One seed" if seeds == 1 else f"Mean ± standard deviation over {seeds} seeds of encoder and decoder"
    return (
        f"\n{over}; {', '.join(tests)}. A decoder of {decoder['layers']} layers, {training['steps']} steps of "
        f"{training['batch']}"
        + (f", {seconds.mean:.0f} s of processor time with tokens and tests" if seconds else "")
        + ". `python benchmarks/lit.py train` and `lines`, with the places [here](#how-to-run-it-again).\n"
    )
