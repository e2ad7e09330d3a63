"""The methods of curation and distillation, as data.

A method says how the contrastive batch is chosen and what is distilled on which batch. The training loop reads the row
and knows no method by name, so a new combination of these parts is only a new row.
Source: arXiv 2411.18674 sections 3 and 4, METHOD section 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from aced.core.concepts import ByConcepts
from aced.core.named import Table, caller
from aced.core.score_models import SCORES, Score, Scoring, Strategy
from aced.errors import AcedError
from aced.registry.objectives import DISTILLATIONS, LOSSES


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table.

    Attributes:
        name: what users type.
        title: what tables show.
        about: one line for `aced methods`.
        score: by which candidates are chosen for the contrastive batch, a name in `SCORES`; None: i.i.d.
        strategy: how the scores decide the batch.
        concepts: how concepts decide the batch, for methods without a scoring model; or None.
        history: whether the student's score of a pair is compared with its own of the beginning of the run.
        distill: the distillation loss added to the contrastive one, a name in `DISTILLATIONS`, or None.
        weight: lambda, the weight of the distillation loss.
        second: another distillation loss on the same batch, or None.
        second_weight: its own lambda.
        distill_on: the batch for distillation: the `same` as the contrastive one, or another, `iid` one.
        contrastive: whether there is a contrastive loss; without it the student only distils.
        filters: whether the pool is filtered once, before training, to the pairs that the reference finds matching.
        loss: the contrastive loss, a name in `LOSSES`, if the method brings its own; None uses the run's.
        reference: which reference scores: the `large` one, or a `peer` of the student's own architecture (JEST).
        columns: m, number of further pairs that the batch is compared with, by the teacher's cached embeddings.
    """

    name: str
    title: str
    about: str
    score: Score | None = None
    strategy: Strategy = "joint"
    concepts: ByConcepts | None = None
    history: bool = False
    distill: str | None = None
    weight: float = 0.0
    second: str | None = None
    second_weight: float = 0.0
    distill_on: Literal["same", "iid"] = "same"
    contrastive: bool = True
    loss: str | None = None
    filters: bool = False
    reference: Literal["large", "peer"] = "large"
    columns: int = 0

    @property
    def chooses(self) -> bool:
        """Whether batches are chosen from larger super-batches."""
        return self.score is not None or self.concepts is not None or self.history

    @property
    def scores_student(self) -> bool:
        """Whether the student must embed the super-batch before the selection."""
        return self.history or (self._scoring is not None and self._scoring.student != 0)

    @property
    def scores_reference(self) -> bool:
        """Whether the reference's embeddings of the super-batch are needed."""
        return self._scoring is not None and self._scoring.reference != 0

    @property
    def score_of_reference(self) -> Score:
        """The score that uses the reference only: the method's own, or easy-reference."""
        return self.score if self.score is not None and not self.scores_student else "easy-reference"

    @property
    def _scoring(self) -> Scoring | None:
        return SCORES[self.score] if self.score is not None else None

    @property
    def guided(self) -> bool:
        """Whether the contrastive loss uses the reference's embeddings of the same pairs."""
        return self.contrastive and self.loss is not None and LOSSES.find(self.loss).guided

    @property
    def uses_reference(self) -> bool:
        """Whether a reference is needed for anything other than teaching."""
        return self.scores_reference or self.guided or self.filters

    @property
    def needs_large(self) -> bool:
        """Whether the large reference (which is also the teacher) is needed at all."""
        return self.distill is not None or (self.uses_reference and self.reference == "large")

    @property
    def needs_peer(self) -> bool:
        """Whether a reference of the student's own size is needed."""
        return self.uses_reference and self.reference == "peer"

    @property
    def distillations(self) -> list[tuple[str, float]]:
        """The distillation losses, none to two, each with its lambda."""
        pairs = ((self.distill, self.weight), (self.second, self.second_weight))
        return [(name, weight) for name, weight in pairs if name is not None]


