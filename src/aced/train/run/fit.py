"""One training run from its config to its results, for `aced train` and every row of the demo."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from aced.config import Config, dump_config
from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.models import Tower, save_tower
from aced.models.locking import lock
from aced.models.switches import checkpoint_activations, compile_towers
from aced.pool.concept_column import Concepts
from aced.pool.source import SOUND_KINDS, Fault, Source
from aced.pool.tars.losttars import KnownTars
from aced.registry.objectives import check_processes
from aced.runs.ledger import Ledger
from aced.runs.lines import trim_lines
from aced.runs.pace import Recent, Totals, pace_text
from aced.runs.run_folder import CHECKPOINTS, check_folder, locked, remove_leftovers, scoring
from aced.runs.trackers.group import tracking
from aced.runtime.devices import clock_of
from aced.runtime.precision import tensor_float
from aced.runtime.progress import Bars, Tick
from aced.train.distributed import World
from aced.train.feed import Faults
from aced.train.further import FurtherPairs
from aced.train.guard import Guard
from aced.train.hook import Hook
from aced.train.limit import allowed
from aced.train.objective import Objective
from aced.train.optim import make_optimizer
from aced.train.providers import Cached, Provider
from aced.train.replica import Replica
from aced.train.run.automatic import precision_of, tf32_of
from aced.train.run.checkpoint import drop_older, earlier_run, latest_checkpoint, load_checkpoint
from aced.train.run.fitted import Fitted
from aced.train.run.gallery_pairs import write_pairs
from aced.train.run.inputs import Inputs
from aced.train.run.loop import OnStep, run_steps
from aced.train.run.ordering import make_run_order, recorded
from aced.train.run.quota import source_ends
from aced.train.run.resuming import data_marks, marks_of, model_marks
from aced.train.run.run_scores import final_scores
from aced.train.run.scoring_plan import make_history, make_memory, make_partly, make_plan, settings_of
from aced.train.scoring.filtering import FILTERED, filtered, fingerprint_of_rows
from aced.train.step import Trainer
from aced.train.watch import Metrics


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
    """Train `student` according to the config and evaluate it.

    Writes into `run.out`: config.toml, metrics.jsonl, checkpoints/, model/, and where applicable evals.jsonl, best/ and
    gallery.json. The processes of `world` evaluate together, and the first one writes; the results of the others are
    empty.

    Raises:
        AcedError: the folder already holds a run (and `resume` is not set), another process trains there, a step
            fails, or the disk is full.
    """
    world = world or World()
    if resume and (earlier := earlier_run(Path(config.run.out))) is not None:
        config = recorded(config, earlier.config)
    order = inputs.order
    if order is None or not order.fits(config, inputs.source, world.size):
        order = make_run_order(config, inputs.source, world.size)
    config = order.settled(config)
    folder, steps = Path(config.run.out), config.train.steps
    if world.first:
        check_folder(folder, resume=resume)
    with locked(folder), tensor_float(tf32_of(config), student.device):
        metrics = Metrics(folder / "metrics.jsonl", inputs.source.kinds, config.run.log_every)
        metrics.say = bars.say
        trainer = make_trainer(config, inputs, student, world)
        _open_folder(folder, trainer, metrics, config, resume=resume)
        bar = bars.bar(title or f"Training {config.method.name}", steps)
        with _tracked(config, trainer, metrics, bars), bar as tick:
            tick(trainer.step)
            run_steps(trainer, inputs, metrics, config, order, _shown(trainer, tick, bars), hook)
            tick(steps, "scoring")
            student = trainer.replica.whole_student()
            with scoring(folder) if world.first else contextlib.nullcontext():
                if world.first:  # save the model before any failure in scoring
                    save_tower(student, folder / "model")
                scores = final_scores(trainer, student, inputs.tasks, metrics, config)
            tick(steps, f"{scores.average:.1f} %" if scores.average is not None else "")
        if world.first:
            write_pairs(folder / "gallery.json", config, inputs.source, order, trainer, student)
    chosen = metrics.chosen_total
    sound = sum(chosen[kind] for kind in SOUND_KINDS)
    share = sound / chosen.total() if sound else None  # other names say nothing about soundness
    return Fitted(student, scores, trainer.ledger, trainer.faults, share, folder, trainer.step)


@contextlib.contextmanager
def _tracked(config: Config, trainer: Trainer, metrics: Metrics, bars: Bars) -> Iterator[None]:
    """Send the lines to the config's trackers inside; with several processes the first one does."""
    if not trainer.world.first:
        yield
        return
    names, settings = config.run.trackers, config.model_dump(mode="json")
    with tracking(names, settings, trainer.step, metrics.path, metrics.evals, bars.say) as metrics.trackers:
        yield


