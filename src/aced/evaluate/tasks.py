"""The kinds of zero-shot tasks, as data. Scenes and task folders on disk make them; `zeroshot` scores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from aced.evaluate.evidence import Evidence
from aced.evaluate.image_faults import ImageFaults
from aced.pool.views import View

ReadImages = Callable[[View], Tensor]
"""Returns all images of a task in one view: `[n, 3, size, size]` uint8.

Optional attributes make large data sets cheap (`aced.evaluate.tar_images.TarImages` has them): `parts(view, spans,
loading, keep=...)` with `len()`, the images of some ranges of positions each with its `ImageFaults`, without ever
holding them all (lost images are there as pixels, but are not scored); and `fingerprint`, a string that is the same for
the same images, under which their embeddings are remembered.
"""


@dataclass(frozen=True)
class GroupScores:
    """Accuracy by groups of samples, after DataComp's WILDS and fairness tasks.

    Attributes:
        metadata: `[n, F]` int64, one row for each image.
        fields: names of the F columns.
        group_by: for each grouping, its columns; every combination of values that occurs is a group.
        top: 1 or 5: whether a group's accuracy is top-1 or top-5.
        macro: whether recall and F1 over classes are also scored (iWildCam).
    """

    metadata: Tensor
    fields: Sequence[str]
    group_by: Sequence[Sequence[str]]
    top: Literal[1, 5] = 1
    macro: bool = False


@dataclass(frozen=True)
class Classification:
    """Zero-shot classification: the class whose prompt embedding is nearest to the image.

    Attributes:
        name: unique name of the task.
        images: loads the n images in a view.
        labels: `[n]` int64 indices into `classes`.
        classes: class names.
        templates: prompts with `{c}` where the class name goes; their normalised embeddings are averaged.
        chance: score of guessing, in [0, 1].
        main_metric: the metric that is the task's value: `acc1`, `acc5`, `mean_per_class_recall`, or one of the
            groups' (`acc_wg`, ...).
        groups: how the images are grouped, for tasks scored by group.
    """

    name: str
    images: ReadImages
    labels: Tensor
    classes: Sequence[str]
    templates: Sequence[str]
    chance: float
    main_metric: str = "acc1"
    groups: GroupScores | None = None


@dataclass(frozen=True)
class Multilabel:
    """Zero-shot classification with any number of labels for an image; scored by mean average precision.

    Attributes:
        name: unique name of the task.
        images: loads the n images in a view.
        labels: `[n, C]` bool.
        classes: the C class names.
        templates: prompts with `{c}`.
        chance: mean average precision of guessing: the share of images with a class, averaged over the classes.
    """

    name: str
    images: ReadImages
    labels: Tensor
    classes: Sequence[str]
    templates: Sequence[str]
    chance: float
    main_metric: str = "mean_average_precision"


@dataclass(frozen=True)
class Retrieval:
    """Retrieval among n images and their captions, in one direction or in both; scored by recall.

    Attributes:
        name: unique name of the task.
        images: loads the n images in a view.
        captions: one or more captions for each image.
        direction: `image_to_text` or `text_to_image`, whose value is recall@1; or `both`, whose value is the mean
            of the two.
        chance: recall@1 of guessing, in [0, 1].
    """

    name: str
    images: ReadImages
    captions: Sequence[Sequence[str]]
    direction: Literal["image_to_text", "text_to_image", "both"]
    chance: float


@dataclass(frozen=True)
class CaptionSelection:
    """Image-caption selection: in each of n small sets, every image must find its caption and the reverse.

    One image and several captions, the first of which is right, is SugarCrepe's form; two images and two captions,
    the i-th of each belonging together, Winoground's.

    Attributes:
        name: unique name of the task.
        images: loads the n * I images in a view, set after set.
        captions: C captions for each set.
        images_per_set: I.
        chance: share of sets in which guessing is right throughout, in [0, 1].
    """

    name: str
    images: ReadImages
    captions: Sequence[Sequence[str]]
    images_per_set: int
    chance: float


@dataclass(frozen=True)
class Association:
    """A cue and several candidate images, of which k belong to it: WinoGAViL's form; scored by the Jaccard index.

    Attributes:
        name: unique name of the task.
        images: loads all candidates in a view, set after set.
        cues: the text of each of n sets.
        associated: for each set, for each candidate, whether it belongs to the cue.
        chance: score of guessing k of the candidates, in [0, 1].
        main_metric: `avg_jaccard_score`, or `jaccard_score_10-12`, over the sets of 10 candidates and more.
    """

    name: str
    images: ReadImages
    cues: Sequence[str]
    associated: Sequence[Sequence[bool]]
    chance: float
    main_metric: str = "avg_jaccard_score"


@dataclass(frozen=True)
class Attributes:
    """Faces with several attributes at once, each with its own classes and templates (FairFace, UTKFace).

    Attributes:
        name: unique name of the task.
        images: loads the n images in a view.
        metadata: `[n, 4]` int64: age, gender, race and whether the race is another than the first (0 or 1).
        classes: class names for each attribute: race, gender, age, toxic.
        templates: templates for each attribute.
        chance: score of guessing, in [0, 1].
    """

    name: str
    images: ReadImages
    metadata: Tensor
    classes: Mapping[str, Sequence[str]]
    templates: Mapping[str, Sequence[str]]
    chance: float


Task = Classification | Multilabel | Retrieval | CaptionSelection | Association | Attributes


@dataclass(frozen=True)
class TaskResult:
    """A task's score.

    Attributes:
        value: of the main metric, in [0, 1].
        chance: of guessing, in [0, 1].
        n: scored queries.
        metric: name of the main metric.
        stderr: standard error of `value` from the finite number of samples; None if unknown.
        stderr_by: `binomial` or `bootstrap`.
        metrics: every metric of the task by CLIP_benchmark's and DataComp's names; None if undefined.
        evidence: the main metric sample by sample, for paired comparisons; not part of equality or JSON.
        faults: images left out because they are unreadable, and unusual ones that were scored.
    """

    value: float
    chance: float
    n: int
    metric: str
    stderr: float | None = field(default=None, compare=False)
    stderr_by: str = field(default="", compare=False)
    metrics: Mapping[str, float | None] = field(default_factory=dict, compare=False)
    evidence: Evidence | None = field(default=None, compare=False, repr=False)
    faults: ImageFaults = field(default_factory=ImageFaults, compare=False)


def as_json(results: Mapping[str, TaskResult]) -> dict[str, dict[str, Any]]:
    """Task results in the form of results.json and evals.jsonl."""
    return {name: result_json(result) for name, result in results.items()}


def result_json(result: TaskResult) -> dict[str, Any]:
    """One result without its evidence; `left_out` and `odd` only where there are such images."""
    return {
        "value": result.value,
        "chance": result.chance,
        "n": result.n,
        "metric": result.metric,
        "stderr": result.stderr,
        "stderr_by": result.stderr_by,
        "metrics": dict(result.metrics),
        **result.faults.as_json(),
    }
