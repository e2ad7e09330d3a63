"""Fills docs/evidence.md from the lines of the studies, so that no figure in it is typed by hand.

    python docs/evidence.py

What stands between `<!-- study: KIND STUDY ... -->` and `<!-- /study -->` is replaced. Kinds: `table` (rows with their
budgets), `points` (rows against points), `tasks` (rows against tasks), `kinds` (shares of kinds of pairs among those
trained on), `overhead-ms`, `-MB` and `-FLOPs` (of a step at each point), `task-gains` (three rows: curation,
distillation, both), `pairs` (rows `A over B`: differences task by task), `budgets` (rows at equal trained pairs, loaded
pairs and time of the last), `references` (of a ladder: their sizes and scores), `fit` (parabolas over these), `stable`
(the tasks that `aced stable` keeps by the seeds of the rows named), `objectives`, `targets` and `lit` (files of these
names beside the studies), `claims` (docs/claims.toml), and `picture NAME WORDS` (once docs/evidence_figures.py has
drawn it). Names of rows may follow a study's, separated by `|`; without any, all are shown. `table STUDY over
OTHER/ROW` has differences from a row of another study, or of its own; otherwise they are from random batches.

Differences are paired: both rows of a seed began with the same weights and saw the same order of the pool. An interval
is Student's, at 95 %, over seeds.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from evidence_blocks import equal_budgets, task_gains
from evidence_fit import fits, references
from evidence_lines import (
    BASELINE,
    ROOT,
    STUDIES,
    Lines,
    Measure,
    Record,
    average,
    best_bold,
    between,
    gain_text,
    markdown,
    marked,
    paired,
    read_records,
    share_of,
    task_of,
    text_of,
    verdict,
)
from evidence_lit import lit_block, lit_gain
from evidence_objectives import objectives_block
from evidence_pairs import group_of, pair_gains
from evidence_stable import stable_block

from aced.files.atomic import write_atomic
from aced.report.numbers import DASH, budget_text

PAGE, CLAIMS = ROOT / "docs/evidence.md", ROOT / "docs/claims.toml"
BLOCK = re.compile(r"(<!-- study: (.+?) -->\n).*?(<!-- /study -->)", re.DOTALL)


def of_rows(lines: Lines) -> list[Record]:
    """All runs of a study without points, row by row."""
    return [one for name in lines.rows([]) for one in lines.of(name)]


BUDGETS = {
    "sound pairs": (lambda one: one["clean_share"], lambda mean: f"{100 * mean:.0f} %"),
    "trained": (lambda one: one["budgets"]["samples_trained"], partial(budget_text, "samples_trained")),
    "loaded": (lambda one: one["budgets"]["samples_loaded"], partial(budget_text, "samples_loaded")),
    "FLOPs": (lambda one: one["budgets"]["flops"], partial(budget_text, "flops")),
    "processor s": (lambda one: one["processor_seconds"], lambda mean: f"{mean:.0f}"),
}
"""Columns of a table behind the average: how each is read from a run, and how its mean is written."""


def table(lines: Lines, rows: Sequence[str], over: str = "") -> list[list[str]]:
    """Rows with average, differences from one of them and budgets; the best average is bold.

    Args:
        lines: of the study.
        rows: names; none shows all.
        over: `STUDY/ROW`, from which differences are; empty: random batches, where the study has them.
    """
    names = lines.rows(rows)
    other, _, base = over.partition("/") if over else ("", "", BASELINE)
    theirs = (Lines(other) if other else lines).of(base)
    found = [["", "average, %", *[f"over {base}"] * bool(theirs), *BUDGETS]]
    for name, average_text in zip(names, best_bold([lines.stat(name, "") for name in names]), strict=True):
        itself = name == base and other in ("", lines.study.name)
        gain = [DASH if itself else marked(paired(lines.of(name), theirs))] if theirs else []
        means = [(lines.stat(name, "", read), write) for read, write in BUDGETS.values()]
        found.append([name, average_text, *gain, *(DASH if one is None else write(one.mean) for one, write in means)])
    return found


def points(lines: Lines, rows: Sequence[str]) -> list[list[str]]:
    """Rows against points: averages."""
    names = lines.rows(rows)
    columns = [best_bold([lines.stat(name, point) for name in names]) for point in lines.study.points]
    return [
        ["", *lines.study.points],
        *([name, *cells] for name, cells in zip(names, zip(*columns, strict=True), strict=True)),
    ]


def tasks(lines: Lines, rows: Sequence[str]) -> list[list[str]]:
    """Tasks against rows, with chance."""
    names, known = lines.rows(rows), lines.records[0]["tasks"]
    found = [["", "guessing", *names]]
    for task in sorted(known):
        means = [lines.stat(name, "", task_of(task)) for name in names]
        found.append([task, f"{100 * known[task]['chance']:.1f}", *best_bold(means)])
    return found


def kinds(lines: Lines, rows: Sequence[str]) -> list[list[str]]:
    """Rows against kinds of pairs: percent of the pairs trained on; the pool's shares first.

    Where a kind is a collection and what its pairs are (`rsscn7/clean`), the sound ones are shown.
    """
    names = sorted({kind for one in lines.records for kind in one["kinds"]["pool"]})
    sound = [name for name in names if name.endswith(("/clean", "/duplicate"))]
    pool: Counter[str] = Counter()
    for one in lines.of(BASELINE) or lines.records:
        pool.update(one["kinds"]["pool"])
    total, names = pool.total(), sound or names
    found = [["", *names], ["pool", *(f"{100 * pool[kind] / total:.1f}" for kind in names)]]
    for name in lines.rows(rows):
        found.append([name, *(text_of(lines.stat(name, "", share_of(kind))) for kind in names)])
    return found


def step_ms(record: Record) -> float:
    """Processor milliseconds of a step."""
    return 1000.0 * float(record["processor_seconds"]) / float(record["steps"])


PER_STEP: dict[str, tuple[Measure, Callable[[float], str]]] = {
    "ms": (step_ms, "{:.0f}".format),
    "FLOPs": (lambda one: one["budgets"]["flops"] / one["steps"], partial(budget_text, "flops")),
    "MB": (lambda one: one["peak_megabytes"], "{:.0f}".format),
}
"""What `overhead` shows of a step, and how its mean is written; memory is the process' peak."""


