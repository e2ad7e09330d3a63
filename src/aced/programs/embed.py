"""`aced embed`: estimates the cost, embeds this process's share of the tars, and summarises the result."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aced.cache.costs import check_space, size_text
from aced.cache.embed_options import EmbedOptions
from aced.cache.job import EmbedTally, TarEmbedder
from aced.cache.rowcodec import DTYPES
from aced.cache.shared_out import TarShare, own_share, with_ray
from aced.cache.sidecar import sample_bytes
from aced.errors import AcedError
from aced.files.remote import is_address
from aced.files.several import several
from aced.models import trained_recipe
from aced.models.model_argument import device_of
from aced.pool.decoding import find_decoding
from aced.pool.fetch.spool import spool_at, unspooled
from aced.pool.summary import tars_text
from aced.pool.tars.indexfolder import index_folder
from aced.pool.tars.located import name_tars
from aced.pool.tars.manifestfile import kept_path
from aced.pool.tars.stock import StockTaking
from aced.runtime.counting import Progress
from aced.runtime.descriptors import raise_file_limit
from aced.runtime.precision import check_precision
from aced.runtime.progress import Bars, Tick
from aced.runtime.threads import set_threads

_GROUP = 16
"""Number of tars open at a time: their indexes are in memory, and one reader serves them all."""


def embed_program(options: EmbedOptions, console: Console) -> EmbedTally:
    """Make the missing side-cars of a pool.

    Args:
        options: the model, the tars, the cache and the settings.
        console: where to print; processes other than the first print one line, at the end.

    Returns:
        The outcome for this process's tars.

    Raises:
        AcedError: any fault of the user or the data, in one sentence.
    """
    _check_options(options)
    raise_file_limit()
    mine = own_share(options.share)
    shards = [source for text in options.shards for source in several(text)]
    job = replace(options, shards=())  # Ray's actors do not need this long list
    if not job.spool_dir and (remote := next(filter(is_address, shards), None)):
        raise unspooled(remote, "--spool-dir")
    if not job.spool_dir and is_address(job.out):
        raise AcedError(f"{job.out} is an address: give a folder to make side-cars in with --spool-dir.")
    told: list[str] = []
    spool = spool_at(job.spool_dir, job.spool_gb)
    named, far = name_tars(shards, spool, told.append)
    job = replace(job, passing=spool is not None and far > spool.limit)
    if len(shards) > 1:
        told.append(tars_text(shards, list(map(len, named))))
    tars = mine.of([tar for group in named for tar in group])
    job = _checked(job, mine)
    if not tars:
        console.print(f"Process {mine.index} of {mine.count} has no tars to embed.", highlight=False)
        return EmbedTally()
    # One process prints; the output of the others would only interrupt it.
    with Bars(console if mine.index == 0 else Console(quiet=True)) as bars:
        _take_stock(job, tars, shards, mine, bars)
        embedder = TarEmbedder(job, bars.say, bars.counting)
        for sentence in (*told, *embedder.tower.notes):
            bars.say(sentence)
        if job.passing:
            tally, seconds = _in_passing(embedder, tars, far, bars)
        else:
            tally, seconds = _looked(embedder, tars, mine, bars)
        embedder.keep()
    if not tally.usable and mine.count == 1:  # among many processes, one may well have no usable sample
        raise AcedError(_nothing_usable(tally))
    if mine.index:
        line = f"{tally.tars} tars, {tally.made} of them embedded now, {tally.embedded:,} samples in {seconds:.0f} s."
        console.print(f"Process {mine.index} of {mine.count}: {line}", highlight=False)
    else:
        console.print(_table(tally, seconds))
        if tally.skipped:
            console.print(_skipped(tally))
        where = f"Side-cars: {embedder.cache.home.named('')}"
        console.print(f"{where}   Use: reference.cache={job.out}", markup=False, highlight=False)
    return tally


def _looked(embedder: TarEmbedder, tars: Sequence[str], share: TarShare, bars: Bars) -> tuple[EmbedTally, float]:
    """Embed tars that are on a disk or will be: finds what is missing, and prints it before the work starts.

    Returns:
        Their outcome, and the seconds spent embedding.
    """
    job = embedder.job
    with bars.counting("Reading the tars' headers") as progress:
        tally, todo, missing, overhead = embedder.look(tars, progress)
    bars.say(_plan(embedder, tally, len(tars), (missing, overhead), share))
    start = time.perf_counter()
    with bars.bar(f"Embedding with {embedder.tower.name}", missing or 1) as tick:
        done = _Done(tick, start)
        for part in with_ray(job, todo, job.ray) if job.ray else _groups(embedder, todo, done, _GROUP):
            tally.add(part)
            done.whole = tally.embedded
            done(0, 0)
        tick(missing or 1, done.rate())
    return tally, time.perf_counter() - start


def _in_passing(embedder: TarEmbedder, tars: Sequence[str], far: int, bars: Bars) -> tuple[EmbedTally, float]:
    """As `_looked`, if the spool holds only a few tars: each is fetched, embedded if needed, and removed."""
    job, tally = embedder.job, EmbedTally()
    each = sample_bytes(embedder.tower.width, job.dtype, job.views)
    bars.say(
        f"The tars take {size_text(far)}, more than --spool-gb = {job.spool_gb:g} allows: each is fetched, embedded "
        f"and removed. A sample takes {each:,} bytes and its key."
    )
    start = time.perf_counter()
    with bars.bar(f"Embedding with {embedder.tower.name}", len(tars)) as tick:
        parts = with_ray(job, tars, job.ray) if job.ray else _groups(embedder, tars, lambda done, total: None, 1)
        for part in parts:
            tally.add(part)
            tick(tally.tars, f"{tally.embedded / max(time.perf_counter() - start, 1e-9):,.0f} samples/s")
    return tally, time.perf_counter() - start


def _take_stock(job: EmbedOptions, tars: Sequence[str], shards: Sequence[str], share: TarShare, bars: Bars) -> None:
    """Index the new tars with all workers; for a whole pool this also writes the manifest."""
    folder = index_folder(job.index_dir, bars.say)
    if folder is None or any(map(is_address, tars)):
        return
    with bars.counting("Indexing tars") as progress:
        taking = StockTaking(
            index_dir=folder,
            kept=kept_path(folder, shards) if share.count == 1 else None,
            whole=share.count == 1,
            spool=spool_at(job.spool_dir, job.spool_gb),
            workers=job.workers,
            progress=progress,
            tell=bars.say,
        )
        taking.take([Path(tar) for tar in tars])
        progress(len(tars), len(tars))


def _check_options(job: EmbedOptions) -> None:
    """Refuse values that nothing else checks; raises AcedError."""
    if job.dtype not in DTYPES:
        raise AcedError(f"--dtype is '{job.dtype}'; use {', '.join(DTYPES[:-1])} or {DTYPES[-1]}.")
    if not 1 <= job.views <= 64 or job.micro_batch < 1 or job.workers < 0:
        raise AcedError("--views takes 1 to 64; --micro-batch at least 1; --workers at least 0.")
    if job.bad_tars not in ("stop", "skip"):
        raise AcedError(f"--bad-tars is '{job.bad_tars}'; use stop or skip.")
    if job.caption_choice not in ("whole", "first"):
        raise AcedError(
            f"--caption-choice is '{job.caption_choice}'; use whole or first: a cache holds one caption per sample."
        )
    if not 0 < job.spool_gb < math.inf:
        raise AcedError(f"--spool-gb is {job.spool_gb:g}; give a size above 0.")
    check_precision(job.precision)
    find_decoding(job.decoding)


def _checked(job: EmbedOptions, share: TarShare) -> EmbedOptions:
    """The job with this process's device, once the model is known to have weights and the device to exist."""
    device_of(job.device)
    trained_recipe(job.model, job.checkpoint)
    set_threads(job.threads)
    if job.device == "auto" and torch.cuda.device_count() > 1:
        return replace(job, device=f"cuda:{share.local % torch.cuda.device_count()}")
    return job


