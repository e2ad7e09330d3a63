"""The three experiments of `objectives.py`: captions of scenes, captions of photos, and classes of photos.

Each has a noisy pool, samples that are trusted for one or more references, others for validation, and a test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from objective_students import Captioner, Classifier, Samples, Student, encoded, measured, write
from torch import Tensor

from aced.errors import AcedError
from aced.evaluate.task_folders import load_task_folder
from aced.evaluate.tasks import Classification, Retrieval
from aced.lab.lit.scenes_vqa import make_scenes_examples
from aced.lab.lit.text_metrics import cider_d
from aced.lab.lit.words import Vocabulary, split_words
from aced.lab.scenes import make_curated, make_pool
from aced.pool.loader.reading import read_all
from aced.pool.shards import open_shards
from aced.pool.source import SOUND_KINDS
from aced.pool.views import View

COLLECTIONS = ("cifar10", "tiny_imagenet")
"""Collections with classes that the classifier learns, in the order of its outputs."""
VIEW = View(32)
WRITTEN = 300
"""Test pictures about which a caption is written."""
LEAST = 5
"""How often a word of the pool occurs at least to be a word of the captioner."""
FOLDS = 5
"""Parts of the curated pairs: one tests captions, one validates, the others teach the reference."""
SIZE = "aced_stem_vit_s"

Judge = Callable[[Student], dict[str, float]]


@dataclass(frozen=True, eq=False)
class Experiment:
    """One objective on one pool.

    Attributes:
        name: in results.
        pool: the noisy samples.
        references: what each reference learns from, by its name.
        validation: trusted samples on which settings are chosen.
        build: a student with initial weights of a seed; references are built by it too.
        validate, test: scores of a student.
        goal: the score that settings are chosen by, and that is compared with random batches.
        sign: 1 if a greater score is the better one, else -1.
    """

    name: str
    pool: Samples
    references: dict[str, Samples]
    validation: Samples
    build: Callable[[int], Student]
    validate: Judge
    test: Judge
    goal: str
    sign: int


@dataclass(frozen=True, eq=False)
class Photos:
    """Pairs of tars: `[n, 3, 32, 32]` uint8 images, and for each its caption, collection, class and kind."""

    images: Tensor
    texts: list[str]
    sources: list[str]
    labels: list[str | None]
    kinds: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def only(self, rows: Sequence[int]) -> Photos:
        """Some of the pairs."""
        lists = (self.texts, self.sources, self.labels, self.kinds)
        return Photos(self.images[torch.tensor(rows)], *([values[i] for i in rows] for values in lists))  # type: ignore[arg-type]

    @property
    def sound(self) -> Tensor:
        """`[n]` whether image and caption are both right."""
        return torch.tensor([kind in SOUND_KINDS for kind in self.kinds])


def read_photos(path: Path, index: Path) -> Photos:
    """All readable pairs of a folder of tars; the tars' indexes are kept in `index`."""
    shards = open_shards([str(path)], index_dir=index)
    rows: list[int] = []
    images, texts = [], []
    for _, part in read_all(shards, [VIEW], chunk=1024):
        rows += part.indices.tolist()
        texts += list(part.texts)
        images.append(part.images[VIEW])
    sources, labels, kinds = (shards.fields_at(name, rows) for name in ("source", "label", "kind"))
    named = [None if label is None else str(label) for label in labels]
    return Photos(torch.cat(images), texts, [str(one) for one in sources], named, [str(one) for one in kinds])


def folds(n: int, seed: int = 0) -> list[list[int]]:
    """`FOLDS` random parts of n rows."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return [order[at::FOLDS] for at in range(FOLDS)]


# -- captions ------------------------------------------------------------------------------------------------


def caption_scores(student: Student, samples: Samples) -> dict[str, float]:
    """Mean loss, and percent of words that are the likeliest after the right words before them."""
    loss, right = measured(student, samples)
    return {"loss": float(loss.mean()), "words": 100 * float(right.mean())}


def scenes_experiment(options: Any) -> Experiment:
    """Captions of built-in scenes: a noisy pool, a clean reference, LiT's validation and test scenes."""
    in_pool, in_curated, in_test = options.scenes
    pool, curated = make_pool(in_pool, 0), make_curated(in_curated, 0)
    held = {split: make_scenes_examples(in_test, split, 0)[0] for split in ("validation", "test")}
    words = Vocabulary.build(pool.captions, [], LEAST)

    def samples(images: Tensor, texts: list[str], kinds: Sequence[str]) -> Samples:
        return Samples(images, encoded(texts, words), torch.tensor([kind in SOUND_KINDS for kind in kinds]))

    tests = {
        split: samples(one.source.pixels, [texts[0] for texts in one.texts], ["clean"] * len(one))  # type: ignore[attr-defined]
        for split, one in held.items()
    }
    right = [texts[1:] for texts in held["test"].texts[:WRITTEN]]

    def test(student: Student) -> dict[str, float]:
        said = write(student, words, tests["test"].images[:WRITTEN])  # type: ignore[arg-type]
        return caption_scores(student, tests["test"]) | {"cider": cider_d(said, right)}

    return Experiment(
        "captions of scenes",
        samples(pool.pixels, pool.captions, pool.kinds or ()),
        {"curated": samples(curated.pixels, curated.captions, curated.kinds or ())},
        tests["validation"],
        lambda seed: Captioner(len(words), SIZE, seed),
        lambda student: caption_scores(student, tests["validation"]),
        test,
        goal="loss",
        sign=-1,
    )


