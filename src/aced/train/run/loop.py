"""The training loop: steps, lines, checkpoints, evaluations."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from aced.config import Config
from aced.errors import AcedError
from aced.files.remote import is_address
from aced.pool.fetch.fetching import Fetcher, fetcher_of
from aced.pool.fetch.streamed import streams
from aced.pool.loader.filling import Fill
from aced.pool.loader.loading import Loading
from aced.pool.source import Candidates, Source
from aced.runs.ledger import Ledger
from aced.runs.lines import trim_lines
from aced.runs.run_folder import CHECKPOINTS
from aced.runtime.stopping import Stopped, deferred
from aced.train.distributed import World
from aced.train.draws import global_draws
from aced.train.feed import chunk_bytes, feed
from aced.train.hook import Hook, Step, StopTraining
from aced.train.run.automatic import workers_of
from aced.train.run.checkpoint import save_checkpoint
from aced.train.run.inputs import Inputs
from aced.train.run.leaving import GO_ON, LastStep, leaving_a_checkpoint
from aced.train.run.ordering import RunOrder, make_run_order
from aced.train.run.run_scores import evaluate
from aced.train.step import Outcome, Trainer, train_step
from aced.train.watch import Metrics
from aced.train.wishes import Wishes

OnStep = Callable[[int, str], None]


def run_steps(
    trainer: Trainer,
    inputs: Inputs,
    metrics: Metrics,
    config: Config,
    order: RunOrder,
    on_step: OnStep,
    hook: Hook | None = None,
) -> None:
    """Train from `trainer.step` to the last step, and save a final checkpoint in `run.out`.

    Args:
        trainer: at the step from which the run continues.
        inputs: source and tasks.
        metrics: receives the lines.
        config: the run's.
        order: of the source.
        on_step: called after each step with its number and a note; `hook` sees each step and may make it the last.

    Raises:
        Stopped: a signal requested the end; the step was finished and a checkpoint of it written.
    """
    steps = config.train.steps
    last, begun = LastStep(trainer, metrics), trainer.step
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(deferred())
        stack.enter_context(leaving_a_checkpoint(last, trainer, metrics, config))
        wishes = Wishes(asked, config.run.checkpoint_minutes, trainer.world)
        evaluation = partial(evaluate, trainer, inputs.tasks, metrics, config, asked)
        evaluate_now = partial(_evaluate_or_owe, evaluation, trainer, wishes)
        if trainer.unscored:
            if trainer.world.first:
                trim_lines(metrics.evals, trainer.step - 1)  # it may have been interrupted after its line
            evaluate_now()
        batches = stack.enter_context(_loading(trainer, inputs.source, config, order))
        while trainer.step < steps and wishes.stop is None and not wishes.finished:
            draws = _own_draws(config.run.seed, trainer.step, trainer.world.rank, trainer.student.device)
            with draws, _summed(trainer, wishes):
                outcome = train_step(trainer, batches)
            if trainer.step == begun + 1:
                trainer.world.warm()
            scored, due = _due(trainer.step, config)
            if scored or due or wishes.any or metrics.logs(trainer.step, steps):
                trainer.guard.settle()  # nothing is written about a step that may still be refused
            if trainer.world.first:
                metrics.note(trainer, outcome)
            last.keep()
            if hook is not None and _ends(hook, trainer, outcome, wishes) and not due:
                due = True
                _write_last(trainer, outcome, metrics, steps)
            # Before the checkpoint: a run killed in between then evaluates again, instead of never.
            if scored:
                evaluate_now()
            if due or wishes.any:
                save_checkpoint(Path(config.run.out) / CHECKPOINTS, trainer, metrics, config)
                wishes.saved()
            if wishes.stop is None:  # a closed terminal must not hide the reason
                on_step(trainer.step, "" if math.isnan(trainer.guard.loss) else f"loss {trainer.guard.loss:.2f}")
        if wishes.stop is not None:
            raise Stopped(wishes.stop, f"step {trainer.step} of {steps} is saved; {GO_ON}")


def _due(step: int, config: Config) -> tuple[bool, bool]:
    """Whether an evaluation is due after a step (that of the last one comes later), and whether a checkpoint is."""
    steps, evaluations, checkpoints = config.train.steps, config.eval.every, config.run.checkpoint_every
    scored = bool(evaluations) and step % evaluations == 0 and step < steps
    return scored, step == steps or bool(checkpoints and step % checkpoints == 0)


@contextlib.contextmanager
def _loading(trainer: Trainer, source: Source, config: Config, order: RunOrder) -> Iterator[Iterator[Candidates]]:
    """The batches of the remaining steps, while the fetcher of their tars is at work."""
    left = range(trainer.step, config.train.steps)
    fetcher = fetcher_for(trainer.world, source, order, left)
    batches = batches_of(trainer, source, config, left, order, fetcher)
    with fetcher or contextlib.nullcontext():
        yield batches


def _evaluate_or_owe(evaluation: Callable[[], bool], trainer: Trainer, wishes: Wishes) -> None:
    """Evaluate, unless the end was requested; a skipped evaluation is made up for when the run resumes."""
    trainer.unscored = True
    if wishes.stop is None:
        trainer.unscored = not evaluation()
        wishes.ask()


def _ends(hook: Hook, trainer: Trainer, outcome: Outcome, wishes: Wishes) -> bool:
    """Call the hook; returns whether it, or one of another process, makes that step the last."""
    try:
        wishes.finish = hook(Step(trainer, outcome)) is False
    except StopTraining:
        wishes.finish = True
    saving = wishes.save
    wishes.ask()
    wishes.save |= saving
    return wishes.finished


def _write_last(trainer: Trainer, outcome: Outcome, metrics: Metrics, steps: int) -> None:
    """The line of a step that has turned out to be the last."""
    trainer.guard.settle()
    if trainer.world.first and not metrics.logs(trainer.step, steps):
        metrics.write(trainer, outcome)


def _own_draws(seed: int, step: int, rank: int, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Make a model's random draws in training (dropout, dropped patches) depend only on seed, step and process.

    Such layers use torch's global generators, which are restored afterwards.
    """
    digest = hashlib.sha256(f"draws {seed} {step} {rank}".encode()).digest()
    return global_draws(device, int.from_bytes(digest[:8], "big") >> 1)


