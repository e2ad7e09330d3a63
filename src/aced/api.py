"""`aced.train`, `aced.evaluate` and `aced.embed`: the calls from Python, in a notebook too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from aced.cache.embed_options import EmbedOptions
from aced.cache.job import EmbedTally
from aced.config import Config, load_config, make_config
from aced.errors import AcedError
from aced.evaluate.named_tasks import tasks_of
from aced.evaluate.task_embedder import TaskEmbedder
from aced.evaluate.tasks import Task
from aced.evaluate.zeroshot import Scores, check_names, score_all
from aced.models import Tower
from aced.models.model_argument import open_model
from aced.pool.loader.loading import Loading
from aced.pool.source import Source
from aced.programs.embed import embed_program
from aced.programs.train import train_run
from aced.registry.makers import TASKS
from aced.registry.plugins import load_plugins
from aced.runtime.paths import expand_path
from aced.runtime.precision import AskedPrecision, find_precision
from aced.train.hook import Hook
from aced.train.run.given import GIVEN, Given

Configured = Config | Mapping[str, Any] | str | Path


@dataclass(frozen=True)
class Trained:
    """A run that has ended.

    Attributes:
        student: the trained model.
        scores: its zero-shot scores; with several processes only the first one has them.
        step: the last step; less than `train.steps` if `on_step` ended the run.
        folder: the run's folder with the model, checkpoints, figures and report.
        results: the content of results.json: scores, budgets and settings.
    """

    student: Tower
    scores: Scores
    step: int
    folder: Path
    results: dict[str, Any]


def train(
    config: Configured,
    *,
    source: Source | None = None,
    student: Tower | None = None,
    reference: Tower | None = None,
    tasks: Sequence[Task] | None = None,
    on_step: Hook | None = None,
    resume: bool = False,
    show: bool = True,
) -> Trained:
    """Train as `aced train` does, optionally with your own data and models.

    Args:
        config: a `Config`, a file or recipe, or a mapping of sections (`{"train": {"steps": 100}}`).
        source: pairs to learn from, instead of `data.shards`.
        student: the model to train, instead of `student.model`; it is modified.
        reference: the frozen model that scores pairs, and the teacher unless the config names one. A `Config` object
            then says `reference.model = "given"`.
        tasks: evaluation tasks for the student, instead of `eval.tasks`.
        on_step: called after each step. If it returns False or raises `aced.StopTraining`, that step is the last, and
            the run is scored and saved as complete.
        resume: continue from the newest checkpoint in `run.out`, if any.
        show: print lines and bars.

    Raises:
        AcedError: any fault of the config, the data or a model, in one sentence.
    """
    given = Given(source, student, reference, tasks)
    made = _config_of(config, given)
    given.check(made)
    ended = train_run(made, Console(quiet=not show), resume=resume, given=given, hook=on_step)
    fitted = ended.fitted
    return Trained(fitted.student, fitted.scores, fitted.step, fitted.folder, ended.results)


def evaluate(
    model: Tower | str | Path,
    tasks: Sequence[Task | str | Path] | Task | str | Path,
    *,
    checkpoint: str = "",
    device: str = "auto",
    micro_batch: int = 256,
    precision: AskedPrecision = "auto",
    workers: int = 0,
) -> Scores:
    """Score a model on zero-shot tasks; a task that fails does not stop the others.

    Args:
        model: a `Tower`, which stays on its device, or a MODEL of `aced eval`: a run's folder, a name, ...
        tasks: tasks, or folders of them; `scenes` for the built-in ones.
        checkpoint: weights, if the model is named.
        device: device, if the model is named.
        micro_batch: number of images or texts per forward pass.
        precision: of the model; `auto` is bf16 on a GPU that supports it, otherwise fp32.
        workers: processes that decode images; 0 decodes in this one.

    Raises:
        AcedError: there is no such model or folder, or two tasks share a name.
    """
    wanted = [tasks] if not isinstance(tasks, Sequence) or isinstance(tasks, str) else tasks
    found = [task for one in wanted for task in _tasks_of(one)]
    check_names(found)
    tower = model if isinstance(model, Tower) else open_model(expand_path(str(model)), checkpoint, device)
    found_precision = find_precision(precision, tower.device)
    embedder = TaskEmbedder(tower, micro_batch, precision=found_precision, loading=Loading(workers))
    return score_all(tower, found, embedder)


def embed(
    model: str | Path,
    shards: Sequence[str | Path] | str | Path,
    out: str | Path = "runs/cache",
    *,
    show: bool = True,
    **options: Any,
) -> EmbedTally:
    """Embed a pool of tars with a frozen model, as `aced embed` does: one side-car per tar.

    Args:
        model: a model's folder, an address on the hub, or a name.
        shards: tars, as `data.shards` names them.
        out: the cache folder, for `reference.cache`.
        show: print lines and bars.
        options: further fields of `aced.cache.embed_options.EmbedOptions`, which are the options of `aced embed`:
            checkpoint, dtype, views, micro_batch, workers, device, precision, caption, ...

    Raises:
        AcedError: there is no such option, or any fault of the model or the data, in one sentence.
    """
    named = [shards] if isinstance(shards, (str, Path)) else shards
    try:
        asked = EmbedOptions(
            expand_path(str(model)), [expand_path(str(one)) for one in named], expand_path(str(out)), **options
        )
    except TypeError as error:
        raise AcedError(f"aced.embed: {str(error).rpartition('() ')[2]}; see {EmbedOptions.__module__}.") from None
    return embed_program(asked, Console(quiet=not show))


def _config_of(config: Configured, given: Given) -> Config:
    """The config, with a placeholder for a reference that is handed over."""
    if isinstance(config, Config):
        return config
    if not isinstance(config, Mapping):
        return load_config(config, [f"reference.model={GIVEN}"] if given.reference is not None else [])
    values: dict[str, Any] = {
        name: dict(table) if isinstance(table, Mapping) else table for name, table in config.items()
    }
    if given.reference is not None and isinstance(values.setdefault("reference", {}), dict):
        values["reference"].setdefault("model", GIVEN)
    return make_config(values)


def _tasks_of(one: Task | str | Path) -> list[Task]:
    if not isinstance(one, (str, Path)):
        return [one]
    load_plugins()
    return tasks_of(str(one) if str(one) in TASKS else expand_path(str(one)))
