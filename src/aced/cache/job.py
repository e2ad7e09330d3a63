"""The work of `aced embed` on some tars: one callable for a single process, torchrun's ranks and Ray's actors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from aced.cache.caches import cache_at
from aced.cache.embed_options import EmbedOptions
from aced.cache.making import EmbedSettings, PartEmbedder
from aced.cache.sidecar import Part, SideCarInfo, open_sidecar, overhead_bytes, parts_of, sidecar_name
from aced.cache.sidecarlist import SideCarList
from aced.cache.survey import Survey
from aced.errors import AcedError
from aced.files.atomic import sweep_leftovers
from aced.files.remote import is_address
from aced.models import Tower, load_recipe, trained_recipe
from aced.models.hub_files import FileProgress as Fetching
from aced.pool.faults import HARMLESS
from aced.pool.fetch.spool import spool_at
from aced.pool.shards import Shards, open_shards
from aced.pool.tars.indexfolder import index_folder
from aced.pool.tars.losttars import TarLost
from aced.runtime.counting import Progress
from aced.runtime.precision import check_precision, find_precision


@dataclass
class EmbedTally:
    """The outcome for some tars.

    Attributes:
        tars: number examined.
        made: number of those embedded now.
        repaired: number in `made` whose side-car existed but was damaged.
        samples: in all side-cars.
        embedded: samples that the model embedded now.
        usable: samples that have an embedding.
        bytes: of all side-cars.
        seconds, flops: for those made now.
        skipped: samples and tars left out, by name of the fault.
        examples: a sentence for each name.
        left: tars that another process is embedding; they are not counted elsewhere.
    """

    tars: int = 0
    made: int = 0
    repaired: int = 0
    samples: int = 0
    embedded: int = 0
    usable: int = 0
    bytes: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def skip(self, name: str, detail: str, count: int = 1) -> None:
        """Count samples or tars that were left out."""
        self.skipped[name] += count
        self.examples.setdefault(name, detail)

    def add(self, other: EmbedTally) -> None:
        """Add the tally of other tars."""
        for name in ("tars", "made", "repaired", "samples", "embedded", "usable", "bytes", "seconds", "flops"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, count in other.skipped.items():
            self.skip(name, other.examples[name], count)
        self.left += other.left


class TarEmbedder:
    """Embeds tars: a call makes their missing side-cars and returns the outcome.

    It can be called with the same tars again, by several processes at a time, and after a kill: complete side-cars
    stay, and incomplete ones never appear.

    Args:
        job: the settings. The model is loaded here, once.
        tell: receives the first sentence about an unusable index folder.
        fetching: opens a bar for downloads of the model.

    Raises:
        AcedError: the model cannot be loaded, or has no trained weights.
    """

    def __init__(
        self, job: EmbedOptions, tell: Callable[[str], None] | None = None, fetching: Fetching | None = None
    ) -> None:
        if job.threads:
            torch.set_num_threads(job.threads)
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        device = auto if job.device == "auto" else job.device
        self.tower: Tower = load_recipe(trained_recipe(job.model, job.checkpoint), device, progress=fetching)
        precision = find_precision(check_precision(job.precision), self.tower.device)
        self.settings = EmbedSettings(job.dtype, job.views, job.micro_batch, job.workers, precision)
        self.job, self._tell = job, tell
        self.tower.requires_grad_(False).eval()
        self.identity = self.tower.identity()
        self._spool = spool_at(job.spool_dir, job.spool_gb)
        self.cache = cache_at(job.out, self.identity["tower"], self._spool)
        sweep_leftovers(self.cache.work)
        self._listed = SideCarList(self.cache.home)

    def look(
        self, tars: Sequence[str | Path], progress: Progress | None = None
    ) -> tuple[EmbedTally, list[str], int, int]:
        """What exists and what is missing, according to the headers of the tars and side-cars.

        Tars at addresses are fetched for it, one after the other.

        Args:
            tars: paths and addresses.
            progress: called with (tars examined, all tars).

        Returns:
            The tally of the complete tars, the other tars, the number of samples in those, and the bytes of headers
            and keys that their side-cars will have.

        Raises:
            AcedError: a tar is damaged (`bad_tars="stop"`), or a side-car belongs to something else or has another type
                or fewer views. A damaged side-car will be made again.
        """
        there, missing, overhead = EmbedTally(), 0, 0
        todo: list[str] = []
        for number, tar in enumerate(tars, 1):
            source = self._open([tar], there)
            parts = parts_of(source) if source else []
            survey = self._survey(parts)
            if survey.missing:
                todo.append(str(tar))
                missing += sum(map(len, parts))
                overhead += sum(overhead_bytes(part, source) for part in parts) if source else 0
            else:
                there.tars += 1
                self._count(source, survey, there)
            if progress is not None:
                progress(number, len(tars))
        self.keep()
        return there, todo, missing, overhead

    def __call__(
        self, tars: Sequence[str | Path], progress: Progress | None = None, *, patient: bool = True
    ) -> EmbedTally:
        """Make the missing side-cars of some tars, except those that another process has begun.

        Args:
            tars: paths and addresses.
            progress: called with (samples embedded, samples that were missing).
            patient: whether to wait for the other processes at the end, and to make what they leave unfinished.

        Raises:
            AcedError: as in `look`; or an embedding is not finite, or the disk is full.
        """
        tally = self._embedded(tars, progress, patient)
        if self.job.passing and self._spool is not None:
            for tar in map(str, tars):
                if is_address(tar):
                    self._spool.drop(tar)
        return tally

    def _embedded(self, tars: Sequence[str | Path], progress: Progress | None, patient: bool) -> EmbedTally:
        tally = EmbedTally()
        source = self._open(tars, tally)
        parts = parts_of(source) if source else []
        survey = self._survey(parts)
        missing, damaged = ([parts[number] for number in one] for one in (survey.missing, survey.damaged))
        made: list[Part] = []
        lost: list[Part] = []

        def leave_out(part: Part, gone: TarLost) -> None:
            lost.append(part)
            tally.skip(gone.name, str(gone))

        if source is not None:
            embedder = PartEmbedder(self.cache.work, source, self.tower, self.settings, progress, leave_out)
            for part in embedder.make(missing, damaged, patient=patient):
                info = self._made(part)
                tally.seconds += info.seconds
                tally.flops += info.flops
                tally.embedded += info.n
                made.append(part)
            gone = {part.name for part in lost}
            left = {part.name for part in missing if part not in made and not self._is_whole(part)} - gone
            names = dict(zip(source.parts, tars, strict=False))  # a tar that is named twice counts once
            tally.left = [str(tar) for name, tar in names.items() if name in left]
            there = [tar for name, tar in names.items() if name not in left | gone]
        tally.tars = len(tars) - len(tally.left)
        tally.made, tally.repaired = len(made), sum(part in made for part in damaged)
        if tally.left or lost:
            source = self._open(there, tally) if there else None
            parts = parts_of(source) if source else []
        self._count(source, self._survey(parts), tally)
        return tally

    def keep(self) -> None:
        """Write the list of the side-cars for their next reader."""
        self._listed.save()

    def _survey(self, parts: Sequence[Part]) -> Survey:
        return Survey(self.cache.home, self.identity, parts, self.settings, repair=True, listed=self._listed)

    def _made(self, part: Part) -> SideCarInfo:
        """The finished file of a part, now at its place."""
        path = self.cache.work / sidecar_name(part)
        info = open_sidecar(path).info
        self.cache.keep(path)
        if state := self.cache.home.state(path.name):
            self._listed.add(path.name, state, info)
        return info

    def _is_whole(self, part: Part) -> bool:
        return not self._survey([part]).missing

    def _count(self, source: Shards | None, survey: Survey, tally: EmbedTally) -> None:
        """Add the content of the side-cars of some parts, and the faults found when their tars were indexed."""
        for fault in source.faults if source else ():
            if fault.name not in HARMLESS:
                tally.skip(fault.name, fault.detail, fault.count)
        for number, part in enumerate(survey.parts):
            tally.samples += int(survey.rows[number])
            tally.usable += int(survey.usable[number])
            tally.bytes += int(survey.sizes[number])
            for name, count in survey.faults(number).items():
                tally.skip(name, f"{count} of the {survey.rows[number]} samples of {part.name}.", count)

    def _tell_once(self, sentence: str) -> None:
        """Report once: every tar of a pool may have the same problem."""
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(sentence)

    def _open(self, tars: Sequence[str | Path], tally: EmbedTally) -> Shards | None:
        """The tars as a source; None if they hold no pair and that is no reason to stop."""
        try:
            return open_shards(
                [str(tar) for tar in tars],
                caption=self.job.caption,
                caption_choice=self.job.caption_choice,
                decoding=self.job.decoding,
                bad_tars=self.job.bad_tars,
                index_dir=index_folder(self.job.index_dir),
                whole=False,
                hearsay=False,
                spool=self._spool,
                tell=self._tell_once,
            )
        except AcedError as error:
            if self.job.bad_tars == "stop":
                raise
            tally.skip("tar_without_pairs", str(error), len(tars))
            return None