def overhead(lines: Lines, rows: Sequence[str], unit: str) -> list[list[str]]:
    """Rows against points: one of `PER_STEP`."""
    read, write = PER_STEP[unit]
    found = [["", *(f"{point}, {unit}" for point in lines.study.points)]]
    for name in lines.rows(rows):
        means = [lines.stat(name, point, read) for point in lines.study.points]
        found.append([name, *(DASH if one is None else write(one.mean) for one in means)])
    return found


MEASURES: dict[str, Measure] = {
    "average": average,
    **{task: task_of(task) for task in ("rsscn7", "neu_det", "brain_mri")},
    **{group: lambda run, group=group: group_of(group)(run) for group in ("tasks above chance", "stable tasks")},
}
"""What a claim may be about, besides the columns of the decoders' table."""
TARGETS = {
    "scale": "logit scale",
    "batch: own": "its own caption gets",
    "batch: perplexity": "spread over",
    "columns: own": "with columns: its own caption gets",
    "columns: perplexity": "spread over",
}
"""Columns of the table of targets, by their names in benchmarks/studies/targets.json."""


def targets() -> list[list[str]]:
    """What a reference tells within a batch of each pool (benchmarks/teacher_targets.py)."""
    found = json.loads((STUDIES / "targets.json").read_text(encoding="utf-8"))
    digits = {key: "{:.2f}" if key.endswith("own") else "{:.1f}" for key in TARGETS}
    body = [[name, *(digits[key].format(means[key]) for key in TARGETS)] for name, means in found.items()]
    return [["", *TARGETS.values()], *body]


SECTIONS = {
    "methods": "all-methods",
    "share": "where-selection-stops-paying",
    **dict.fromkeys(("longer", "large", "sizes"), "more-steps-a-larger-pool-larger-students"),
    "ladder": "the-references-strength",
    "factors": "one-setting-at-a-time",
    "domains": "other-domains",
    **dict.fromkeys(("two-models", "continue"), "two-models-and-continuing-one"),
    "tries": "ways-to-get-ahead-of-a-filter",
    "lit": "what-an-encoder-is-worth-to-a-decoder",
}
"""Where the page has a study's table, with the command that runs it."""


