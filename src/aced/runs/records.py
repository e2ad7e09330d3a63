"""Records of runs: the forms of `results.json` and of the files in run folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator

BUDGETS = ("samples_trained", "samples_loaded", "flops", "seconds")
"""The four budgets on which methods are compared, in the order of tables and charts."""


class TaskFaults(BaseModel):
    """How many images of a task have a fault, and one of them."""

    images: int
    example: str = ""


class TaskScore(BaseModel):
    """A task's score: `value` and `chance` in [0, 1]; `n` scored queries; faults of images by name."""

    value: float
    chance: float | None = None
    n: int | None = None
    left_out: dict[str, TaskFaults] = {}
    odd: dict[str, TaskFaults] = {}


class ResultRow(BaseModel):
    """One finished run in `results.json`; `average` in percent, `clean_share` in [0, 1]."""

    method: str
    title: str = ""
    seed: int = 0
    average: float | None = None
    tasks: dict[str, TaskScore] = {}
    budgets: dict[str, float] = {}
    clean_share: float | None = None
    run: str = ""
    failed: dict[str, str] = {}
    """Tasks that could not be scored, and why; `average` is over the others."""
    embedding: dict[str, float] | None = None
    """The cost of making the cached embeddings that the run used: `samples`, `seconds`, `flops`, `bytes`."""


class ReferenceScore(BaseModel):
    """The frozen reference: its scores and its cost; `trained_on` names the machine if another run trained it."""

    average: float | None = None
    tasks: dict[str, TaskScore] = {}
    train_seconds: float | None = None
    embed_seconds: float | None = None
    train_flops: float | None = None
    embed_flops: float | None = None
    trained_on: str | None = None


class Results(BaseModel):
    """`results.json`."""

    rows: Annotated[list[ResultRow], Field(min_length=1)]
    reference: ReferenceScore | None = None
    environment: dict[str, Any] = {}
    summary: list[str] = []


class Means(BaseModel):
    """Mean score of a super-batch's candidates and of the chosen ones."""

    pool: float
    chosen: float


class Kinds(BaseModel):
    """Number of chosen pairs of each kind, and number of candidates of each kind."""

    chosen: dict[str, float] = {}
    pool: dict[str, float] = {}


class Samples(BaseModel):
    """Number of samples in the source, how many were read, and how many of these could not be used."""

    total: int
    read: int
    unreadable: int


class LineClock(BaseModel):
    """When the process that wrote a line started training, and when it wrote the line; Unix time."""

    started: float
    written: float


class StepLine(BaseModel):
    """A line of `metrics.jsonl`; `budgets`, `flops`, `seconds`, `faults` and `samples` are running totals."""

    step: int
    steps: int | None = None
    loss: float | None = None
    contrastive: float | None = None
    kd: float | None = None
    lr: float | None = None
    learnability: Means | None = None
    budgets: dict[str, float] = {}
    flops: dict[str, float] = {}
    seconds: dict[str, float] = {}
    kinds: Kinds | None = None
    faults: dict[str, float] = {}
    samples: Samples | None = None
    clock: LineClock | None = None


class EvalLine(BaseModel):
    """A line of `evals.jsonl`; `average` in percent, over the tasks that could be scored."""

    step: int
    average: float | None = None
    tasks: dict[str, TaskScore] = {}
    failed: dict[str, str] = {}
    budgets: dict[str, float] = {}


def inline_image(value: str) -> str:
    """The value, if it is an inline image: anything else would make the page fetch something."""
    if not value.startswith("data:image/"):
        raise ValueError("not an inline image (data:image/...)")
    return value


class Pair(BaseModel):
    """A pair of the gallery."""

    image: str
    caption: str
    score: float | None = None
    kind: str | None = None

    _inline = field_validator("image")(inline_image)


class Gallery(BaseModel):
    """The most and the least learnable pairs."""

    most: list[Pair] = []
    least: list[Pair] = []


@dataclass(frozen=True)
class RunRecord:
    """The content of a run folder.

    Attributes:
        folder: its path.
        config: the resolved config as a nested dict.
        config_text: the same as text.
        steps: the logged steps, ascending.
        evals: evaluations during training, ascending; often none.
        gallery: the most and least learnable pairs, if the run wrote them.
        row: the run's own row of results, if its folder has a `results.json`.
    """

    folder: Path
    config: dict[str, Any]
    config_text: str
    steps: list[StepLine]
    evals: list[EvalLine] = field(default_factory=list)
    gallery: Gallery | None = None
    row: ResultRow | None = None

    @property
    def method(self) -> str:
        """The method's name in the config."""
        return str(_section(self.config, "method").get("name", "run"))

    @property
    def seed(self) -> int:
        """The run's seed in the config."""
        seed = _section(self.config, "run").get("seed", 0)
        return seed if isinstance(seed, int) else 0


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}
