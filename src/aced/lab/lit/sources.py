"""The values of `--data` as examples: built-in scenes, easy-VQA, caption tars, and caption tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aced.errors import AcedError
from aced.lab.lit.caption_files import load_caption_tars, load_caption_task
from aced.lab.lit.easy_vqa import is_easy_vqa, load_easy_vqa
from aced.lab.lit.scenes_vqa import make_scenes_examples
from aced.lab.lit.texts import Data, TextExamples
from aced.runtime.progress import Bars

SCENES = "scenes"
_WAYS = (
    "name 'scenes', a folder of easy-VQA, tars with captions for training, or a retrieval task (test/0.tar and "
    "dataset_type.txt) for testing"
)


def load_data(
    names: Sequence[str],
    *,
    where: str | None,
    index_dir: Path | None,
    scenes: tuple[int, int],
    split: str,
    bars: Bars,
) -> Data:
    """All examples that the names refer to.

    Args:
        names: `scenes`, folders of easy-VQA, tars (or folders, globs, brace ranges of them), retrieval task folders.
        where: `FIELD=VALUE` of the json of the tars' samples; only these are used for training.
        index_dir: where the tars' indexes are kept.
        scenes: numbers of training and of test scenes.
        split: `test`, or `validation` for other test scenes, to choose settings.
        bars: progress.

    Raises:
        AcedError: a name refers to nothing, a set is damaged, or there is nothing to train or to test on.
    """
    if not names:
        raise AcedError(f"There is no data: {_WAYS} with --data.")
    field = _field(where)
    train: list[TextExamples] = []
    test: list[TextExamples] = []
    for name in dict.fromkeys(names):
        path = Path(name)
        if name == SCENES:
            for count, part, into in ((scenes[0], "train", train), (scenes[1], split, test)):
                with bars.counting(f"Rendering {count:,} scenes ({part})") as progress:
                    into += make_scenes_examples(count, part, 0, progress)
        elif is_easy_vqa(path):
            train.append(load_easy_vqa(path, "train"))
            test.append(load_easy_vqa(path, "test"))
        elif (path / "test").is_dir():
            test.append(load_caption_task(path))
        else:
            _check_there(name)
            with bars.counting(f"Reading the captions of {path.name}") as progress:
                train.append(load_caption_tars(name, field, index_dir, progress))
    _check_kinds(train, test)
    return Data(train, test)


def _check_there(name: str) -> None:
    """A plain path must exist; patterns are checked when they are expanded."""
    if any(sign in name for sign in "*?[{"):
        return
    path = Path(name)
    if not path.exists():
        raise AcedError(f"There is no data '{name}': {_WAYS}.")
    if path.is_dir() and not any(path.glob("*.tar")):
        raise AcedError(f"{name} holds neither questions nor captions: {_WAYS}.")


def _field(where: str | None) -> tuple[str, str] | None:
    if where is None:
        return None
    field, sign, value = where.partition("=")
    if not (field and sign and value):
        raise AcedError(f"--where is '{where}'; write it as FIELD=VALUE, for example source=flickr8k.")
    return field, value


def _check_kinds(train: Sequence[TextExamples], test: Sequence[TextExamples]) -> None:
    """Tested kinds must be trained, and the reverse: a decoder for one cannot be judged by the other."""
    words = {"caption": "captions", "vqa": "questions"}
    trained, tested = {one.kind for one in train}, {one.kind for one in test}
    for kind, word in words.items():
        if kind in trained - tested:
            raise AcedError(
                f"There are {word} to train on but none to test on; add a retrieval task folder, which has captions, "
                "with --data."
            )
        if kind in tested - trained:
            raise AcedError(f"There are {word} to test on but none to train on; add tars with {word} with --data.")
