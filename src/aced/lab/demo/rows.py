"""The demo's sizes, settings and table rows.

Everything here was fixed on IID and reference runs on the validation split before any method was scored on the test
split; LOG.md records when and how.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aced.config import Config, make_config
from aced.errors import AcedError, nearest
from aced.methods import METHODS, get_method

STUDENT, REFERENCE = "aced-demo-s", "aced-demo-l"
REFERENCE_COST = 5.7
"""Approximate cost of the reference's forward pass relative to the student's; only for the time left."""
LR, REFERENCE_LR, TEMPERATURE = 1e-3, 1.5e-3, 0.1
WALL_OF = "aced"
"""The row whose wall time the rows with `wall` receive."""


@dataclass(frozen=True)
class Scale:
    """The size of a demo."""

    pool: int = 24_000
    curated: int = 24_000
    steps: int = 400
    reference_steps: int = 5000
    log_every: int = 10


FULL = Scale()
QUICK = Scale(pool=4_000, curated=4_000, steps=40, reference_steps=60, log_every=2)


@dataclass(frozen=True)
class DemoRow:
    """One row of the table.

    Attributes:
        name: in results.json and for `--methods`.
        title: in tables.
        method: the row of the methods table.
        weight: lambda, if not the method's own.
        factor: length in multiples of the demo's steps.
        wall: as long as ACED takes by the clock; `factor` is then measured.
    """

    name: str
    title: str
    method: str
    weight: float | None = None
    factor: float = 1.0
    wall: bool = False

    @property
    def timed_by(self) -> str:
        """The row whose measured step time determines how many steps fit into ACED's wall time."""
        return self.method


# A method that distils on another batch trains on twice as many samples per step: its own row takes half the steps.
_LONGER = (
    DemoRow("aced-iidistill-longer", "ACED-IIDistill, twice the samples", "aced-iidistill"),
    DemoRow("iid-longer", "IID, 4x longer", "iid", factor=4.0),
    DemoRow("iid-wall", "IID at ACED's wall time", "iid", wall=True),
    DemoRow("softmax-kd-wall", "Softmax-KD at ACED's wall time", "softmax-kd", wall=True),
    DemoRow("softmax-kd-4-wall", "Softmax-KD (lambda 4) at ACED's wall time", "softmax-kd", weight=4.0, wall=True),
    DemoRow("softmax-kd-16-wall", "Softmax-KD (lambda 16) at ACED's wall time", "softmax-kd", weight=16.0, wall=True),
    DemoRow("i-aced-wall", "I-ACED at ACED's wall time", "i-aced", wall=True),
    DemoRow("columns-kd-wall", "Columns-KD at ACED's wall time", "columns-kd", wall=True),
    DemoRow("d-aced-wall", "D-ACED at ACED's wall time", "d-aced", wall=True),
)
ROWS: dict[str, DemoRow] = {
    **{
        m.name: DemoRow(m.name, m.title, m.name, factor=1.0 if m.distill_on == "same" else 0.5)
        for m in METHODS.values()
    },
    **{row.name: row for row in _LONGER},
}
DEFAULT = ("iid", "softmax-kd", "i-acid", "h-acid", "i-aced", "aced", "columns-kd", "d-aced")


def choose_rows(methods: str | None) -> list[DemoRow]:
    """The rows of a `--methods` argument, preceded by the rows that they are measured against.

    Raises:
        AcedError: an unknown name (names the nearest).
    """
    names = list(DEFAULT) if methods is None else list(ROWS) if methods == "all" else methods.split(",")
    names = [name.strip() for name in names if name.strip()]
    for name in names:
        if name not in ROWS:
            raise AcedError(f"There is no method '{name}'.{nearest(name, ROWS)}")
    if not names:
        raise AcedError("No method is named; write --methods iid,aced or --methods all.")
    needed = dict.fromkeys(n for name in names if ROWS[name].wall for n in (ROWS[name].timed_by, WALL_OF))
    wanted = dict.fromkeys([*needed, *names])
    return [ROWS[name] for name in ROWS if name in wanted]


def reference_model(row: DemoRow) -> str | None:
    """The architecture of the reference that a row needs; None for none."""
    method = get_method(row.method)
    return STUDENT if method.needs_peer else REFERENCE if method.needs_large else None


def student_config(row: DemoRow, seed: int, scale: Scale, out: Path, *, split: str, steps: int | None = None) -> Config:
    """The config of one row: the same for all but method, length and seed."""
    return make_config(
        {
            "run": {"out": str(out), "seed": seed, "log_every": scale.log_every, "checkpoint_every": 0},
            "data": {"scenes": "pool", "scenes_size": scale.pool},
            "student": {"model": STUDENT},
            "reference": {"model": reference_model(row) or REFERENCE},
            "method": {"name": row.method, "weight": row.weight, "temperature": TEMPERATURE},
            "train": {"steps": steps or round(scale.steps * row.factor), "batch": 64, "lr": LR},
            "eval": {"split": split},
        },
        f"demo row {row.name}",
    )


def reference_config(model: str, scale: Scale, out: Path, *, split: str) -> Config:
    """The config of the reference: a model trained on clean pairs only."""
    return make_config(
        {
            "run": {"out": str(out), "seed": 1000, "log_every": scale.log_every, "checkpoint_every": 0},
            "data": {"scenes": "curated", "scenes_size": scale.curated, "scenes_seed": 2},
            "student": {"model": model},
            "method": {"name": "iid"},
            "train": {"steps": scale.reference_steps, "batch": 64, "lr": REFERENCE_LR},
            "eval": {"split": split},
        },
        f"demo reference {model}",
    )
