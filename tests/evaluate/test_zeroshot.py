from __future__ import annotations

import doctest
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from aced.errors import AcedError
from aced.evaluate import zeroshot_metrics as metrics
from aced.evaluate.tasks import Classification, Retrieval, TaskResult
from aced.evaluate.zeroshot import average, chance_average, evaluate
from aced.evaluate.zeroshot_metrics import accuracy, best_match, recall_at_1
from aced.pool.views import View

VIEW = View(2)


class TableTower:
    """Looks embeddings up: image i has the value i in its first pixel, texts are keys of a table."""

    def __init__(self, images: Tensor, texts: dict[str, Tensor]) -> None:
        self.view = VIEW
        self.vectors = images
        self.table = texts
        self.image_calls: list[int] = []
        self.text_calls: list[list[str]] = []

    def embed_image(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        assert not torch.is_grad_enabled()
        self.image_calls.append(len(images))
        return self.vectors[images[:, 0, 0, 0].long()]

    def embed_text(self, texts: list[str]) -> Tensor:
        self.text_calls.append(texts)
        return torch.stack([self.table[text] for text in texts])


def pixels(count: int) -> Tensor:
    images = torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(count)
    return images


def reader(count: int):
    def read(view: View) -> Tensor:
        assert view == VIEW
        return pixels(count)

    return read


def unit(*values: float) -> Tensor:
    vector = torch.tensor(values)
    return vector / vector.norm()


def classification(name: str = "shape", labels: Sequence[int] = (0, 1, 1), **more) -> Classification:
    return Classification(
        name=name,
        images=more.get("images", reader(len(labels))),
        labels=torch.tensor(labels),
        classes=more.get("classes", ["cat", "dog"]),
        templates=more.get("templates", ["{c}", "a {c}"]),
        chance=0.5,
    )


def table() -> dict[str, Tensor]:
    # Class means: cat (1, 1)/sqrt 2 from two orthogonal prompts, dog (0, -1).
    return {
        "cat": unit(1.0, 0.0),
        "a cat": unit(0.0, 1.0),
        "dog": unit(0.0, -1.0),
        "a dog": unit(0.0, -1.0),
    }


def test_classification_by_hand() -> None:
    # Image 0 scores cat .71, dog 0; image 1 cat 0, dog .71; image 2 cat .71, dog 0 but is a dog.
    images = torch.stack([unit(1.0, 0.0), unit(1.0, -1.0), unit(1.0, 0.0)])
    result = evaluate(TableTower(images, table()), [classification()])["shape"]
    assert result == TaskResult(value=2 / 3, chance=0.5, n=3, metric="acc1")


def test_prompts_are_averaged_after_normalising() -> None:
    # Class 0 lies at 45 degrees, the image at 60 and class 1 at 90. Unnormalised, the long first prompt would
    # turn class 0 to 6 degrees and the image would fall to class 1.
    texts = {"cat": torch.tensor([9.0, 0.0]), "a cat": torch.tensor([0.0, 1.0])}
    texts |= {"dog": torch.tensor([0.0, 1.0]), "a dog": torch.tensor([0.0, 1.0])}
    images = torch.stack([unit(0.5, 0.866)])
    result = evaluate(TableTower(images, texts), [classification(labels=[0])])
    assert result["shape"].value == 1.0
    # And the mean is normalised: of length .71 it would lose against a full-length competitor.
    images = torch.stack([unit(1.0, 0.6)])
    texts = table() | {"dog": unit(0.9, -0.1), "a dog": unit(0.9, -0.1)}
    assert evaluate(TableTower(images, texts), [classification(labels=[0])])["shape"].value == 1.0


def retrieval(direction: str, **more) -> Retrieval:
    captions = more.get("captions", [["a", "b"], ["c"]])
    return Retrieval(
        name=more.get("name", direction),
        images=more.get("images", reader(len(captions))),
        captions=captions,
        direction=direction,
        chance=more.get("chance", 0.5),
    )


def test_retrieval_by_hand() -> None:
    images = torch.stack([unit(1.0, 0.0), unit(0.0, 1.0)])
    texts = {"a": unit(0.0, 1.0), "b": unit(1.0, 0.0), "c": unit(0.8, 0.6)}
    # Image 0 finds b (its second caption): hit. Image 1 finds a, which is image 0's: miss.
    # Text a finds image 1: miss; b finds image 0: hit; c finds image 0: miss.
    tasks = [retrieval("image_to_text"), retrieval("text_to_image")]
    results = evaluate(TableTower(images, texts), tasks)
    assert results["image_to_text"] == TaskResult(0.5, 0.5, 2, "recall1")
    assert results["text_to_image"] == TaskResult(1 / 3, 0.5, 3, "recall1")


def test_shared_images_and_prompts_are_embedded_once() -> None:
    images = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    read = reader(5)
    texts = {key: unit(*vector.tolist(), 0.0) for key, vector in table().items()}
    texts |= {f"t{i}": images[i] for i in range(5)}
    captions = [[f"t{i}"] for i in range(5)]
    tower = TableTower(images, texts)
    tasks = [
        classification("one", [0, 1, 0, 1, 0], images=read),
        classification("two", [1, 1, 0, 0, 0], images=read),
        retrieval("image_to_text", images=read, captions=captions),
        retrieval("text_to_image", images=read, captions=captions),
        classification("apart", [1, 1, 0], images=reader(3)),
    ]
    seen: list[tuple[str, int, int]] = []
    results = evaluate(tower, tasks, micro_batch=2, progress=lambda *args: seen.append(args))
    assert tower.image_calls == [2, 2, 1, 2, 1]
    assert [len(call) for call in tower.text_calls] == [2, 2, 2, 2, 1]
    assert list(results) == [task.name for task in tasks]
    assert seen[0] == ("one", 1, 5)
    assert seen[-1] == ("apart", 5, 5)


def brute_force(tower: TableTower, task: Classification | Retrieval) -> float:
    """Every score by itself, in Python floats."""

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    def scaled(a: list[float]) -> list[float]:
        length = math.sqrt(dot(a, a))
        return [x / length for x in a]

    images = [scaled(row) for row in tower.vectors.tolist()]
    if isinstance(task, Classification):
        means = []
        for name in task.classes:
            prompts = [scaled(tower.table[t.replace("{c}", name)].tolist()) for t in task.templates]
            means.append(scaled([sum(column) / len(prompts) for column in zip(*prompts, strict=True)]))
        hits = []
        for image, label in zip(images, task.labels.tolist(), strict=True):
            scores = [dot(image, mean) for mean in means]
            hits.append(scores.index(max(scores)) == label)
        return sum(hits) / len(hits)
    owners = [i for i, captions in enumerate(task.captions) for _ in captions]
    texts = [scaled(tower.table[c].tolist()) for captions in task.captions for c in captions]
    hits = []
    if task.direction == "image_to_text":
        for i, image in enumerate(images):
            scores = [dot(image, text) for text in texts]
            hits.append(owners[scores.index(max(scores))] == i)
    else:
        for owner, text in zip(owners, texts, strict=True):
            scores = [dot(text, image) for image in images]
            hits.append(scores.index(max(scores)) == owner)
    return sum(hits) / len(hits)


@pytest.mark.parametrize("seed", range(4))
def test_against_brute_force(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count, width = 37, 5
    images = nn.functional.normalize(torch.randn(count, width, generator=generator), dim=-1)
    counts = torch.randint(1, 4, (count,), generator=generator).tolist()
    captions = [[f"{i}/{j}" for j in range(n)] for i, n in enumerate(counts)]
    classes, templates = ["p", "q", "r", "s"], ["{c}", "a {c}", "the {c} {x}"]
    keys = [c for group in captions for c in group]
    keys += [t.replace("{c}", name) for name in classes for t in templates]
    texts = {}
    for key in keys:
        near = images[int(key.split("/")[0])] if "/" in key else torch.zeros(width)
        noise = 0.4 * torch.randn(width, generator=generator)
        texts[key] = nn.functional.normalize(near + noise, dim=-1)
    tower = TableTower(images, texts)
    read = reader(count)
    labels = torch.randint(0, 4, (count,), generator=generator).tolist()
    tasks = [
        classification("c", labels, images=read, classes=classes, templates=templates),
        retrieval("image_to_text", images=read, captions=captions),
        retrieval("text_to_image", images=read, captions=captions),
    ]
    results = evaluate(tower, tasks, micro_batch=8)
    for task in tasks:
        assert results[task.name].value == pytest.approx(brute_force(tower, task), abs=1e-12)
        assert 0 < results[task.name].value < 1


def test_random_embeddings_score_at_chance() -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(200, 16, generator=generator)
    texts = {str(i): torch.randn(16, generator=generator) for i in range(200)}
    tower = TableTower(images, texts)
    labels = [i % 10 for i in range(200)]
    classes = [str(i) for i in range(10)]
    tasks = [
        classification("c", labels, classes=classes, templates=["{c}"]),
        retrieval("image_to_text", captions=[[str(i)] for i in range(200)], chance=1 / 200),
    ]
    results = evaluate(tower, tasks)
    # Three standard deviations of a binomial with n = 200 and p = .1.
    assert abs(results["c"].value - 0.1) < 3 * math.sqrt(0.1 * 0.9 / 200)
    assert results["image_to_text"].value <= 0.03


def test_ties_go_to_the_lower_index() -> None:
    tower = TableTower(torch.ones(4, 2), {"a": torch.ones(2), "b": torch.ones(2)})
    task = classification(labels=[0, 1, 0, 0], classes=["a", "b"], templates=["{c}"])
    assert [evaluate(tower, [task])["shape"].value for _ in range(2)] == [0.75, 0.75]


def test_best_match_does_not_depend_on_the_tile() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(23, 4, generator=generator), torch.randn(9, 4, generator=generator)
    whole = (queries @ candidates.T).argmax(1)
    for tile in (1, 7, 23, 100):
        assert torch.equal(best_match(queries, candidates, tile=tile), whole)
    assert best_match(queries[:0], candidates).shape == (0,)


def test_the_worked_examples_hold() -> None:
    result = doctest.testmod(metrics)
    assert result.attempted >= 6
    assert result.failed == 0


def test_metrics_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one"):
        accuracy(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="many"):
        recall_at_1(torch.tensor([0]), torch.tensor([0, 1]), torch.tensor([0]))
    with pytest.raises(ValueError, match="candidates"):
        best_match(torch.zeros(1, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"\[1, 2\].*\[2, 3\]"):
        best_match(torch.zeros(1, 2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="finite"):
        best_match(torch.full((1, 2), torch.nan), torch.zeros(2, 2))


class ModuleTower(nn.Module):
    """A tower that is a module: one part frozen in evaluation mode, dropout elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.view = VIEW
        self.frozen = nn.Dropout(0.5).eval()
        self.live = nn.Dropout(0.5)
        self.weight = nn.Parameter(torch.ones(2))
        self.fail = False

    def embed_image(self, images: Tensor) -> Tensor:
        assert not any(module.training for module in self.modules())
        if self.fail:
            raise RuntimeError("broken")
        return self.live(images[:, 0, 0, :].float() * self.weight)

    def embed_text(self, texts: list[str]) -> Tensor:
        return self.weight.expand(len(texts), 2)


class WrappingTower:
    """A tower that only holds a module."""

    def __init__(self) -> None:
        self.model = ModuleTower()
        self.view = VIEW
        self.embed_image = self.model.embed_image
        self.embed_text = self.model.embed_text


@pytest.mark.parametrize("kind", [ModuleTower, WrappingTower])
@pytest.mark.parametrize("fail", [False, True])
def test_the_mode_is_restored(kind: type, fail: bool) -> None:
    tower = kind()
    module = tower if isinstance(tower, ModuleTower) else tower.model
    module.fail = fail
    if fail:
        with pytest.raises(RuntimeError, match="broken"):
            evaluate(tower, [classification()])
    else:
        evaluate(tower, [classification()])
    assert module.training
    assert module.live.training
    assert not module.frozen.training
    assert torch.is_grad_enabled()


def test_averages_are_in_percent() -> None:
    results = {"a": TaskResult(0.5, 0.25, 10, "acc1"), "b": TaskResult(0.25, 0.05, 1000, "recall1")}
    assert average(results) == pytest.approx(37.5)
    assert chance_average(results) == pytest.approx(15.0)
    with pytest.raises(AcedError, match="task"):
        average({})


@pytest.mark.parametrize(
    ("tasks", "match"),
    [
        ([classification(), classification()], "'shape'.*twice"),
        ([classification(labels=[0, 1, 2])], "2 classes"),
        ([classification(labels=[0, -1])], r"-1.* 0"),
        ([classification(images=reader(2))], "2 images.*3 labels"),
        ([classification(labels=[])], "images"),
        ([classification(templates=[])], "classes"),
        ([retrieval("image_to_text", captions=[["a"], []])], "caption"),
        ([retrieval("image_to_text", images=reader(3))], "3 images.*2 sets"),
        ([retrieval("sideways")], "'sideways'"),
    ],
)
def test_faulty_tasks_are_told(tasks: list, match: str) -> None:
    texts = table() | {key: unit(1.0, 0.0) for key in "abc"}
    with pytest.raises(AcedError, match=match):
        evaluate(TableTower(torch.ones(4, 2), texts), tasks)


def test_a_diverged_model_is_told() -> None:
    images = torch.ones(3, 2)
    images[1] = torch.nan
    with pytest.raises(AcedError, match=r"'shape'.* image.*finite"):
        evaluate(TableTower(images, table()), [classification()])
    texts = table() | {"a dog": torch.full((2,), torch.inf)}
    with pytest.raises(AcedError, match="text"):
        evaluate(TableTower(torch.ones(3, 2), texts), [classification()])
