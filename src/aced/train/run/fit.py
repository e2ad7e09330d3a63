"""One training run from its config to its results: what `aced train` and every row of the demo do."""

from __future__ import annotations

import contextlib
import datetime
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from aced.config import Config, dump_config
from aced.errors import AcedError
from aced.evaluate.zeroshot import Scores, score_all, scores_json
from aced.files.atomic import write_atomic
from aced.models import Tower, save_tower
from aced.models.compat import import_open_clip
from aced.models.locking import lock
from aced.models.options import checkpoint_activations, compile_towers
from aced.pool.concepts import Concepts
from aced.pool.fetch.streamed import streams
from aced.pool.loader.filling import with_values
from aced.pool.source import SOUND_KINDS, Fault, Source
from aced.pool.tars.losttars import KnownTars
from aced.registry.objectives import LOSSES, check_processes
from aced.runs.gallery import write_gallery
from aced.runs.ledger import Ledger
from aced.runs.pace import Recent, Totals, pace_text
from aced.runs.run_folder import BEST, CHECKPOINTS, check_folder, locked, remove_leftovers, scoring
from aced.runs.trackers.group import tracking
from aced.runtime.devices import clock_of
from aced.runtime.precision import Precision, autocast, tensor_float
from aced.runtime.progress import Bars, Tick
from aced.train.best import keep_best
from aced.train.distributed import World
from aced.train.evaluating import embed_together
from aced.train.feed import Faults
from aced.train.further import FurtherPairs
from aced.train.guard import Guard
from aced.train.hook import Hook
from aced.train.limit import allowed
from aced.train.objective import Objective
from aced.train.optim import make_optimizer
from aced.train.providers import Cached, Provider
from aced.train.replica import Replica
from aced.train.run.automatic import loading_of_tasks, precision_of, tf32_of
from aced.train.run.checkpoint import drop_older, earlier_run, latest_checkpoint, load_checkpoint
from aced.train.run.inputs import Inputs
from aced.train.run.loop import OnStep, run_steps
from aced.train.run.ordering import order_of, recorded, settled
from aced.train.run.resuming import data_marks, marks_of, model_marks
from aced.train.run.scoring_plan import make_memory, make_partly, make_plan
from aced.train.scoring.filtering import filtered
from aced.train.settings import StepSettings
from aced.train.step import Trainer
from aced.train.watch import Metrics, trim_lines


@dataclass
class Fitted:
    """A finished run: its model, its scores and what it spent."""

    student: Tower
    scores: Scores
    ledger: Ledger
    faults: Faults
    clean_share: float | None
    folder: Path
    step: int


def fit(
    config: Config,
    inputs: Inputs,
    student: Tower,
    bars: Bars,
    *,
    title: str = "",
    resume: bool = False,
    world: World | None = None,
    hook: Hook | None = None,
) -> Fitted:
    """Train `student` as the config says and evaluate it.

    Writes into `run.out`: config.toml, metrics.jsonl, checkpoints/, model/, and where there is something to write
    evals.jsonl, best/ and gallery.json. The processes of `world` evaluate together, and the first one writes; the
    others' results are empty.

    Raises:
        AcedError: the folder holds a run already (and `resume` is not set), another process trains there, a step
            fails, or the disk is full.
    """
    world = world or World()
    if resume and (earlier := earlier_run(Path(config.run.out))) is not None:
        config = recorded(config, earlier.config)
    # What the order makes of the data is settled, and a super-batch that is too large told, before anything is written.
    config = settled(config, inputs.source, world.size)
    order_of(config, inputs.source)
    if world.first:
        check_folder(Path(config.run.out), resume=resume)
    with locked(Path(config.run.out)), tensor_float(tf32_of(config), student.device):
        return _fit(config, inputs, student, bars, title, world, hook, resume=resume)


def _fit(
    config: Config,
    inputs: Inputs,
    student: Tower,
    bars: Bars,
    title: str,
    world: World,
    hook: Hook | None,
    *,
    resume: bool,
) -> Fitted:
    folder, steps = Path(config.run.out), config.train.steps
    metrics = Metrics(folder / "metrics.jsonl", inputs.source.kinds, config.run.log_every)
    metrics.say = bars.say
    trainer = make_trainer(config, inputs, student, world)
    _open_folder(folder, trainer, metrics, config, resume=resume)
    with _tracked(config, trainer, metrics, bars), bars.bar(title or f"Training {config.method.name}", steps) as tick:
        tick(trainer.step)
        run_steps(trainer, inputs.source, metrics, config, folder, inputs.tasks, _shown(trainer, tick, bars), hook)
        tick(steps, "scoring")
        student = trainer.replica.whole_student()
        with scoring(folder) if world.first else contextlib.nullcontext():
            if world.first:  # the model is there before anything can go wrong with its figures
                save_tower(student, folder / "model")
            scores = _final_scores(config, inputs, student, metrics, world, trainer.step)
        tick(steps, f"{scores.average:.1f} %" if scores.average is not None else "")
    if world.first:
        _write_gallery(folder / "gallery.json", config, inputs, trainer, student)
    chosen = metrics.chosen_total
    share = sum(chosen[k] for k in SOUND_KINDS) / chosen.total() if chosen else None
    return Fitted(student, scores, trainer.ledger, trainer.faults, share, folder, trainer.step)