def _shown(trainer: Trainer, tick: Tick, bars: Bars) -> OnStep:
    """Moves the bar of the steps, and shows below it the speed and the share of unusable data."""
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
    student.flops(student.context_length)  # counted while the model is as built
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
    settings, marks = settings_of(config, precision), _marks(inputs)
    reference = inputs.reference if method.uses_reference else None
    student.partly, ends = make_partly(config, student), source_ends(config, inputs.source, world.size)
    ledger, plan = Ledger(clock=clock_of(student.device)), make_plan(config, settings, student, reference, world)
    if method.filters:  # it has used the reference's embeddings, and a step will only if the loss does
        kept = filtered(reference, config.method.filtering_ratio, ledger, ends)
        plan, marks[FILTERED] = replace(plan, kept=kept), fingerprint_of_rows(kept)
        reference = reference if method.guided else None
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
        plan=replace(plan, ends=ends if method.chooses else None),
        memory=make_memory(config, student, reference, world),
        history=make_history(config, len(inputs.source), student),
        reference=reference,
        teachers=inputs.teachers if method.distill else [],
        further=_further(config, inputs.teachers),
        generator=torch.Generator().manual_seed(config.run.seed),
        ledger=ledger,
        faults=_faults_of(config, inputs.source, inputs.reference if config.scoring.early or method.filters else None),
        guard=Guard(behind=1 if student.device.type == "cuda" else 0),
        marks=marks,
        tars=KnownTars.of(inputs.source),
    )


def optimizer_of(modules: Sequence[torch.nn.Module], config: Config) -> torch.optim.AdamW:
    """The optimiser of a run, over the trainable parameters of some modules."""
    t = config.train
    return make_optimizer(
        modules,
        lr=t.lr,
        betas=t.betas,
        weight_decay=t.weight_decay,
        scale_lr=t.scale_lr,
        decay_embeddings=t.decay_embeddings,
    )


def _further(config: Config, teachers: Sequence[Provider]) -> FurtherPairs | None:
    """The draw of further pairs that a batch is compared with."""
    if not config.row.columns:
        return None
    held, seed = config.method.column_bank, config.run.seed
    return FurtherPairs(teachers, config.row.columns, seed, held=held, batch=config.super_batch)


def _faults_of(config: Config, source: Source, unread: Provider | None) -> Faults:
    """A count that starts with the samples left out at indexing.

    With `scoring.early` or a filter also with those that have no embedding in the reference's cache (`unread`), which
    are never read.
    """
    faults = Faults(config.data.max_bad_share, len(source))
    faults.note(source.faults)
    if isinstance(unread, Cached):
        info = unread.store.info
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
    """Hashes of the parts of a run that its config only names."""
    reference = marks_of(inputs.reference) if inputs.reference is not None else None
    return data_marks(inputs.source) | model_marks(reference, [marks_of(teacher) for teacher in inputs.teachers])


def _open_folder(folder: Path, trainer: Trainer, metrics: Metrics, config: Config, *, resume: bool) -> None:
    first = trainer.world.first
    if first:
        remove_leftovers(folder)
    trainer.world.meet()
    checkpoint = latest_checkpoint(folder / CHECKPOINTS) if resume else None
    if checkpoint is not None:
        load_checkpoint(checkpoint, trainer, metrics, config)
    elif resume and (earlier := earlier_run(folder)):
        # Killed before its first checkpoint: start from the beginning, without the lines of that attempt.
        earlier.allowed(config)
        if first:
            trim_lines(metrics.path, 0)
    trainer.world.meet()  # all have read what the first one now changes
    if first:
        # A kill between a save and this leaves one too many, and there may be no further save.
        drop_older(folder / CHECKPOINTS, config.run.keep)
        trim_lines(metrics.evals, trainer.step)
        write_atomic(folder / "config.toml", dump_config(config))
