"""Runs the studies behind docs/evidence.md: each is a TOML file of rows, points and seeds; runs queue, and resume.

    python benchmarks/study.py benchmarks/studies/methods.toml --place data=data --place references=runs/references \\
        --place cache=runs/cache-public --out runs/studies

Two runs at a time by default, each on one thread. A finished run is one line of the study's .jsonl beside its TOML
file, so a study that was interrupted, or got more rows or seeds, does only what is missing; `docs/evidence.py` makes
tables and pictures from these lines. `--dry` prints what is missing; `--only` and `--points` take some rows and points.
`--models` makes again the models that `keep` names and --out lacks, for what is built upon them; finished lines stay.

A study has:

    recipe = "photos"                  # what `aced train` would be given
    seeds = [0, 1, 2]
    keep = ["ACED"]                    # rows whose models stay in --out; of others only figures are kept
    [keys]                             # config keys of every run; {data} is a --place
    "data.shards" = "{data}/webmix"
    [[rows]]
    name = "ACED"
    keys = { "method.name" = "aced" }
    more_seeds = [3, 4]                # optional: seeds of this row alone, for measures of spread
    [[rows]]
    name = "IID at ACED's time"
    keys = { "method.name" = "iid" }
    time = { of = "ACED", step = "IID" }   # as many steps as ACED's processor time allows at the price of an IID step
    [[points]]                         # optional: every row is run at every point
    name = "50"
    keys = { "data.shards" = "{pools}/share-50" }

Processor seconds are those of the training steps alone, without start, decoding into memory and evaluation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from study_records import Job, Study, append, jobs_of, read_records, read_study
from study_run import child

from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.report.numbers import duration


class Queue:
    """Runs of a study, several at a time.

    Args:
        study: the study.
        places: by name, what `{name}` stands for in the study's keys.
        options: of the command line.
        console: where to print.
    """

    def __init__(self, study: Study, places: dict[str, str], options: argparse.Namespace, console: Console) -> None:
        self._study, self._places, self._options, self._console = study, places, options, console
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([child.__module__])
        self._running: dict[Any, tuple[Job, Any, float]] = {}
        self._failed: set[str] = set()
        self._spent: list[float] = []

    def missing(self) -> list[Job]:
        """Jobs without a record, or with `--models` those whose model is to be kept and is not there."""
        asked = self._options
        records = [] if asked.models else read_records(self._study.records)
        busy = {job.key for job, _, _ in self._running.values()} | self._failed
        found = [job for job in jobs_of(self._study, records, asked.only, asked.points) if job.key not in busy]
        if asked.models:
            keep = self._study.keep
            found = [job for job in found if job.row in keep and not (self._folder(job) / "model").is_dir()]
        return found

    def _folder(self, job: Job) -> Path:
        return Path(self._options.out) / self._study.name / job.folder

    def work(self) -> int:
        """Run all that is missing; returns how many runs failed."""
        while True:
            ready = [job for job in self.missing() if job.ready]
            while ready and len(self._running) < self._options.at_once:
                self._start(ready.pop(0))
            if not self._running:
                return len(self._failed)
            for pipe in multiprocessing.connection.wait(list(self._running)):
                self._finish(pipe)

    def _start(self, job: Job) -> None:
        ours, theirs = self._context.Pipe()
        keep = job.row in self._study.keep
        process = self._context.Process(target=child, args=(theirs, job, self._folder(job), self._places, keep))
        process.start()
        theirs.close()
        self._running[ours] = (job, process, time.monotonic())

    def _finish(self, pipe: Any) -> None:
        job, process, began = self._running.pop(pipe)
        try:
            found = pipe.recv()
        except EOFError:
            found = "its process was ended"
        process.join()
        if isinstance(found, str):
            self._failed.add(job.key)
            self._say(f"{job.title}: {found}")
            return
        line = next((one for one in read_records(self._study.records) if one["key"] == job.key), None)
        if line is None:
            append(self._study.records, job, found)
        self._spent.append(time.monotonic() - began)
        left = len(self.missing()) + len(self._running)
        time_left = left * sum(self._spent) / len(self._spent) / self._options.at_once
        score = f"{found['average']:.1f} %, {found['processor_seconds']:.0f} s of processor time"
        before = f" (its line, which stays, says {line['average']:.1f} %)" if line else ""
        self._say(f"{job.title}: {score}{before}; {left} left, about {duration(time_left)}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def check_places(study: Study, places: dict[str, str]) -> None:
    """See that every place of a study has a folder.

    Raises:
        AcedError: one has none.
    """
    for key, value in study.all_keys():
        try:
            str(value).format(seed=0, **places)
        except KeyError as error:
            raise AcedError(f"{key} names {{{error.args[0]}}}; give --place {error.args[0]}=FOLDER.") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, and end with a status other than 0 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a TOML file")
    parser.add_argument("--place", action="append", default=[], metavar="NAME=FOLDER", help="what {NAME} stands for")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), help="folder of the runs")
    parser.add_argument("--only", nargs="*", default=[], help="names of rows")
    parser.add_argument("--points", nargs="*", default=[], help="names of points")
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time")
    parser.add_argument("--models", action="store_true", help="make the models that are to be kept and are not there")
    parser.add_argument("--dry", action="store_true", help="print what is missing and run nothing")
    options, console = parser.parse_args(arguments), Console()
    try:
        study, places = read_study(options.study), dict(word.partition("=")[::2] for word in options.place)
        queue = Queue(study, places, options, console)
        if options.dry:
            for job in queue.missing():
                console.print(job.title + ("" if job.ready else " (waits)"), markup=False, highlight=False)
            return
        check_places(study, places)
        write_atomic(options.out / study.name / "study.toml", options.study.read_text(encoding="utf-8"))
        failed = queue.work()
    except AcedError as error:
        sys.exit(f"study.py: {error}")
    if failed:
        sys.exit(f"study.py: {failed} runs failed; start it again to try them anew.")


if __name__ == "__main__":
    main()
