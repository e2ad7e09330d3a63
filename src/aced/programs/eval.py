"""`aced eval`: scores every task and saves each result at once; a task that fails does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from aced.errors import AcedError, reason_of
from aced.evaluate.compare import compare
from aced.evaluate.datacomp import task_name
from aced.evaluate.embedding_cache import EmbeddingCache
from aced.evaluate.eval_records import FILE, Evaluation, Setting, read_evaluation, write_evaluation
from aced.evaluate.named_tasks import named_tasks
from aced.evaluate.prompts import check_policy
from aced.evaluate.task_embedder import TaskEmbedder
from aced.evaluate.task_folders import find_task_folders, load_task_folder
from aced.evaluate.tasks import Task
from aced.evaluate.zeroshot import evaluate_task
from aced.export.onnxtower import OnnxTower, is_onnx
from aced.models import Tower
from aced.models.model_argument import default_folder, open_model
from aced.pool.loader.loading import Loading
from aced.programs.command_options import EvalOptions
from aced.programs.eval_tables import print_comparison, print_results
from aced.runs.environment import environment
from aced.runtime.precision import check_precision, find_precision
from aced.runtime.progress import Bars, counting
from aced.train.run.automatic import workers_beside


def eval_command(options: EvalOptions, console: Console) -> dict[str, str]:
    """Evaluate or compare, as the options say; returns the tasks that failed.

    Raises:
        AcedError: as `eval_program`, or the options contradict each other.
    """
    if options.compare is None:
        return eval_program(options, console).failed
    if options.model or options.data or options.more:
        raise AcedError("--compare takes two evaluations and nothing else; leave out the model and --data.")
    first, second = options.compare
    print_comparison(compare(read_evaluation(first), read_evaluation(second)), (str(first), str(second)), console)
    return {}


@dataclass
class _Job:
    """One place to load tasks from: a folder, or the built-in tasks."""

    name: str
    load: Callable[[], list[Task]]
    is_folder: bool


def eval_program(options: EvalOptions, console: Console) -> Evaluation:
    """Score a model on tasks; writes `eval.json` and its companions and prints a table.

    A task that fails is noted in `failed`, and the others continue. Results of the same model on the same data that
    are already there are kept.

    Raises:
        AcedError: there is no such model or task folder, or the output folder holds results of another model.
    """
    if not options.model:
        raise AcedError("No model is given; name a run folder, a model folder or an open_clip model.")
    if not (data := [*options.data, *options.more]):
        raise AcedError("No data is given; name task folders with --data, or --data scenes for the built-in tasks.")
    asked, policy = check_precision(options.precision), check_policy(options.prompts)
    jobs, refused = _jobs(data)
    out = options.out or default_folder(options.model)
    if out.exists() and not out.is_dir():
        raise AcedError(f"--out {out} is a file; name a folder for the results.")
    tower = _open(options.model, options, console)
    for note in tower.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    identity = tower.identity()
    precision = find_precision(asked, tower.device)
    setting = Setting(tower.name, options.checkpoint, identity["tower"], policy, precision)
    evaluation = _continued(out, setting, identity["contents"])
    evaluation.failed |= refused
    cache = EmbeddingCache(options.cache or out / "embeddings", identity, precision)
    kept = _run(jobs, tower, evaluation, out, options, cache, console)
    if kept:
        console.print(f"Kept {kept} result{'s' * (kept > 1)} that {out} already held.", highlight=False)
    print_results(evaluation, console)
    console.print(f"Results: {out / FILE}", markup=False, highlight=False, soft_wrap=True)
    return evaluation


def _open(model: str, options: EvalOptions, console: Console) -> Tower | OnnxTower:
    """The model, or an exported ONNX folder, whose weights `--checkpoint` chooses.

    Raises:
        AcedError: as `open_model`, or a device or precision is given for ONNX.
    """
    if not is_onnx(model):
        return open_model(model, options.checkpoint, options.device, partial(counting, console))
    if options.device not in ("auto", "cpu") or options.precision not in ("auto", "fp32"):
        raise AcedError(f"{model} is an ONNX folder: leave out --device and --precision.")
    return OnnxTower(Path(model), options.checkpoint or "fp32")


def _jobs(data: Sequence[str]) -> tuple[list[_Job], dict[str, str]]:
    """What to load, and for each place that holds no task, the reason.

    Raises:
        AcedError: no place holds a task.
    """
    jobs: list[_Job] = []
    refused: dict[str, str] = {}
    for place in dict.fromkeys(data):
        if (tasks := named_tasks(place)) is not None:
            jobs += [_Job(task.name, partial(list, [task]), False) for task in tasks]
            continue
        try:
            found = find_task_folders([place])
        except AcedError as error:
            refused[place] = str(error)
            continue
        for folder in found:
            jobs.append(_Job(str(folder), partial(load_task_folder, folder), True))
    if not jobs:
        raise AcedError(next(iter(refused.values())))
    return jobs, refused


def _continued(out: Path, setting: Setting, contents: str) -> Evaluation:
    """The results that are already there; `contents` is the model's fingerprint in older versions."""
    if not (out / FILE).is_file():
        return Evaluation(setting)
    before = read_evaluation(out / FILE)
    if before.setting.fingerprint == contents:
        raise AcedError(
            f"{out} holds results of these weights from an older version of aced, which did not record the model's "
            "architecture; choose another folder with --out."
        )
    for key, what in (("fingerprint", "another model"), ("prompts", "other prompts"), ("precision", "other precision")):
        if getattr(before.setting, key) != getattr(setting, key):
            raise AcedError(
                f"{out} holds results with {what} ({getattr(before.setting, key)}, now {getattr(setting, key)}); "
                "choose another folder with --out."
            )
    return Evaluation(setting, before.tasks)