_TABLE = (
    Method(name="iid", title="IID", about="random batches, contrastive loss only"),
    Method(
        name="softmax-kd",
        title="Softmax-KD",
        about="random batches, cross-entropy with the teacher's contrastive softmax",
        distill="softmax",
        weight=2.0,
    ),
    Method(
        name="sigmoid-kd",
        title="Sigmoid-KD",
        about="random batches, binary cross-entropy with the teacher's pair probabilities",
        distill="sigmoid",
        weight=2.0,
    ),
    Method(
        name="fm-kd",
        title="FM-KD",
        about="random batches, feature matching with the teacher's embeddings",
        distill="features",
        weight=2.0,
    ),
    Method(
        name="softmax-fm-kd",
        title="Softmax-KD with FM",
        about="Softmax-KD plus feature matching",
        distill="softmax",
        weight=2.0,
        second="features",
        second_weight=2.0,
    ),
    Method(
        name="softmax-sigmoid-kd",
        title="Softmax- and Sigmoid-KD",
        about="Softmax-KD plus Sigmoid-KD",
        distill="softmax",
        weight=2.0,
        second="sigmoid",
        second_weight=2.0,
    ),
    Method(
        name="kd-only",
        title="KD only",
        about="random batches, Softmax-KD without a contrastive loss",
        distill="softmax",
        weight=1.0,
        contrastive=False,
    ),
    Method(
        name="drrho",
        title="DRRho",
        about="random batches, contrastive loss with a margin for each negative, set by the reference",
        loss="drrho",
    ),
    Method(
        name="drrho-kd",
        title="DRRho with KD",
        about="DRRho plus Softmax-KD",
        loss="drrho",
        distill="softmax",
        weight=2.0,
    ),
    Method(
        name="clip-filter",
        title="CLIP filter",
        about="random batches of the best-matching pairs by the reference, filtered from the pool once",
        filters=True,
    ),
    Method(
        name="clip-filter-kd",
        title="CLIP filter with KD",
        about="the CLIP filter plus Softmax-KD on the same batch",
        filters=True,
        distill="softmax",
        weight=2.0,
    ),
    Method(
        name="cabs-dm",
        title="CABS-DM",
        about="pairs that together show as many concepts as possible, each equally often",
        concepts="diversity",
    ),
    Method(
        name="cabs-fm",
        title="CABS-FM",
        about="pairs that show the most concepts",
        concepts="frequency",
    ),
    Method(
        name="dissect",
        title="DISSect",
        about="pairs whose similarity for the student has risen least since the first quarter of the run",
        history=True,
    ),
    Method(
        name="i-acid",
        title="I-ACID",
        about="pairs that are easy for the reference, chosen jointly",
        score="easy-reference",
    ),
    Method(
        name="h-acid",
        title="H-ACID",
        about="pairs that are easy for the reference and hard for the student, chosen jointly",
        score="learnability",
    ),
    Method(
        name="i-aced",
        title="I-ACED",
        about="I-ACID with softmax distillation on the same batch; no scoring pass of the student",
        score="easy-reference",
        distill="softmax",
        weight=2.0,
    ),
    Method(
        name="aced",
        title="ACED",
        about="H-ACID with softmax distillation on the same batch (the paper's ACIDistill)",
        score="learnability",
        distill="softmax",
        weight=2.0,
    ),
    Method(
        name="aced-iidistill",
        title="ACED-IIDistill",
        about="H-ACID with softmax distillation on another, random batch",
        score="learnability",
        distill="softmax",
        weight=2.0,
        distill_on="iid",
    ),
    Method(
        name="columns-kd",
        title="Columns-KD",
        about="Softmax-KD that also compares with the teacher's cached embeddings of further pairs",
        distill="softmax",
        weight=16.0,
        columns=512,
    ),
    Method(
        name="d-aced",
        title="D-ACED",
        about="pairs that differ from each other for the reference, with distillation as in columns-kd; no scoring",
        score="diverse",
        distill="softmax",
        weight=16.0,
        columns=512,
    ),
    Method(
        name="jest",
        title="JEST",
        about="joint learnability with a reference of the student's own size",
        score="learnability",
        reference="peer",
    ),
    Method(
        name="rho-loss",
        title="RHO-LOSS",
        about="the most learnable pairs, without noise, by a small model that was trained on held-out data",
        score="learnability",
        strategy="top-k",
        reference="peer",
    ),
    Method(
        name="h-acid-independent",
        title="H-ACID, independent",
        about="H-ACID with each pair chosen independently of the others",
        score="learnability",
        strategy="independent",
    ),
    Method(
        name="i-acid-independent",
        title="I-ACID, independent",
        about="pairs that are easy for the reference, each chosen independently of the others",
        score="easy-reference",
        strategy="independent",
    ),
    Method(
        name="i-aced-independent",
        title="I-ACED, independent",
        about="I-ACED with each pair chosen independently of the others",
        score="easy-reference",
        strategy="independent",
        distill="softmax",
        weight=2.0,
    ),
    Method(
        name="aced-independent",
        title="ACED, independent",
        about="ACED with each pair chosen independently of the others",
        score="learnability",
        strategy="independent",
        distill="softmax",
        weight=2.0,
    ),
    Method(
        name="hard-student",
        title="Hard-student",
        about="pairs that are hard for the student, regardless of the reference",
        score="hard-student",
    ),
)

