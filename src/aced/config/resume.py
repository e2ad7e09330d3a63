"""Keys that a resumed run may change: a mark on each key of the config, beside its type."""

from __future__ import annotations

from enum import Enum


class Resume(Enum):
    """How `--resume` treats a key. A key without a mark decides what is computed and must stay the same.

    Attributes:
        FREE: does not change what the run computes.
        ROUNDING: changes the last bits at most, which the run reports.
        PLACE: a location; it may move if its content stays the same. It cannot be added or removed.
        MODEL: names a model; another name or place is accepted if the model is the same.
    """

    FREE = "may change"
    ROUNDING = "may change; figures then agree closely but not bit for bit"
    PLACE = "may move; same content"
    MODEL = "may move; same model"


FREE, ROUNDING, PLACE, MODEL = Resume.FREE, Resume.ROUNDING, Resume.PLACE, Resume.MODEL
