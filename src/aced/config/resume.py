"""What a resumed run may change: a mark on each key of the config, beside its type."""

from __future__ import annotations

from enum import Enum


class Resume(Enum):
    """What `--resume` asks of a key. A key without such a mark decides what is computed and must be the same.

    Attributes:
        FREE: changes nothing in what the run computes.
        ROUNDING: changes the last bits at most, which is said.
        PLACE: where something lies: it may move, and its content must be the same. It cannot be added or left out.
        MODEL: names a model: another name or place is right where it is the same model.
    """

    FREE = "may change"
    ROUNDING = "may change; figures then agree closely, not to the bit"
    PLACE = "may move; the same content"
    MODEL = "may move; the same model"


FREE, ROUNDING, PLACE, MODEL = Resume.FREE, Resume.ROUNDING, Resume.PLACE, Resume.MODEL