def _plan(embedder: TarEmbedder, there: EmbedTally, tars: int, to_do: tuple[int, int], share: TarShare) -> str:
    """Print what will be made and stored; refuse it if the disk has no room.

    `to_do`: number of missing samples, and bytes of headers and keys of their side-cars.

    Raises:
        AcedError: the side-cars need more room than there is.
    """
    settings, d = embedder.settings, embedder.tower.width
    missing, overhead = to_do
    each = sample_bytes(d, settings.dtype, settings.views)
    size = missing * each + overhead
    # The other processes' shares are about equally large, and they write to the same disk.
    free = ""
    if not embedder.cache.far:
        free = size_text(check_space(embedder.cache.work, missing * share.count, d, settings, overhead * share.count))
        free = f"; {free} are free"
    views = f", {settings.views} views" if settings.views > 1 else ""
    whose = f"Process 0 of {share.count}" if share.count > 1 else embedder.tower.name
    others = f" (all processes: about {size_text(share.count * size)})" if share.count > 1 else ""
    return (
        f"{whose}: {tars} tar{'s' * (tars > 1)}, {there.samples + missing:,} samples; {there.samples:,} are embedded, "
        f"{missing:,} to go. A sample takes {each:,} bytes ({settings.dtype}, d {d}{views}) and its key: "
        f"{size_text(size)} to write{others}, {size_text(1e8 * each)} for 100 M samples{free}."
        f"{f' The model runs in {settings.precision}.' * (settings.precision != 'fp32')}"
    )