def photos_experiment(options: Any) -> Experiment:
    """Captions of photos: a noisy pool, a reference on curated pairs, tests on held-out ones and on Flickr8k."""
    pool, curated = (read_photos(path, options.work / "index") for path in (options.photos, options.curated))
    parts = folds(len(curated))
    words = Vocabulary.build(pool.texts, [], LEAST)

    def samples(photos: Photos) -> Samples:
        return Samples(photos.images, encoded(photos.texts, words), photos.sound)

    last, validation = curated.only(parts[0]), samples(curated.only(parts[1]))
    held = samples(last)
    named = last.only([i for i, label in enumerate(last.labels) if label is not None][:WRITTEN])
    task = next(one for one in load_task_folder(options.eval / "wds_flickr8k") if isinstance(one, Retrieval))
    flickr, right = task.images(VIEW)[:WRITTEN], list(task.captions)[:WRITTEN]

    def test(student: Student) -> dict[str, float]:
        said = write(student, words, torch.cat([named.images, flickr]))  # type: ignore[arg-type]
        hits = [names(text, str(label)) for text, label in zip(said, named.labels, strict=False)]
        own = {"named": 100 * sum(hits) / len(hits), "cider": cider_d(said[len(named) :], right)}
        return caption_scores(student, held) | own

    return Experiment(
        "captions of photos",
        samples(pool),
        {"curated": samples(curated.only([i for part in parts[2:] for i in part]))},
        validation,
        lambda seed: Captioner(len(words), SIZE, seed),
        lambda student: caption_scores(student, validation),
        test,
        goal="loss",
        sign=-1,
    )


def names(text: str, label: str) -> bool:
    """Whether a text holds the words of a class, in their order and in a row."""
    said, wanted = split_words(text), split_words(label)
    return any(said[at : at + len(wanted)] == wanted for at in range(len(said) - len(wanted) + 1))


# -- classes -------------------------------------------------------------------------------------------------


def classes_experiment(options: Any) -> Experiment:
    """Classes of two collections, of which a share of the pool's is wrong; tests are the collections' own."""
    kept = [read_photos(path, options.work / "index") for path in (options.photos, options.curated, options.more)]
    pool, curated, more = (
        photos.only([i for i, source in enumerate(photos.sources) if source in COLLECTIONS]) for photos in kept
    )
    tests = {name: _task(options.eval / f"wds_{name}") for name in COLLECTIONS}
    classes = {name: list(task.classes) for name, task in tests.items()}
    start = {COLLECTIONS[0]: 0, COLLECTIONS[1]: len(classes[COLLECTIONS[0]])}

    def true(photos: Photos) -> Samples:
        pairs = zip(photos.sources, photos.labels, strict=True)
        targets = torch.tensor([start[source] + classes[source].index(str(label)) for source, label in pairs])
        return Samples(photos.images, targets, torch.ones(len(photos), dtype=torch.bool))

    spans = {name: (start[name], start[name] + len(classes[name])) for name in COLLECTIONS}
    whole = torch.cat([task.images(VIEW) for task in tests.values()])
    labels = torch.cat([task.labels + start[name] for name, task in tests.items()])
    test = Samples(whole, labels, torch.ones(len(whole), dtype=torch.bool))
    parts = folds(len(curated))
    validation = true(curated.only([*parts[0], *parts[1]]))
    return Experiment(
        "classes of photos",
        spoilt(true(pool), list(spans.values()), options.spoilt),
        {"curated": true(curated.only([i for part in parts[2:] for i in part])), "larger": true(more)},
        validation,
        lambda seed: Classifier(sum(map(len, classes.values())), SIZE, seed),
        lambda student: class_scores(student, validation, spans),
        lambda student: class_scores(student, test, spans),
        goal="average",
        sign=1,
    )


def _task(folder: Path) -> Classification:
    found = load_task_folder(folder)[0]
    if not isinstance(found, Classification):
        raise AcedError(f"{folder} is no task with classes.")
    return found


def spoilt(samples: Samples, spans: Sequence[tuple[int, int]], share: float, seed: int = 0) -> Samples:
    """The samples with exactly this share of the classes replaced, each by another one of its collection.

    Args:
        samples: with classes.
        spans: first class of each collection, and the one after its last.
        share: in [0, 1].
        seed: of the choice.
    """
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(samples), generator=draw)[: round(share * len(samples))]
    targets, sound = samples.targets.clone(), samples.sound.clone()
    sound[wrong] = False
    u = torch.rand(len(samples), generator=draw)
    for first, end in spans:
        rows = wrong[(targets[wrong] >= first) & (targets[wrong] < end)]
        moved = 1 + (u[rows] * (end - first - 1)).long()
        targets[rows] = first + (targets[rows] - first + moved) % (end - first)
    return Samples(samples.images, targets, sound)


@torch.no_grad()
def class_scores(student: Student, samples: Samples, spans: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Percent right among the classes of a collection, for each, and their mean; and the mean loss over all classes."""
    logits = torch.cat([student(some, some.new_zeros(len(some)))[0][:, 0] for some in samples.images.split(512)])
    found = {}
    for name, (first, end) in spans.items():
        own = (samples.targets >= first) & (samples.targets < end)
        hits = logits[own, first:end].argmax(dim=1) + first == samples.targets[own]
        found[name] = 100 * float(hits.float().mean())
    loss = torch.nn.functional.cross_entropy(logits, samples.targets)
    return {"average": sum(found.values()) / len(found), **found, "loss": float(loss)}


EXPERIMENTS: dict[str, Callable[[Any], Experiment]] = {
    "scenes": scenes_experiment,
    "photos": photos_experiment,
    "classes": classes_experiment,
}
