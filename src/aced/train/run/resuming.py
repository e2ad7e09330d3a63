"""Whether a run may go on: what of its config, its data and its models must be as they were, and what may change.

Keys say of themselves what may become of them (`aced.config.resume`). What lies at a path is compared by its marks,
hashes that a copy shares, and not by the path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aced.config import Config, resume_rules
from aced.config.removed import used
from aced.config.resume import PLACE, ROUNDING, Resume
from aced.errors import AcedError
from aced.models import Tower
from aced.models.switches import uneven_layer
from aced.pool.source import Source
from aced.pool.tars.losttars import KnownTars
from aced.train.providers import Cached, Provider
from aced.train.run.automatic import precision_of

DATA, ENTRIES, REFERENCE = "the data", "the number of samples of each entry of data.shards", "the reference"


class ModelMarks(NamedTuple):
    """Hashes of a frozen model: of weights, preprocessing and tokenizer, and of what it computes beyond these.

    The second is empty where a cache of an older version does not say.
    """

    contents: str
    architecture: str


class Change(NamedTuple):
    """A key that has another value than in the saved run."""

    key: str
    before: Any
    now: Any
    rule: Resume | None


@dataclass(frozen=True)
class Earlier:
    """A run that was begun, as its newest checkpoint tells it, or its config.toml alone where it has none yet.

    Attributes:
        where: the checkpoint, or the run's folder.
        config: the resolved config.
        marks: hashes of data and models by what they are of; an older version recorded fewer.
        facts: what `train.json` says; empty without a checkpoint.
        tars: those of its data; none without a checkpoint, and where an older version did not record them.
    """

    where: Path
    config: Mapping[str, Mapping[str, Any]]
    marks: Mapping[str, str]
    facts: Mapping[str, Any]
    tars: KnownTars = field(default_factory=lambda: KnownTars(()))

    def changes(self, config: Config) -> Iterator[Change]:
        """Every key that has another value now.

        A key that there was not yet counts as its default, which is what the run then did. A precision that is named
        otherwise but comes to the same is none.
        """
        rules = resume_rules()
        for section, values in config:
            earlier = type(values)().model_dump(mode="json") | _today(section, self.config.get(section, {}))
            for key, now in values.model_dump(mode="json").items():
                same = earlier[key] == now or (key == "precision" and self.precision in ("auto", precision_of(config)))
                if not same:
                    yield Change(f"{section}.{key}", earlier[key], now, rules[f"{section}.{key}"])

    @property
    def precision(self) -> str:
        """What the towers ran in; `auto` where no checkpoint says what it came to."""
        return str(self.facts.get("precision") or self.config.get("train", {}).get("precision", "fp32"))

    def allowed(self, config: Config) -> list[Change]:
        """The keys that have other values, each of which the run may go on with, as far as the config tells.

        Raises:
            AcedError: the run cannot go on with this config; the sentence names the first key.
        """
        for key, value in used(self.config):
            raise AcedError(
                f"{self.where} was begun with {key} = {value!r}, which this version of aced no longer has: finish it "
                "with the version that began it, or choose another run.out for a new run."
            )
        changes = list(self.changes(config))
        for key, before, now, rule in changes:
            if rule is None or (rule is PLACE and (bool(before) != bool(now) or self._is_unproven(key, config))):
                raise AcedError(
                    f"{self.where} is of another configuration: {key} was {before!r} and is now {now!r}; set it back, "
                    "or choose another run.out for a new run."
                )
        return changes

    def _is_unproven(self, key: str, config: Config) -> bool:
        """Whether marks cannot tell that the entries have the same samples: an older version recorded none of them."""
        return key == "data.shards" and bool(config.data.weights) and bool(self.marks) and ENTRIES not in self.marks

    def check(self, marks: Mapping[str, str], tars: KnownTars | None = None) -> None:
        """Compare some of the marks with those of the saved run; one that it did not record is not compared.

        Args:
            marks: by what they are of.
            tars: those of the data now, to say in what the data differ.

        Raises:
            AcedError: one differs; the sentence names what it is of.
        """
        for what, mark in marks.items():
            if self.marks.get(what, mark) != mark:
                raise self._refusal(what, tars)

    def check_all(self, marks: Mapping[str, str], tars: KnownTars | None = None) -> None:
        """As `check`, and nothing that the saved run had may be missing.

        Raises:
            AcedError: a mark differs or is missing.
        """
        self.check(marks, tars)
        for what in self.marks:
            if what not in marks:
                raise self._refusal(what)

    def _refusal(self, what: str, tars: KnownTars | None = None) -> AcedError:
        how = instead = ""
        if what == DATA:
            how = " (which tars, their names, order and content count, and not where they lie)"
            if tars is not None and self.tars.tars and (differences := self.tars.differences(tars)):
                how = f" ({', '.join(differences)})"
                instead = "set data.lost_tars=allow to go on with the tars that are left, "
        return AcedError(
            f"{self.where} cannot be resumed: {what} changed since it was written{how}; {instead}put back what was "
            "there, or choose another run.out for a new run."
        )

    def check_rounding(self, student: Tower, config: Config) -> None:
        """Raise an AcedError where a changed key that rounds otherwise for most students does more for this one."""
        for change in self.changes(config) if self.facts else ():
            if change.rule is ROUNDING and (layer := uneven_layer(student, change.key)):
                raise AcedError(
                    f"{self.where} is of another configuration: {change.key} was {change.before!r} and is now "
                    f"{change.now!r}, which changes more than the last bits for a student with {layer}; set it back, "
                    "or choose another run.out for a new run."
                )

    def rounding(self, config: Config) -> list[Change]:
        """The changed keys that alter the last bits; device, threads and TF32 are compared by what they came to."""
        told = ("run.device", "run.threads", "train.tf32")
        return [one for one in self.changes(config) if one.rule is ROUNDING and one.key not in told]

    def other_caches(self, providers: Sequence[Provider | None]) -> list[str]:
        """The models, by name, whose cached embeddings are not byte by byte those that the run had."""
        before: Mapping[str, str] = self.facts.get("caches", {})
        return [
            one.store.info.tower
            for one in dict.fromkeys(providers)
            if isinstance(one, Cached) and before.get(one.fingerprint, one.store.mark) != one.store.mark
        ]


def data_marks(source: Source) -> dict[str, str]:
    """Marks of the samples and their order; where the entries of `data.shards` are weighted, of these too."""
    # Marks of tars, where there are some: unlike the fingerprint they are the same for a copy.
    marks = {DATA: _hash(source.parts or source.fingerprint)}
    return marks | ({ENTRIES: _hash(source.mixture)} if source.mixture else {})


def marks_of(provider: Provider) -> ModelMarks:
    """The marks of a frozen model, live or cached."""
    return ModelMarks(provider.fingerprint, provider.architecture)


def model_marks(reference: ModelMarks | None, teachers: Sequence[ModelMarks]) -> dict[str, str]:
    """The frozen models' marks by what they are of."""
    models = {REFERENCE: reference} if reference is not None else {}
    models |= {f"teacher {number}": marks for number, marks in enumerate(teachers, 1)}
    known = {f"the architecture of {name}": marks.architecture for name, marks in models.items() if marks.architecture}
    return {name: marks.contents for name, marks in models.items()} | known


def short(value: Any) -> str:
    """A value as it is printed: the first of many paths tell enough."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _today(section: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved section with what came before keys of today, whose defaults are not what was done then."""
    if section == "data":
        saved = {"locality": 0, **saved}
    if section == "data" and "scaled_decoding" in saved and "decoding" not in saved:
        return {**saved, "decoding": "scaled" if saved["scaled_decoding"] else "exact"}
    return dict(saved)
