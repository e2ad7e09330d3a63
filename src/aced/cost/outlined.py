"""The models of a run as outlines: shapes and the cost of a forward pass, without weights."""

from __future__ import annotations

from dataclasses import dataclass

from aced.config import Config
from aced.config.sections import TowerSection
from aced.errors import AcedError
from aced.models import Tower, outline
from aced.models.flops import Flops
from aced.models.locking import lock
from aced.registry.makers import TOWERS
from aced.train.run.frozen import frozen_models, frozen_section, teachers_of
from aced.train.run.given import GIVEN
from aced.train.run.scoring_plan import make_partly


@dataclass(frozen=True)
class Outlined:
    """One model of a run.

    Attributes:
        key: the config's section, such as `student` or `teacher 1`.
        section: that section.
        tower: on the meta device.
        tokens: length of every text, in tokens.
        flops: of one forward pass per pair.
        cached: whether its embeddings are looked up instead of computed.
    """

    key: str
    section: TowerSection
    tower: Tower
    tokens: int
    flops: Flops
    cached: bool = False

    @property
    def forward(self) -> float:
        """FLOPs of one forward pass per pair."""
        return float(self.flops.total)


@dataclass(frozen=True)
class Models:
    """All models of a run.

    Attributes:
        student: the model to train.
        reference: scores the super-batch, guides the loss or filters the pool; None if unused.
        teachers: models to distil; the reference may be among them, as the same object.
    """

    student: Outlined
    reference: Outlined | None
    teachers: list[Outlined]

    @property
    def frozen(self) -> list[Outlined]:
        """Reference and teachers, each once."""
        both = [self.reference] if self.reference is not None else []
        return [*both, *(one for one in self.teachers if one is not self.reference)]


def outlined(config: Config, text_tokens: int | None) -> Models:
    """The models of a run.

    Args:
        config: the run's.
        text_tokens: length of texts; None uses each model's maximum.

    Raises:
        AcedError: an architecture is unknown, would need a download, or is made by your own code; or it cannot be
            locked or process smaller images as the config says.
    """
    student = _outline("student", config.student, text_tokens)
    lock(student.tower, config.train.lock)
    student.tower.partly = make_partly(config, student.tower)
    frozen = {}
    for name in frozen_models(config):
        section = frozen_section(name, config)
        frozen[name] = _outline(name, section, text_tokens, cached=bool(section.cache))
    reference = frozen["reference"] if config.row.uses_reference else None
    return Models(student, reference, [frozen[name] for name in teachers_of(config)])


def _outline(key: str, section: TowerSection, text_tokens: int | None, *, cached: bool = False) -> Outlined:
    where = f"{key.partition(' ')[0]}.model"
    if section.model == GIVEN or section.model in TOWERS:
        raise AcedError(
            f"{where} = '{section.model}' is made by code, which 'aced cost' does not run: name an "
            f"architecture of that size, as in {where}=ViT-B-32."
        )
    try:
        tower = outline(section.model)
    except AcedError as error:
        error.add_note(f"'aced cost' needs only the architecture: if the model does not exist yet, use {where}=NAME.")
        raise
    longest = tower.context_length
    tokens = min(text_tokens or longest, longest)
    return Outlined(key, section, tower, tokens, tower.flops(tokens), cached)