def _final_scores(config: Config, inputs: Inputs, student: Tower, metrics: Metrics, world: World, step: int) -> Scores:
    """The finished student's scores, told to whoever watches; of several processes the first one has them."""
    embedder = embed_together(
        world,
        student,
        inputs.tasks,
        micro_batch=config.train.micro_batch,
        precision=precision_of(config),
        loading=loading_of_tasks(config),
        step=step,
    )
    if not world.first:
        return Scores()
    scores = score_all(student, inputs.tasks, embedder)
    metrics.tell(step, scores.failed)
    if config.run.keep_best:
        keep_best(metrics.path.with_name(BEST), student, scores, step)
    if scores.results:
        metrics.trackers.scores({"step": step, **scores_json(scores)})
    return scores


@contextlib.contextmanager
def _tracked(config: Config, trainer: Trainer, metrics: Metrics, bars: Bars) -> Iterator[None]:
    """Send the lines to the config's trackers inside; of several processes the first one does."""
    if not trainer.world.first:
        yield
        return
    names, settings = config.run.trackers, config.model_dump(mode="json")
    with tracking(names, settings, trainer.step, metrics.path, metrics.evals, bars.say) as metrics.trackers:
        yield


def _shown(trainer: Trainer, tick: Tick, bars: Bars) -> OnStep:
    """What moves the bar of the steps, and says below it how fast they go and what the data lack."""
    recent = Recent(steps=50)

    def totals() -> Totals:
        return Totals(trainer.step, trainer.ledger.samples_trained, dict(trainer.ledger.seconds))

    def on_step(step: int, note: str) -> None:
        tick(step, note)
        bars.below(pace_text(recent.add(totals()), trainer.faults.invalid().share))

    recent.add(totals())
    return on_step


def make_trainer(config: Config, inputs: Inputs, student: Tower, world: World | None = None) -> Trainer:
    """Objective, optimiser, generator and ledger around a student, which the processes of `world` train together."""
    world = world or World()
    method = config.row
    check_processes(config.loss, [name for name, _ in method.distillations], world.size)
    objective = Objective(
        method,
        config.loss,
        width=student.width,
        teacher_widths=[p.width for p in inputs.teachers],
        teacher_temperature=config.method.teacher_temperature,
        scale=config.method.drrho_scale,
        seed=config.run.seed,
    ).to(student.device)
    train, precision = config.train, precision_of(config)
    lock(student, train.lock)
    if train.activation_checkpointing:
        checkpoint_activations(student)
    student.flops(student.context_length)  # counted while the model is as it was built
    replica = Replica(
        student,
        objective,
        world,
        parallel=config.run.parallel,
        precision=precision,
        grad_cache=train.grad_cache,
    )
    if train.compile:
        compile_towers(student)
    settings = _settings(config, precision)
    reference = inputs.reference if method.uses_reference else None
    student.partly = make_partly(config, student)
    ledger, plan = Ledger(clock=clock_of(student.device)), make_plan(config, settings, student, reference, world)
    if method.filters:  # it has looked at the reference's embeddings, and no step does
        plan = replace(plan, kept=filtered(reference, config.method.filtering_ratio, ledger))
        reference = None
    if method.concepts:
        plan = replace(plan, concepts=Concepts(inputs.source, config.data.concept_field))
    return Trainer(
        world=world,
        student=student,
        replica=replica,
        objective=objective,
        optimizer=optimizer_of([student, objective], config),
        method=method,
        settings=settings,
        plan=plan,
        memory=make_memory(config, student, reference, world),
        reference=reference,
        teachers=inputs.teachers if method.distill else [],
        further=_further(config, inputs.teachers),
        generator=torch.Generator().manual_seed(config.run.seed),
        ledger=ledger,
        faults=_faults_of(config, inputs.source, reference if config.scoring.early else None),
        guard=Guard(behind=1 if student.device.type == "cuda" else 0),
        marks=_marks(inputs),
        tars=KnownTars.of(inputs.source),
    )


def optimizer_of(modules: Sequence[torch.nn.Module], config: Config) -> torch.optim.AdamW:
    """The optimiser of a run, over what is trained of some modules."""
    t = config.train
    return make_optimizer(modules, lr=t.lr, betas=t.betas, weight_decay=t.weight_decay, scale_lr=t.scale_lr)