METHODS: Table[Method] = Table("method", [(m.name, m) for m in _TABLE])


def get_method(
    name: str,
    *,
    weight: float | None = None,
    second_weight: float | None = None,
    columns: int | None = None,
    loss: str | None = None,
) -> Method:
    """The method of that name, with the lambdas, number of columns or contrastive loss that are given.

    Args:
        name: in `METHODS`.
        weight: lambda.
        second_weight: lambda of the second distillation.
        columns: m.
        loss: for a method without its own; a loss that uses the reference makes the method need one.

    Raises:
        AcedError: there is no such method or loss (names the nearest), a weight for a distillation that the method does
            not have, a weight that is not positive, or columns for a method that does not distil by softmax.
    """
    method = METHODS.find(name)
    if weight is not None:
        _check_weight(name, weight, method.distill, "distils nothing")
        method = replace(method, weight=weight)
    if second_weight is not None:
        _check_weight(name, second_weight, method.second, "has no second distillation")
        method = replace(method, second_weight=second_weight)
    if loss is not None and method.loss is None:
        LOSSES.find(loss)
        method = replace(method, loss=loss)
    if columns is not None:
        if columns and method.distill != "softmax":
            raise AcedError(f"Method '{name}' does not distil by softmax, so columns have no meaning for it.")
        method = replace(method, columns=columns)
    return method


def _check_weight(name: str, weight: float, distillation: str | None, lacks: str) -> None:
    """Raise an AcedError for a lambda that has no meaning."""
    if distillation is None:
        raise AcedError(f"Method '{name}' {lacks}, so a distillation weight has no meaning for it.")
    if not 0 < weight < math.inf:
        raise AcedError(f"The distillation weight must be positive and finite, not {weight}.")


def register_method(method: Method) -> Method:
    """Add a row to the table of methods, so that `method.name` and `aced methods` know it.

    Raises:
        AcedError: the name is taken, or the row names an unknown score, strategy or distillation.
    """
    origin, what = caller(), f"The method '{method.name}'"
    if method.score is not None:
        SCORES.find(method.score)
        if SCORES[method.score].within and method.strategy != "joint":
            raise AcedError(f"{what} has score '{method.score}', which needs strategy='joint'.")
    if method.concepts not in (None, *get_args(ByConcepts)):
        raise AcedError(f"{what} has concepts='{method.concepts}': use one of {', '.join(get_args(ByConcepts))}.")
    if len(ways := [way for way in ("score", "concepts", "history") if getattr(method, way)]) > 1:
        raise AcedError(f"{what} chooses by {' and by '.join(ways)}: keep one of them.")
    if method.filters and method.chooses:
        raise AcedError(f"{what} filters the pool once and chooses at every step: leave out one of them.")
    if method.strategy not in get_args(Strategy):
        raise AcedError(f"{what} has strategy '{method.strategy}': use one of {', '.join(get_args(Strategy))}.")
    if method.loss is not None:
        LOSSES.find(method.loss)
    if method.distill is None and (method.second is not None or not method.contrastive):
        raise AcedError(f"{what} has second='{method.second}' or contrastive=False, but distils nothing: set distill.")
    for name, weight in method.distillations:
        DISTILLATIONS.find(name)
        if not 0 < weight < math.inf:
            raise AcedError(f"{what} distils with weight {weight}: give a positive one.")
    if method.columns and method.distill != "softmax":
        raise AcedError(f"{what} has columns, which only distillation by softmax compares with: leave them out.")
    METHODS.add(method.name, method, origin)
    return method