def claims() -> list[list[str]]:
    """Every claim with the difference that tests it."""
    found = [["claim", "from", "here", "difference", "interval of 95 %", "verdict"]]
    for claim in tomllib.loads(CLAIMS.read_text(encoding="utf-8"))["claims"]:
        name, point = claim["study"], claim.get("point", "")
        other, there = claim.get("over_study", name), claim.get("over_point", point)
        if name == "lit":
            gain = lit_gain(claim["row"], claim["over"], claim["measure"])
        else:
            own = Lines(name).of(claim["row"], point)
            gain = paired(own, Lines(other).of(claim["over"], there), MEASURES[claim.get("measure", "average")])
        design = f"{claim['row']} over {claim['over']}"
        if point != there:
            design = f"{claim['row']}: {point} over {there}"
        elif point:
            design += f" at {point}"
        studies = " and ".join(f"[{one}](#{SECTIONS[one]})" for one in dict.fromkeys([name, other]))
        found.append(
            [claim["claim"], claim["source"], f"{design} ({studies})", gain_text(gain), between(gain), verdict(gain)]
        )
    return found


def note(lines: Lines) -> str:
    """What the runs of a table have in common, and the command that makes them."""
    seeds = sorted({one["seed"] for one in lines.records})
    steps = Counter(int(one["steps"]) for one in lines.records)
    common = steps.most_common(1)[0][0]
    name = lines.study.name
    machine = sorted({one["environment"]["cpu"] for one in lines.records})
    over = "One seed" if len(seeds) == 1 else f"Mean ± standard deviation over {len(seeds)} seeds"
    return (
        f"\n{over}"
        + f"; {common:,} steps"
        + (", and by budget in rows that train on more or fewer pairs" if len(steps) > 1 else "")
        + f". {' and '.join(machine)}, a thread a run. `python benchmarks/study.py benchmarks/studies/{name}.toml`"
        + ", with the places [here](#how-to-run-it-again).\n"
    )


KINDS: dict[str, Callable[[Lines, Sequence[str]], list[list[str]]]] = {
    "table": table,
    "points": points,
    "tasks": tasks,
    "kinds": kinds,
    **{f"overhead-{unit}": partial(overhead, unit=unit) for unit in PER_STEP},
}
"""Blocks that are one table."""
TEXTS = {"task-gains": task_gains, "budgets": equal_budgets, "fit": fits, "pairs": pair_gains}
"""Blocks of more than a table; an empty text where runs are missing."""
MISSING = "Not run yet.\n"


def block(words: str) -> str:
    """What stands in a block of the page."""
    kind, _, rest = words.partition(" ")
    if kind == "claims":
        return markdown(claims(), texts=3)
    if kind == "targets":
        return markdown(targets())
    if kind == "objectives":
        return objectives_block()
    if kind == "picture":
        name, _, label = rest.partition(" ")
        return f"![{label}](img/{name}.svg)\n" if (PAGE.parent / f"img/{name}.svg").is_file() else MISSING
    if kind == "lit":
        return lit_block(read_records(STUDIES / "lit.jsonl"))
    name, _, rows = rest.partition(" ")
    lines = Lines(name)
    if kind == "table" and rows.startswith("over "):
        return markdown(table(lines, [], rows[len("over ") :])) + note(lines) if lines.records else MISSING
    if kind == "references":
        return references(lines) or MISSING
    wanted = [row.strip() for row in rows.split("|") if row.strip()]
    if not lines.records:
        return MISSING
    if kind == "stable":
        more = Lines(name, more=True)
        return stable_block([one for row in wanted for one in more.of(row)], of_rows(lines))
    text = TEXTS[kind](lines, wanted) if kind in TEXTS else markdown(KINDS[kind](lines, wanted))
    return text + note(lines) if text else MISSING


def filled(page: str) -> str:
    """The page with all its blocks filled."""
    return BLOCK.sub(lambda found: found[1] + block(found[2]) + found[3], page)


def main() -> None:
    """Fill the page."""
    write_atomic(PAGE, filled(PAGE.read_text(encoding="utf-8")))
    print(f"Wrote {PAGE.name}")


if __name__ == "__main__":
    main()
