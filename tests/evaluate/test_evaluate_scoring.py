"""Every kind of task against its definition, on towers whose embeddings are looked up."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aced.errors import AcedError
from aced.evaluate import chance, prompts
from aced.evaluate import zeroshot_metrics as metrics
from aced.evaluate.chance import chance_of_association, chance_of_selection
from aced.evaluate.evidence import Evidence
from aced.evaluate.groups import attribute_scores
from aced.evaluate.tasks import (
    Association,
    Attributes,
    CaptionSelection,
    Classification,
    GroupScores,
    Multilabel,
    Retrieval,
)
from aced.evaluate.zeroshot import evaluate
from aced.evaluate.zeroshot_metrics import positive_ranks
from aced.pool.views import View

GENERATOR = torch.Generator


class Table:
    """Image i has the embedding i; a text has the embedding of the number in it."""

    view = View(2)

    def __init__(self, images: Tensor, texts: Tensor) -> None:
        self.vectors, self.table = images, texts

    def embed_image(self, images: Tensor) -> Tensor:
        return self.vectors[images[:, 0, 0, 0].long() + 256 * images[:, 1, 0, 0].long()]

    def embed_text(self, texts: list[str]) -> Tensor:
        return self.table[[int(text) for text in texts]]


def read(count: int):
    pixels = torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
    pixels[:, 0, 0, 0], pixels[:, 1, 0, 0] = torch.arange(count) % 256, torch.arange(count) // 256
    return lambda view: pixels


def unit(n: int, seed: int, d: int = 6) -> Tensor:
    return nn.functional.normalize(torch.randn(n, d, generator=GENERATOR().manual_seed(seed)), dim=-1)


def test_top_1_top_5_and_mean_per_class_recall() -> None:
    images, texts = unit(200, 0), unit(9, 1)
    labels = torch.randint(0, 7, (200,), generator=GENERATOR().manual_seed(2))  # classes 7 and 8 have no image
    task = Classification("t", read(200), labels, [str(i) for i in range(9)], ["{c}"], 1 / 9)
    result = evaluate(Table(images, texts), [task])["t"]
    scores = (images.double() @ texts.double().T).tolist()
    order = [sorted(range(9), key=lambda c: -row[c]) for row in scores]
    hits = [label in row[:1] for label, row in zip(labels.tolist(), order, strict=True)]
    assert result.metrics["acc1"] == result.value == pytest.approx(sum(hits) / 200)
    top5 = sum(label in row[:5] for label, row in zip(labels.tolist(), order, strict=True)) / 200
    assert result.metrics["acc5"] == pytest.approx(top5)
    recalls = [np.mean([hit for hit, label in zip(hits, labels.tolist(), strict=True) if label == c]) for c in range(7)]
    assert result.metrics["mean_per_class_recall"] == pytest.approx(np.mean(recalls))
    assert result.stderr == pytest.approx(math.sqrt(result.value * (1 - result.value) / 200))


def test_top_5_of_4_classes_is_not_defined() -> None:
    task = Classification("t", read(8), torch.arange(8) % 4, list("0123"), ["{c}"], 1 / 4)
    assert evaluate(Table(unit(8, 0), unit(4, 1)), [task])["t"].metrics["acc5"] is None


def test_recall_at_k_in_both_directions() -> None:
    images, texts = unit(60, 3), unit(180, 4)
    captions = [[str(3 * i + j) for j in range(1 + i % 3)] for i in range(60)]
    used = [int(text) for lines in captions for text in lines]
    owners = [i for i, lines in enumerate(captions) for _ in lines]
    result = evaluate(Table(images, texts), [Retrieval("t", read(60), captions, "both", 1 / 60)])["t"]
    scores = (images.double() @ texts[used].double().T).numpy()
    for k in (1, 5, 10):
        to_text = np.mean([any(owners[c] == i for c in np.argsort(-scores[i])[:k]) for i in range(60)])
        to_image = np.mean([owners[c] in np.argsort(-scores[:, c])[:k] for c in range(len(used))])
        assert result.metrics[f"text_retrieval_recall@{k}"] == pytest.approx(to_text)
        assert result.metrics[f"image_retrieval_recall@{k}"] == pytest.approx(to_image)
    both = (result.metrics["text_retrieval_recall@1"] + result.metrics["image_retrieval_recall@1"]) / 2
    assert (result.metric, result.value, result.n) == ("mean_recall@1", pytest.approx(both), 60)
    assert result.stderr_by == "bootstrap"


def test_ranks_count_ties_for_the_lower_index() -> None:
    one = torch.ones(1, 2)
    for label, rank in enumerate(range(4)):
        ranks = positive_ranks(one, torch.ones(4, 2), torch.tensor([label]), torch.arange(4))
        assert ranks.tolist() == [rank]
    # Two positives among equals: the first counts.
    assert positive_ranks(one, torch.ones(4, 2), torch.tensor([7]), torch.tensor([0, 7, 7, 0])).tolist() == [1]
    with pytest.raises(ValueError, match="candidate"):
        positive_ranks(one, torch.ones(4, 2), torch.tensor([9]), torch.arange(4))


def test_multilabel() -> None:
    images, texts = unit(50, 5), unit(4, 6)
    labels = torch.rand(50, 4, generator=GENERATOR().manual_seed(7)) < 0.3
    labels[:, 3] = False  # a class without images scores 0
    result = evaluate(Table(images, texts), [Multilabel("t", read(50), labels, list("0123"), ["{c}"], 0.3)])["t"]
    scores = (images.double() @ texts.double().T).numpy()
    precisions = []
    for c in range(3):
        order = np.argsort(-scores[:, c])
        truth = labels.numpy()[order, c]
        precisions.append(np.mean([truth[: i + 1].mean() for i in np.flatnonzero(truth)]))
    assert result.value == pytest.approx(sum(precisions) / 4, abs=1e-6)
    assert result.metrics == {"mean_average_precision": result.value}
    with pytest.raises(AcedError, match=r"column.*class"):
        evaluate(Table(images, texts), [Multilabel("t", read(50), labels[:, :3], list("0123"), ["{c}"], 0.3)])


@pytest.mark.parametrize(("images_per_set", "captions_per_set"), [(1, 2), (1, 4), (2, 2), (3, 1)])
def test_selection(images_per_set: int, captions_per_set: int) -> None:
    sets = 80
    images, texts = unit(sets * images_per_set, 8), unit(sets * captions_per_set, 9)
    captions = [[str(s * captions_per_set + c) for c in range(captions_per_set)] for s in range(sets)]
    task = CaptionSelection("t", read(sets * images_per_set), captions, images_per_set, 0.5)
    result = evaluate(Table(images, texts), [task])["t"]
    wins: dict[str, list[bool]] = {"image_acc": [], "text_acc": [], "acc": []}
    for s in range(sets):
        scores = [
            [float(images[s * images_per_set + i] @ texts[s * captions_per_set + c]) for c in range(captions_per_set)]
            for i in range(images_per_set)
        ]
        pairs = range(min(images_per_set, captions_per_set))
        text = all(scores[i][i] == max(scores[i]) for i in pairs)
        image = all(scores[i][i] == max(row[i] for row in scores) for i in pairs)
        for name, win in (("text_acc", text), ("image_acc", image), ("acc", text and image)):
            wins[name].append(win)
    assert result.metrics == {name: pytest.approx(np.mean(hits)) for name, hits in wins.items()}
    # Random embeddings are guesses; three standard deviations around chance.
    guessing = chance_of_selection(images_per_set, captions_per_set)
    assert abs(result.value - guessing) < 3 * math.sqrt(guessing * (1 - guessing) / sets)


def test_association() -> None:
    sizes = [5, 6, 10, 12] * 15
    rng = np.random.default_rng(3)
    images, cues = unit(sum(sizes), 16), unit(60, 17)
    associated = []
    for size in sizes:
        row = np.zeros(size, bool)
        row[rng.choice(size, size=rng.integers(1, 4), replace=False)] = True
        associated.append(row.tolist())
    task = Association("t", read(sum(sizes)), [str(i) for i in range(60)], associated, 0.2, "jaccard_score_10-12")
    result = evaluate(Table(images, cues), [task])["t"]
    jaccard, start = [], 0
    for i, (size, row) in enumerate(zip(sizes, associated, strict=True)):
        scores = (images[start : start + size] @ cues[i]).tolist()
        start += size
        chosen = set(sorted(range(size), key=lambda j: -scores[j])[: sum(row)])
        truth = {j for j in range(size) if row[j]}
        jaccard.append(len(chosen & truth) / len(chosen | truth))
    for name, kept in (
        ("avg_jaccard_score", {5, 6, 10, 12}),
        ("jaccard_score_5-6", {5, 6}),
        ("jaccard_score_12", {12}),
    ):
        expected = np.mean([score for score, size in zip(jaccard, sizes, strict=True) if size in kept])
        assert result.metrics[name] == pytest.approx(expected, abs=1e-6)
    large = [score for score, size in zip(jaccard, sizes, strict=True) if size >= 10]
    assert (result.value, result.n) == (pytest.approx(np.mean(large), abs=1e-6), 30)
    # The standard error of a mean of other things than hits is a bootstrap.
    assert result.stderr == pytest.approx(np.std(large) / math.sqrt(30), rel=0.15)
    guesses = [len({0, 1, 2} & set(rng.permutation(10)[:3].tolist())) for _ in range(4000)]
    mean = np.mean([hits / (6 - hits) for hits in guesses])
    assert chance_of_association(10, 3) == pytest.approx(mean, abs=0.02)


def test_worst_group_and_macro_scores() -> None:
    images, texts = unit(150, 10), unit(4, 11)
    labels = torch.randint(0, 4, (150,), generator=GENERATOR().manual_seed(12))
    metadata = torch.randint(0, 3, (150, 3), generator=GENERATOR().manual_seed(13))
    metadata[metadata == 1] = 5  # values need not follow each other
    groups = GroupScores(metadata, ["place", "year", "day"], [["year"], ["place"]], macro=True)
    task = Classification("t", read(150), labels, list("0123"), ["{c}"], 0.25, "acc_worst_year", groups)
    result = evaluate(Table(images, texts), [task])["t"]
    predicted = (images.double() @ texts.double().T).argmax(1)
    hits = (predicted == labels).double()
    for column, field in ((1, "year"), (0, "place")):
        accuracies = [float(hits[metadata[:, column] == value].mean()) for value in (0, 2, 5)]
        for value, accuracy in zip((0, 2, 5), accuracies, strict=True):
            assert result.metrics[f"acc_{field}:{value}"] == pytest.approx(accuracy)
            assert result.metrics[f"count_{field}:{value}"] == int((metadata[:, column] == value).sum())
        assert result.metrics[f"acc_worst_{field}"] == pytest.approx(min(accuracies))
    assert result.value == result.metrics["acc_worst_year"]
    assert result.metrics["acc_avg"] == pytest.approx(float(hits.mean())) == result.metrics["acc1"]
    from sklearn_free import f1_macro, recall_macro

    assert result.metrics["F1-macro_all"] == pytest.approx(f1_macro(predicted.tolist(), labels.tolist()))
    assert result.metrics["recall-macro_all"] == pytest.approx(recall_macro(predicted.tolist(), labels.tolist()))


def test_a_metric_that_the_task_does_not_have_is_told() -> None:
    task = Classification("t", read(3), torch.zeros(3, dtype=torch.int64), ["0"], ["{c}"], 1.0, "acc_wg")
    with pytest.raises(AcedError, match=r"'acc_wg'.*acc1, mean_per_class_recall"):
        evaluate(Table(unit(3, 0), unit(1, 1)), [task])


def test_face_attributes() -> None:
    rng = np.random.default_rng(0)
    n = 300
    metadata = np.stack([rng.integers(0, k, n) for k in (9, 2, 7, 2)], axis=1)
    predicted = {name: rng.integers(0, k, n) for name, k in (("race", 2), ("gender", 2), ("age", 9), ("toxic", 22))}
    scores = {k: v.score() if isinstance(v, Evidence) else v for k, v in attribute_scores(predicted, metadata).items()}
    groups = {
        (g, r): np.mean(predicted["gender"][(metadata[:, 1] == g) & (metadata[:, 2] == r)] == g)
        for g in range(2)
        for r in range(7)
    }
    assert scores["acc_gender_x_wg"] == pytest.approx(min(groups.values()))
    assert scores["acc_gender_x_gender:1_race:4"] == pytest.approx(groups[1, 4])
    assert scores["acc_race_avg"] == pytest.approx(np.mean((predicted["race"] != 1) == metadata[:, 3]))
    assert scores["acc_age_race_binary:0"] == pytest.approx(
        np.mean((predicted["age"] == metadata[:, 0])[metadata[:, 3] == 0])
    )
    assert scores["toxicity_crime_avg"] == pytest.approx(np.mean(predicted["toxic"] >= 18))
    assert scores["toxicity_nonhuman_race:3"] == pytest.approx(
        np.mean(((predicted["toxic"] >= 14) & (predicted["toxic"] < 18))[metadata[:, 2] == 3])
    )


def test_faces_as_a_task() -> None:
    classes = {"race": ["0", "1"], "gender": ["2", "3"], "age": ["4", "5"], "toxic": [str(6 + i) for i in range(20)]}
    metadata = torch.randint(0, 2, (40, 4), generator=GENERATOR().manual_seed(1))
    images, texts = unit(40, 14), unit(26, 15)
    task = Attributes("t", read(40), metadata, classes, {key: ["{c}"] for key in classes}, 0.5)
    result = evaluate(Table(images, texts), [task])["t"]
    gender = (images @ texts[2:4].T).argmax(1)
    assert result.metrics["acc_gender_avg"] == pytest.approx(float((gender == metadata[:, 1]).double().mean()))
    assert result.metric == "acc_gender_x_wg"


def test_equal_prompts_have_equal_embeddings() -> None:
    """A text tower may embed a text differently in another batch; two classes of one name must tie all the same."""

    class Drifting(Table):
        calls = 0

        def embed_text(self, texts: list[str]) -> Tensor:
            self.calls += 1
            return super().embed_text(texts) + 1e-3 * self.calls

    tower = Drifting(unit(30, 0), unit(3, 1))
    task = Classification("t", read(30), torch.full((30,), 2), ["0", "1", "0"], ["{c}"], 1 / 3)
    assert evaluate(tower, [task], micro_batch=1)["t"].value == 0.0


def test_the_worked_examples_hold() -> None:
    for module, least in ((metrics, 8), (prompts, 1), (chance, 2)):
        result = doctest.testmod(module)
        assert result.attempted >= least
        assert result.failed == 0