def _groups(embedder: TarEmbedder, todo: Sequence[str], done: Progress, size: int) -> Iterator[EmbedTally]:
    """The outcomes of the tars, `size` at a time; last, of those that another process has begun."""
    for patient in (False, True):
        left: list[str] = []
        for at in range(0, len(todo), size):
            tally = embedder(todo[at : at + size], done, patient=patient)
            left += tally.left
            yield tally
        todo = left


class _Done:
    """Moves the bar and shows the rate.

    Attributes:
        whole: samples of the groups that are finished; calls count from there.
    """

    def __init__(self, tick: Tick, start: float) -> None:
        self._tick, self._start, self.whole, self._now = tick, start, 0, 0

    def __call__(self, done: int, total: int) -> None:
        """Advance to `done` samples of the current group."""
        self._now = self.whole + done
        self._tick(self._now, self.rate())

    def rate(self) -> str:
        """Samples per second since the start."""
        return f"{self._now / max(time.perf_counter() - self._start, 1e-9):,.0f} samples/s"


def _nothing_usable(tally: EmbedTally) -> str:
    name, count = tally.skipped.most_common(1)[0] if tally.skipped else ("", 0)
    reason = f"; most often {name} ({count}), for example {tally.examples[name]}" if name else "."
    return f"No sample of {tally.tars} tar{'s' * (tally.tars > 1)} is usable, so there is nothing to embed{reason}"


def _table(tally: EmbedTally, seconds: float) -> Table:
    table = Table("Side-cars", "", show_header=False)
    table.columns[1].justify = "right"
    repaired = f", {tally.repaired} of them repaired" if tally.repaired else ""
    table.add_row("Tars", f"{tally.tars:,}")
    table.add_row("embedded now", f"{tally.made:,}{repaired}")
    table.add_row("Samples", f"{tally.samples:,}")
    table.add_row("with an embedding", f"{tally.usable:,}")
    table.add_row("On disk", size_text(tally.bytes))
    if tally.embedded:
        table.add_row("Time", f"{seconds:,.1f} s, {tally.embedded / seconds:,.0f} samples/s")
        table.add_row("FLOPs", f"{tally.flops:.3g}")
    return table


def _skipped(tally: EmbedTally) -> Table:
    table = Table("Left out", "Count", "Example", title="What could not be used")
    for name, count in tally.skipped.most_common():
        table.add_row(name, f"{count:,}", escape(tally.examples[name]))
    return table