@contextlib.contextmanager
def _summed(trainer: Trainer, wishes: Wishes) -> Iterator[None]:
    """Sum over processes what each counts inside; wall time remains each one's own.

    Their wishes for the end of the step are settled in the same exchange.
    """
    ledger = trainer.ledger
    before = _counts(ledger)
    yield
    own = _counts(ledger) - before
    both = trainer.world.sum(torch.cat([own, wishes.own()]))
    wishes.settle(both[len(own) :])
    if trainer.world.size == 1:
        return
    loaded, trained, cached, *flops = (before + both[: len(own)]).tolist()
    ledger.samples_loaded, ledger.samples_trained, ledger.cached_flops = round(loaded), round(trained), cached
    ledger.flops.update(zip(ledger.flops, flops, strict=True))


def _counts(ledger: Ledger) -> torch.Tensor:
    counts = [ledger.samples_loaded, ledger.samples_trained, ledger.cached_flops, *ledger.flops.values()]
    return torch.tensor(counts, dtype=torch.float64)


def fetcher_for(world: World, source: Source, order: RunOrder, steps: range) -> Fetcher | None:
    """The fetcher of this process's tars for some steps, if they are not on a disk.

    Raises:
        AcedError: the spool is too small for the tars needed at once.
    """
    if order.plan is None:
        return None
    visits = order.plan.visits(world.rank, world.size, steps.start)
    return fetcher_of(source.places, visits, first=steps.start, stop=steps.stop)


def batches_of(
    trainer: Trainer,
    source: Source,
    config: Config,
    steps: range,
    order: RunOrder | None = None,
    fetcher: Fetcher | None = None,
) -> Iterator[Candidates]:
    """This process's candidates of some steps, with everything that the trainer's models need of them.

    Args:
        trainer: the trainer with the models.
        source: the pool.
        config: the run's.
        steps: numbers of the steps.
        order: of the pool; None: the one from the config.
        fetcher: fetches the tars, if they are not on a disk.
    """
    order = order or make_run_order(config, source, trainer.world.size)
    frozen = [p for p in [trainer.reference, *trainer.teachers] if p is not None]
    views = [trainer.student.view, *(view for p in frozen for view in p.views)]
    columns = [trainer.student.ids, *(column for p in frozen for column in p.columns), *trainer.plan.columns]
    columns += source.columns
    item = chunk_bytes(config.super_batch // trainer.world.size, views, columns)
    workers = workers_of(config, in_memory=source.in_memory, item=item)
    # Machines may have different room, but an order with exchanges must be queried equally far ahead on all.
    loading = Loading(min(trainer.world.counts(workers)), config.run.timeout, config.data.start_method)
    _check_early(config, source, trainer, loading.workers)
    batches = feed(
        Fill(source, list(dict.fromkeys(views)), columns),
        trainer.plan.order(order.samples, steps.stop, loading),
        steps,
        loading,
        part=(trainer.world.rank, trainer.world.size),
        device=trainer.student.device,
        fetcher=fetcher,
    )
    return batches if fetcher is None else _waited(batches, fetcher, trainer)


def _check_early(config: Config, source: Source, trainer: Trainer, workers: int) -> None:
    """Refuse early lookups of side-cars that travel with tars, which are fetched only as far ahead as room permits."""
    ahead = workers or trainer.student.device.type == "cuda"
    if config.scoring.early and ahead and streams(source) and is_address(config.reference.cache):
        raise AcedError(
            "scoring.early looks up side-cars ahead, but those at an address come with the tars of a streamed pool: "
            "put the side-cars into a folder (reference.cache), or set scoring.early=false."
        )


def _waited(batches: Iterator[Candidates], fetcher: Fetcher, trainer: Trainer) -> Iterator[Candidates]:
    """The batches; the time spent waiting for their tars goes into the ledger."""
    before = fetcher.spent
    for batch in batches:
        trainer.ledger.waited(fetcher.spent - before)
        before = fetcher.spent
        yield batch
        del batch  # make the next one only when this one is no longer needed