def _further(config: Config, teachers: Sequence[Provider]) -> FurtherPairs | None:
    """What draws the pairs that a batch is compared with besides its own."""
    if not config.row.columns:
        return None
    held, seed = config.method.column_bank, config.run.seed
    return FurtherPairs(teachers, config.row.columns, seed, held=held, batch=config.super_batch)


def _settings(config: Config, precision: Precision) -> StepSettings:
    """The numbers of a run that a step needs."""
    train, method = config.train, config.method
    return StepSettings(
        batch=train.batch,
        super_batch=config.super_batch,
        steps=train.steps,
        loss=LOSSES.find(config.loss).scores,
        chunks=method.chunks,
        temperature=method.temperature,
        lr=train.lr,
        warmup=train.warmup,
        clip=train.clip,
        micro_batch=train.micro_batch,
        precision=precision,
        scope=method.scope,
        embedded_again=train.grad_cache > 0,
        activations_again=train.activation_checkpointing,
    )


def _faults_of(config: Config, source: Source, early: Provider | None) -> Faults:
    """A count that starts with what was left out when the data were indexed.

    With `scoring.early` also with what has no embedding in the reference's cache, since that is never read.
    """
    faults = Faults(config.data.max_bad_share, len(source))
    faults.note(getattr(source, "faults", ()))
    if isinstance(early, Cached):
        info = early.store.info
        lost = sum(info.faults.values())
        if lost > allowed(config.data.max_bad_share, info.n):
            raise AcedError(
                f"{lost} of {info.n} samples have no embedding in the reference's cache, more than data.max_bad_share "
                f"= {config.data.max_bad_share:g} allows ({', '.join(sorted(info.faults))}): repair the data."
            )
        for name, count in info.faults.items():
            faults.note([Fault(source.name, name, f"{count} samples could not be embedded.", count)])
    return faults


def _marks(inputs: Inputs) -> dict[str, str]:
    """Hashes of what a run is made of and its config only names."""
    reference = marks_of(inputs.reference) if inputs.reference is not None else None
    return data_marks(inputs.source) | model_marks(reference, [marks_of(teacher) for teacher in inputs.teachers])


def _write_gallery(
    path: Path, config: Config, inputs: Inputs, trainer: Trainer, student: Tower, pairs: int = 1024
) -> None:
    """Pictures of the most and the least learnable of some pairs, as the trained student sees them."""
    method = trainer.method
    if method.score is None:
        return
    count = len(inputs.source)
    rows = Random(config.run.seed).sample(range(count), min(pairs, count))  # no permutation of the pool
    if streams(inputs.source):  # pairs of the last step, whose tars are there
        last = order_of(config, inputs.source).indices(max(0, trainer.step - 1))
        rows = (last.tensor_split(trainer.world.size)[0][:pairs] % count).tolist()
    views = [student.view, *(trainer.reference.views if trainer.reference else ())]
    candidates = inputs.source.read(rows, list(dict.fromkeys(views)))
    if trainer.reference is not None:
        candidates = with_values(candidates, trainer.reference.columns)
    if len(candidates) == 0:
        return
    with autocast(student.device, trainer.settings.precision):
        embedded = student.score(candidates, config.train.micro_batch) if method.scores_student else None
    # A ledger of its own: drawing pictures is no part of the run's cost.
    reference = trainer.reference.embed(candidates, Ledger(), "reference") if trainer.reference else None
    write_gallery(path, inputs.source, candidates, embedded, reference, score=method.score)


def row_of(fitted: Fitted, name: str, title: str, seed: int) -> dict[str, Any]:
    """One row of results.json."""
    return {
        "method": name,
        "title": title,
        "seed": seed,
        **scores_json(fitted.scores),
        "budgets": fitted.ledger.budgets(),
        "clean_share": fitted.clean_share,
        "run": str(fitted.folder),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """What a figure depends on besides the code: versions, machine, threads, date."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": import_open_clip().__version__,
        "platform": platform.platform(terse=True),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.processor() or "unknown"


def _open_folder(folder: Path, trainer: Trainer, metrics: Metrics, config: Config, *, resume: bool) -> None:
    first = trainer.world.first
    if first:
        remove_leftovers(folder)
    trainer.world.meet()
    checkpoint = latest_checkpoint(folder / CHECKPOINTS) if resume else None
    if checkpoint is not None:
        load_checkpoint(checkpoint, trainer, metrics, config)
    elif resume and (earlier := earlier_run(folder)):
        # Killed before its first checkpoint: from the start, without the lines of that attempt.
        earlier.allowed(config)
        if first:
            trim_lines(metrics.path, 0)
    trainer.world.meet()  # all have read what the first one now changes
    if first:
        # A kill between a save and this leaves one too many, and there may be no further save.
        drop_older(folder / CHECKPOINTS, config.run.keep)
        trim_lines(metrics.evals, trainer.step)
        write_atomic(folder / "config.toml", dump_config(config))