def _run(
    jobs: Sequence[_Job],
    tower: Tower | OnnxTower,
    evaluation: Evaluation,
    out: Path,
    options: EvalOptions,
    cache: EmbeddingCache,
    console: Console,
) -> int:
    """Score all jobs; returns the number of results that were already there."""
    kept, seen = 0, set[str]()
    precision = find_precision(check_precision(options.precision), tower.device)
    facts = environment(tower.device)
    with Bars(console) as bars, bars.bar("Evaluating", len(jobs)) as tick:
        current = (0, "")

        def note(what: str, done: int, total: int) -> None:
            number, name = current
            tick(
                number + (0.9 * done / max(total, 1) if what == "images" else 0.9),
                f"{name}: {done:,} of {total:,} {what}",
            )

        workers = workers_beside(tower.device) if options.workers is None else options.workers
        embedder = TaskEmbedder(
            tower,
            options.micro_batch,
            prompts=check_policy(evaluation.setting.prompts),
            precision=precision,
            cache=cache,
            loading=Loading(workers),
            note=note,
        )
        for number, job in enumerate(jobs):
            current = (number, Path(job.name).name)
            tick(number, current[1])
            try:
                for task in _load(job, evaluation, seen):
                    if evaluation.has(task):
                        kept += 1
                        continue
                    evaluation.tasks.pop(task.name, None)
                    start = time.perf_counter()
                    result = evaluate_task(tower, task, embedder)
                    evaluation.add(task, result, time.perf_counter() - start)
                    write_evaluation(out, evaluation, facts)
            except Exception as error:
                evaluation.failed[job.name] = reason_of(error)
            if job.is_folder:
                embedder.forget()
        tick(len(jobs), "")
    write_evaluation(out, evaluation, facts)
    return kept


def _load(job: _Job, evaluation: Evaluation, seen: set[str]) -> list[Task]:
    """The tasks of a job, each with a new name; an earlier result of a task that is now broken is dropped."""
    try:
        tasks = job.load()
    except AcedError:
        name = task_name(Path(job.name).name)
        if name not in seen:
            evaluation.tasks.pop(name, None)
        raise
    for task in tasks:
        if task.name in seen:
            raise AcedError(f"{job.name}: another task is already called '{task.name}'; rename its folder.")
        seen.add(task.name)
    return tasks
