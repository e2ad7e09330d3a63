"""The check whether a run can be resumed: the parts of its config, data and models that must be unchanged.

Keys are marked with the changes that they permit (`aced.config.resume`). Content at a path is compared by its mark, a
hash that a copy shares, and not by the path.
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
    """Hashes of a frozen model: of weights, preprocessing and tokenizer, and of its computation beyond these.

    The second is empty if a cache of an older version does not record it.
    """

    contents: str
    architecture: str


class Change(NamedTuple):
    """A key that differs from the saved run."""

    key: str
    before: Any
    now: Any
    rule: Resume | None


@dataclass(frozen=True)
class Earlier:
    """A run that was begun, from its newest checkpoint, or from config.toml alone if it has none yet.

    Attributes:
        where: the checkpoint, or the run's folder.
        config: the resolved config.
        marks: hashes of data and models, by description; older versions recorded fewer.
        facts: content of `train.json`; empty without a checkpoint.
        tars: those of its data; none without a checkpoint, or if an older version did not record them.
    """

    where: Path
    config: Mapping[str, Mapping[str, Any]]
    marks: Mapping[str, str]
    facts: Mapping[str, Any]
    tars: KnownTars = field(default_factory=lambda: KnownTars(()))

    def changes(self, config: Config) -> Iterator[Change]:
        """Every key that differs now.

        A key that did not exist yet counts as its default, which is what the run then did. Two names for the same
        precision do not differ.
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
        """The towers' precision; `auto` if no checkpoint records what it meant."""
        return str(self.facts.get("precision") or self.config.get("train", {}).get("precision", "fp32"))

    def allowed(self, config: Config) -> list[Change]:
        """The keys that differ, all of which the resumed run may change, as far as the config shows.

        Raises:
            AcedError: the run cannot be resumed with this config; the sentence names the first key.
        """
        for key, value in used(self.config):
            raise AcedError(
                f"{self.where} began with {key} = {value!r}, which this version of aced no longer has: finish it "
                "with the version that began it, or choose another run.out for a new run."
            )
        changes = list(self.changes(config))
        for key, before, now, rule in changes:
            if rule is None or (rule is PLACE and (bool(before) != bool(now) or self._is_unproven(key, config))):
                raise AcedError(
                    f"{self.where} has another configuration: {key} was {before!r} and is now {now!r}; set it back, "
                    "or choose another run.out for a new run."
                )
        return changes

    def _is_unproven(self, key: str, config: Config) -> bool:
        """Whether marks cannot show that the entries have the same samples: older versions did not record them."""
        return key == "data.shards" and bool(config.data.weights) and bool(self.marks) and ENTRIES not in self.marks

    def check(self, marks: Mapping[str, str], tars: KnownTars | None = None) -> None:
        """Compare some of the marks with those of the saved run; marks that it did not record are not compared.

        Args:
            marks: by description.
            tars: those of the data now, to explain how the data differ.

        Raises:
            AcedError: one differs; the sentence names it.
        """
        for what, mark in marks.items():
            if self.marks.get(what, mark) != mark:
                raise self._refusal(what, tars)

    def check_all(self, marks: Mapping[str, str], tars: KnownTars | None = None) -> None:
        """As `check`, and none of the saved run's marks may be missing.

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
            how = " (tars may move, but their number, names, order and content must stay)"
            if tars is not None and self.tars.tars and (differences := self.tars.differences(tars)):
                how = f" ({', '.join(differences)})"
                instead = "set data.lost_tars=allow to continue with the remaining tars, "
        return AcedError(
            f"{self.where} cannot be resumed: {what} changed since it was written{how}; {instead}restore "
            "the original, or choose another run.out for a new run."
        )

    def check_rounding(self, student: Tower, config: Config) -> None:
        """Raise an AcedError if a changed key that only affects rounding for most students does more for this one."""
        for change in self.changes(config) if self.facts else ():
            if change.rule is ROUNDING and (layer := uneven_layer(student, change.key)):
                raise AcedError(
                    f"{self.where} has another configuration: {change.key} was {change.before!r} and is now "
                    f"{change.now!r}, which changes more than the last bits for a student with {layer}; set it back, "
                    "or choose another run.out for a new run."
                )

    def rounding(self, config: Config) -> list[Change]:
        """The changed keys that alter the last bits; device, threads and TF32 are compared by their resolved values."""
        told = ("run.device", "run.threads", "train.tf32")
        return [one for one in self.changes(config) if one.rule is ROUNDING and one.key not in told]

    def other_caches(self, providers: Sequence[Provider | None]) -> list[str]:
        """The models, by name, whose cached embeddings are not byte for byte those of the run."""
        before: Mapping[str, str] = self.facts.get("caches", {})
        return [
            one.store.info.tower
            for one in dict.fromkeys(providers)
            if isinstance(one, Cached) and before.get(one.fingerprint, one.store.mark) != one.store.mark
        ]


def data_marks(source: Source) -> dict[str, str]:
    """Marks of the samples and their order, and of the entries of `data.shards` if they are apart."""
    # Marks of tars, if there are any: unlike the fingerprint they are the same for a copy.
    marks = {DATA: _hash(source.parts or source.fingerprint)}
    return marks | ({ENTRIES: _hash(source.mixture)} if source.mixture else {})


def marks_of(provider: Provider) -> ModelMarks:
    """The marks of a frozen model, live or cached."""
    return ModelMarks(provider.fingerprint, provider.architecture)


def model_marks(reference: ModelMarks | None, teachers: Sequence[ModelMarks]) -> dict[str, str]:
    """The frozen models' marks, by description."""
    models = {REFERENCE: reference} if reference is not None else {}
    models |= {f"teacher {number}": marks for number, marks in enumerate(teachers, 1)}
    known = {f"the architecture of {name}": marks.architecture for name, marks in models.items() if marks.architecture}
    return {name: marks.contents for name, marks in models.items()} | known


def short(value: Any) -> str:
    """A value as printed: only the first of many paths."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _today(section: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved section with older keys translated, if the defaults of today's keys would differ from them."""
    if section == "data":
        saved = {"locality": 0, **saved}
    if section == "data" and "scaled_decoding" in saved and "decoding" not in saved:
        return {**saved, "decoding": "scaled" if saved["scaled_decoding"] else "exact"}
    return dict(saved)
