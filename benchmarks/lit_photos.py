"""Captions and questions on photos for `benchmarks/lit.py`, made from labelled pairs and tasks: the same at every call.

    python benchmarks/lit_photos.py --pairs data/webmix-curated data/webmix data/webmix-more --eval data/eval \\
        --out runs/lit-photos

**OUT/captions** has the clean pairs of `--pairs` whose captions people wrote (`--captions`), to train on; the test is
the retrieval task of the same collection. One picture may come twice, with two of its captions.

**OUT/questions** is laid out as easy-VQA is: `train` and `test`, each with `questions.json` and `images`. Every
collection with at most `--classes` classes and a task of its name takes part, with up to `--pictures` pictures to
train on, their true labels read whatever their captions say, and all pictures of its task to test on. A picture has two
questions: which class it shows, whose words name the collection's kind of thing, and whether it shows a class, which is
its own half of the time. The wrong class is that of another picture of the collection, so that classes occur as often
in questions to be answered with no as in those with yes.

No training picture is one of a task, as far as pairs and tasks do not overlap; near copies in the pairs are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pool_tars import Pair, read_pairs, write_pool

from aced.errors import AcedError
from aced.evaluate.tar_samples import read_lines, read_member, read_samples
from aced.files.atomic import folder_atomic, write_atomic

THINGS = {"dtd10": "texture", "mnist": "digit", "sign_digits": "sign", "tf_flowers": "flower"}
"""What the question of a collection asks for; `thing` elsewhere."""

Pictures = list[tuple[bytes, str]]
"""Bytes of image files, each with its label."""


def all_pairs(places: Sequence[str]) -> list[Pair]:
    """The pairs of all places, without near copies; their keys may be the same in two of them, so each is told apart.

    Raises:
        AcedError: a place has no pairs, or cannot be read.
    """
    return [
        pair.but(key=f"{number}/{pair.about['key']}")
        for number, place in enumerate(places)
        for pair in read_pairs([place])
        if pair.about["kind"] != "duplicate"
    ]


def captions(pairs: Sequence[Pair], source: str) -> list[Pair]:
    """The clean pairs of a collection.

    Raises:
        AcedError: there is none.
    """
    found = [pair for pair in pairs if pair.about["source"] == source and pair.about["kind"] == "clean"]
    if not found:
        raise AcedError(f"--pairs have no clean pair of '{source}', whose captions --captions asks for.")
    return found


def draws(*words: str) -> np.random.Generator:
    """Random numbers for one purpose."""
    return np.random.default_rng(list(hashlib.sha256(" ".join(words).encode()).digest()))


def labelled(pairs: Sequence[Pair], source: str, most: int) -> Pictures:
    """Up to `most` pictures of a collection, drawn at random."""
    found = [pair for pair in pairs if pair.about["source"] == source]
    order = draws("pictures", source).permutation(len(found))[:most]
    return [(found[at].image, str(found[at].about["label"])) for at in sorted(order.tolist())]


def tested(task: Path) -> Pictures:
    """The pictures of a classification task.

    Raises:
        AcedError: it is damaged, or a label is no class of it.
    """
    classes, found = read_lines(task / "classnames.txt"), []
    for sample in read_samples(task, ["cls"]):
        number = sample.text("cls")
        if not (number.isdecimal() and int(number) < len(classes)):
            raise AcedError(f"{sample}: its class is '{number}', and {task} has {len(classes)} of them.")
        found.append((read_member(sample.tar, sample.images[0]), classes[int(number)]))
    return found


def questions(pictures: Pictures, source: str, split: str) -> list[tuple[str, str, int]]:
    """Two questions a picture: (question, answer, place of the picture)."""
    thing, draw, found = THINGS.get(source, "thing"), draws("questions", source, split), []
    labels = [label for _, label in pictures]
    for at, label in enumerate(labels):
        found.append((f"which {thing} is it?", label, at))
        asked = label
        if draw.random() < 0.5:
            others = [other for other in labels if other != label]
            asked = others[int(draw.integers(len(others)))] if others else label
        found.append((f"is it the {thing} {asked}?", "yes" if asked == label else "no", at))
    return found


def write_questions(folder: Path, sets: dict[str, Pictures], split: str) -> None:
    """Write `questions.json` and `images` of a split."""
    asked, first, images = [], 0, folder / split / "images"
    images.mkdir(parents=True)
    for source, pictures in sets.items():
        asked += [(question, answer, first + at) for question, answer, at in questions(pictures, source, split)]
        for at, (content, _) in enumerate(pictures):
            Image.open(io.BytesIO(content)).convert("RGB").save(images / f"{first + at}.png")
        first += len(pictures)
    write_atomic(folder / split / "questions.json", json.dumps(asked))


def collections(pairs: Sequence[Pair], tasks: Path, most: int) -> list[str]:
    """Names of the collections with labels, and a task of at most so many classes.

    Raises:
        AcedError: there is none.
    """
    names = sorted({str(pair.about["source"]) for pair in pairs if pair.about["label"] is not None})
    files = {name: tasks / f"wds_{name}" / "classnames.txt" for name in names}
    found = [name for name, file in files.items() if file.is_file() and len(read_lines(file)) <= most]
    if not found:
        raise AcedError(f"{tasks} has no task of at most {most} classes for a collection of --pairs.")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", required=True, help="labelled tars, or folders of them")
    parser.add_argument("--eval", type=Path, required=True, help="folder of the tasks")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--captions", default="flickr8k", help="collection with people's captions")
    parser.add_argument("--classes", type=int, default=10, help="most classes of a collection with questions")
    parser.add_argument("--pictures", type=int, default=1000, help="most training pictures of such a collection")
    options = parser.parse_args(arguments)
    try:
        pairs = all_pairs(options.pairs)
        told = captions(pairs, options.captions)
        names = collections(pairs, options.eval, options.classes)
        train = {name: labelled(pairs, name, options.pictures) for name in names}
        test = {name: tested(options.eval / f"wds_{name}") for name in names}
        write_pool(options.out / "captions", told)
        with folder_atomic(options.out / "questions") as folder:
            for split, sets in (("train", train), ("test", test)):
                write_questions(folder, sets, split)
    except (AcedError, OSError) as error:
        sys.exit(f"lit_photos.py: {error}")
    print(f"{options.out}: {len(told):,} captions; pictures with questions, to train and to test on:")
    for name in names:
        print(f"  {name}: {len(train[name]):,}, {len(test[name]):,}")


if __name__ == "__main__":
    main()
