"""Selection for captions and classes: the students' losses, the loop, the noise, what is kept, and the program."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from aced.errors import AcedError
from aced.lab.lit.words import END, PAD, Vocabulary

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import objective_data
import objectives
from objective_students import (
    Captioner,
    Classifier,
    Learner,
    Plan,
    Samples,
    Student,
    chosen,
    drawn,
    encoded,
    fitted,
    losses,
    measured,
    train,
    write,
)
from pool_tars import write_tar

SIZE = "aced_stem_vit_s"
TEXTS = ["a red cat", "the very small brown dog in a green garden", "cat", "a dog and a cat"]


def pictures(n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def captioned(texts: list[str] = TEXTS) -> tuple[Samples, Vocabulary]:
    words = Vocabulary.build(texts, [], 1)
    return Samples(pictures(len(texts)), encoded(texts, words), torch.ones(len(texts), dtype=torch.bool)), words


def classed(n: int, classes: int = 3) -> Samples:
    return Samples(pictures(n), torch.arange(n) % classes, torch.arange(n) % 2 == 0)


# -- students ----------------------------------------------------------------------------------------------------------


def test_a_captions_loss_is_the_mean_over_its_own_words_and_its_end() -> None:
    samples, words = captioned()
    student = Captioner(len(words), SIZE, 0)
    expected, right = [], []
    for image, text in zip(samples.images, TEXTS, strict=True):
        ids = [*words.caption_prompt(), *words.encode(text), END]
        memory = student.decoder.memory(student.tokens(image[None]), 1)
        steps = [student.decoder.next_logits(torch.tensor([ids[:at]]), memory)[0] for at in range(2, len(ids))]
        wanted = torch.tensor(ids[2:])
        expected.append(F.cross_entropy(torch.stack(steps), wanted).item())
        right.append((torch.stack(steps).argmax(dim=1) == wanted).float().mean().item())
    torch.testing.assert_close(losses(student, samples).tolist(), expected, rtol=1e-4, atol=1e-5)
    found, hits = measured(student, samples)
    torch.testing.assert_close(found.tolist(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hits.tolist(), right, rtol=1e-5, atol=1e-6)


def test_a_classs_loss_is_its_cross_entropy() -> None:
    samples, student = classed(5), Classifier(3, SIZE, 0)
    logits = student(samples.images, samples.targets)[0][:, 0]
    torch.testing.assert_close(
        losses(student, samples), F.cross_entropy(logits, samples.targets, reduction="none"), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(measured(student, samples)[1], (logits.argmax(dim=1) == samples.targets).float())


def test_chosen_texts_lose_the_padding_that_all_have() -> None:
    samples, words = captioned()
    few = samples[torch.tensor([2, 0])]
    assert few.targets.tolist() == [
        [*words.caption_prompt(), *words.encode("cat"), END, PAD, PAD],
        [*words.caption_prompt(), *words.encode("a red cat"), END],
    ]


def test_a_seed_gives_the_initial_weights_and_leaves_the_generator() -> None:
    before = torch.get_rng_state()
    same, other = Captioner(20, SIZE, 4), Captioner(20, SIZE, 5)
    assert torch.equal(before, torch.get_rng_state())
    again = Captioner(20, SIZE, 4).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in same.state_dict().items())
    assert not torch.equal(same.decoder.words.weight, other.decoder.words.weight)


# -- the loop ----------------------------------------------------------------------------------------------------------


class Deaf(Student):
    """A student that must not be asked."""

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError


def test_the_choice_is_by_the_losses_of_student_and_reference() -> None:
    samples, student = classed(12), Classifier(3, SIZE, 0)
    reference = torch.rand(12, generator=torch.Generator().manual_seed(1)) * 2
    own = measured(student, samples)[0]
    for score, values in {"learnability": own - reference, "hard-student": own, "easy-reference": -reference}.items():
        model = Deaf() if score == "easy-reference" else student
        found = chosen(model, samples, Plan(1, 1e-3, batch=4, score=score), reference, torch.Generator())
        assert found.tolist() == np.argsort(-values.numpy(), kind="stable")[:4].tolist()


def test_each_row_comes_once_before_any_comes_again() -> None:
    orders = drawn(10, 4, seed=3)
    seen = torch.cat([next(orders) for _ in range(5)]).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    with pytest.raises(ValueError, match="11 of 10"):
        next(drawn(10, 11, seed=0))


def test_training_is_the_same_with_the_same_plan_and_counts_what_it_takes() -> None:
    samples = classed(24)
    plan = Plan(3, 1e-2, batch=4, superbatch=8, score="learnability", temperature=1.0, seed=2)
    students = [Classifier(3, SIZE, 0) for _ in range(2)]
    costs = [train(student, samples, plan, torch.zeros(24)) for student in students]
    weights = [torch.cat([one.flatten() for one in student.state_dict().values()]) for student in students]
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.cat([v.flatten() for v in Classifier(3, SIZE, 0).state_dict().values()]))
    assert (costs[0].trained, costs[0].loaded) == (12, 24)
    random = train(Classifier(3, SIZE, 0), samples, Plan(6, 1e-2, batch=4))
    assert (random.trained, random.loaded) == (24, 24)
    assert random.sound == 0.5  # the whole pool, once
    assert random.seconds > 0


def test_a_reference_that_knows_the_noise_keeps_it_out() -> None:
    samples = classed(40)
    reference = torch.where(samples.sound, 0.0, 100.0)
    plan = Plan(4, 1e-3, batch=4, superbatch=20, score="learnability")
    assert train(Classifier(3, SIZE, 0), samples, plan, reference).sound == 1.0


def test_a_student_learns_to_write_what_it_was_shown() -> None:
    samples, words = captioned(["a red cat", "the small dog"])
    samples = Samples(torch.stack([torch.zeros(3, 32, 32), torch.full((3, 32, 32), 255.0)]).byte(), *(
        (samples.targets, samples.sound)
    ))  # fmt: skip
    student = Captioner(len(words), SIZE, 0)
    train(student, samples, Plan(40, 1e-2, batch=2))
    assert write(student, words, samples.images) == ["a red cat", "the small dog"]


def test_a_reference_keeps_the_weights_of_its_best_turn() -> None:
    """The same steps by hand, with a look at validation after every fourth; what it learns is wrong there."""
    greys = (torch.arange(12) % 3 * 120).byte()[:, None, None, None].expand(-1, 3, 32, 32)
    right, plan = (
        Samples(greys, torch.arange(12) % 3, torch.ones(12, dtype=torch.bool)),
        Plan(16, 3e-3, batch=6, seed=1),
    )
    other = Samples(greys, (right.targets + 1) % 3, right.sound)
    student, by_hand = Classifier(3, SIZE, 0), Classifier(3, SIZE, 0)
    found = fitted(student, right, other, plan, turns=4)
    learner, orders, seen = Learner(by_hand, plan), drawn(12, 6, 1), {}
    for step in range(16):
        learner.step(step, right[next(orders)])
        seen[step + 1] = float(measured(by_hand, other)[0].mean())
    stops = {steps: seen[steps] for steps in (4, 8, 12, 16)}
    best = min(stops, key=lambda steps: stops[steps])
    assert best < 16
    assert found == (best, pytest.approx(stops[best], rel=1e-6))
    assert float(measured(student, other)[0].mean()) == pytest.approx(stops[best], rel=1e-6)


# -- data --------------------------------------------------------------------------------------------------------------


def test_spoilt_classes_are_other_ones_of_their_collection() -> None:
    samples = Samples(pictures(300), torch.arange(300) % 10, torch.ones(300, dtype=torch.bool))
    found = objective_data.spoilt(samples, [(0, 3), (3, 10)], 0.5)
    moved = found.targets != samples.targets
    assert int(moved.sum()) == 150
    assert torch.equal(found.sound, ~moved)
    assert torch.equal(found.targets < 3, samples.targets < 3)
    assert set(found.targets[moved].tolist()) == set(range(10))
    assert torch.equal(objective_data.spoilt(samples, [(0, 3), (3, 10)], 0.5).targets, found.targets)
    assert bool(samples.sound.all())


def test_a_class_is_named_by_its_words_in_a_row() -> None:
    assert objective_data.names("my photo of a Persian cat", "Persian cat")
    assert not objective_data.names("a cat that is Persian", "Persian cat")
    assert not objective_data.names("a caterpillar", "cat")


class Told(Student):
    """Gives the same logits for every picture."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(len(images), 1, -1), targets[:, None]


def test_classes_are_told_apart_within_their_collection() -> None:
    samples = Samples(pictures(4), torch.tensor([0, 0, 1, 3]), torch.ones(4, dtype=torch.bool))
    found = objective_data.class_scores(Told([1.0, 0.0, 5.0, 9.0]), samples, {"a": (0, 2), "b": (2, 4)})
    assert (found["a"], found["b"], found["average"]) == pytest.approx((200 / 3, 100.0, 250 / 3))
    right = F.cross_entropy(torch.tensor([[1.0, 0.0, 5.0, 9.0]]).expand(4, -1), samples.targets)
    assert found["loss"] == pytest.approx(right.item())


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    path, calls = tmp_path / "figures.json", Counter[str]()

    def make() -> dict[str, Any]:
        calls["made"] += 1
        return {"value": 1.0 * calls["made"]}

    for _ in range(2):
        figures = objectives.Figures(path, {"seed": 1, "rates": (1, 2)})
        assert figures.kept("a", "b", make) == {"value": 1.0}
    assert calls["made"] == 1
    assert figures.kept("a", "b", make, again=True) == {"value": 2.0}
    with pytest.raises(AcedError, match=r"figures\.json.*--out"):
        objectives.Figures(path, {"seed": 2, "rates": (1, 2)})


def run_of(seed: int, loss: float, temperature: float = 0.0) -> dict[str, Any]:
    cost = {"trained": 100, "loaded": 500, "seconds": 2.0, "step_seconds": 0.1, "sound": 0.5}
    return {"plan": {"seed": seed, "temperature": temperature}, "cost": cost, "scores": {"loss": loss}}


def test_the_table_compares_seed_by_seed_and_within_a_budget() -> None:
    figures = {
        "facts": {"goal": "loss", "sign": -1},
        **{f"samples/random/{seed}": run_of(seed, value) for seed, value in enumerate((3.0, 4.0))},
        **{f"long/random/{seed}": run_of(seed, value) for seed, value in enumerate((2.0, 2.5))},
        **{f"short/learnability curated/{seed}": run_of(seed, 3.5, 1.0) for seed in range(2)},
        **{f"samples/learnability curated/{seed}": run_of(seed, 2.25, 1.0) for seed in range(2)},
    }
    lines = list(objectives.tables({"experiments": {"captions": figures}}))
    assert lines[1].endswith(" loss | loss, equal samples | loss, random's time | loss, learnability's time |")
    assert lines[3:5] == [
        "| random | – | 100 | 500 | 2.0 | 50 | 3.500 ± 0.707 | 3.500 ± 0.707 | 3.500 ± 0.707 | 2.250 ± 0.354 |",
        "| learnability curated | 1 | 100 | 500 | 2.0 | 50 | 2.250 ± 0.000 | -1.250 ± 0.707 (2 of 2) "
        "| +0.000 ± 0.707 (1 of 2) | +0.000 ± 0.354 (1 of 2) |",
    ]


def test_figures_of_another_plan_are_made_again(tmp_path: Path) -> None:
    samples = classed(24)

    def scores(student: Student) -> dict[str, float]:
        return {"average": float(measured(student, samples)[1].mean())}

    experiment = objective_data.Experiment(
        "classes", samples, {"curated": samples}, samples, lambda seed: Classifier(3, SIZE, seed), scores, scores,
        goal="average", sign=1,
    )  # fmt: skip
    runner = objectives.Runner(experiment, objectives.Figures(tmp_path / "figures.json", {}), 2, tmp_path)
    random = objectives.Method("", "")
    first = runner.trained("samples/random/0", random, Plan(2, 1e-3, batch=4))
    assert runner.trained("samples/random/0", random, Plan(2, 1e-3, batch=4)) is first
    other = runner.trained("samples/random/0", random, Plan(3, 1e-3, batch=4))
    assert (other["plan"]["steps"], other["cost"]["trained"]) == (3, 12)
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["experiments"]["classes"] == {
        "samples/random/0": other
    }


def test_every_score_is_a_method_with_every_reference_that_it_asks() -> None:
    found = {one.name: one.asks_student for one in objectives.methods(["x", "y"])}
    assert found == {
        "random": False, "hard-student": True, "easy-reference x": False, "easy-reference y": False,
        "learnability x": True, "learnability y": True,
    }  # fmt: skip


# -- the program -------------------------------------------------------------------------------------------------------

PAIRS = [("cifar10", "cat"), ("cifar10", "ship"), ("tiny_imagenet", "goldfish"), ("tiny_imagenet", "Persian cat")]


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pictures(1, seed)[0].permute(1, 2, 0).numpy()).save(out, "jpeg")
    return out.getvalue()


def write_pairs(folder: Path, n: int, seed: int) -> None:
    members = {}
    for i in range(n):
        source, label = (*PAIRS, ("flickr8k", None))[i % 5]
        facts = {"source": source, "label": label, "kind": "clean" if i % 2 else "junk"}
        text = f"a {label}" if label else "A dog runs in the green grass."
        members |= {f"{i:05d}.jpg": jpeg(seed + i), f"{i:05d}.txt": text.encode()}
        members[f"{i:05d}.json"] = json.dumps(facts).encode()
    write_tar(folder / "00000.tar", members.items())


def write_tasks(folder: Path) -> None:
    for collection in objective_data.COLLECTIONS:
        names = [label for source, label in PAIRS if source == collection]
        task = folder / f"wds_{collection}"
        members = {}
        for i in range(4):
            members |= {f"{i}.cls": str(i % 2).encode(), f"{i}.jpg": jpeg(900 + i)}
        write_tar(task / "test" / "0.tar", members.items())
        (task / "test" / "nshards.txt").write_text("1", encoding="utf-8")
        (task / "classnames.txt").write_text("\n".join(names), encoding="utf-8")
        (task / "zeroshot_classification_templates.txt").write_text("a {c}", encoding="utf-8")
    task = folder / "wds_flickr8k"
    captions = b"A dog runs.\nA brown dog.\nThe dog runs fast."
    members = [(f"{i}.{part}", content) for i in range(3) for part, content in (("jpg", jpeg(i)), ("txt", captions))]
    write_tar(task / "test" / "0.tar", members)
    (task / "test" / "nshards.txt").write_text("1", encoding="utf-8")
    (task / "dataset_type.txt").write_text("retrieval", encoding="utf-8")


@pytest.mark.slow
def test_the_program_measures_everything_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, n, seed in (("pool", 250, 0), ("curated", 100, 300), ("more", 60, 500)):
        write_pairs(tmp_path / name, n, seed)
    write_tasks(tmp_path / "eval")
    words = [
        "run",
        "--seeds",
        "0",
        "1",
        "--share",
        "0.02",
        "--scenes",
        "200",
        "60",
        "20",
        "--work",
        str(tmp_path / "work"),
    ]
    words += ["--out", str(tmp_path / "figures.json")]
    for option, folder in {"photos": "pool", "curated": "curated", "more": "more", "eval": "eval"}.items():
        words += [f"--{option}", str(tmp_path / folder)]
    sizes = {"scenes": "captions of scenes", "photos": "captions of photos", "classes": "classes of photos"}
    objectives.main(words)
    first = (tmp_path / "figures.json").read_bytes()
    told = capsys.readouterr().out
    objectives.main(words)
    assert (tmp_path / "figures.json").read_bytes() == first
    found = json.loads(first)["experiments"]
    assert set(found) == set(sizes.values())
    methods = {"captions of scenes": 3, "captions of photos": 3, "classes of photos": 5}
    for name, figures in found.items():
        kinds = Counter(key.partition("/")[0] for key in figures)
        asking = 2 if methods[name] == 3 else 3
        assert kinds["samples"] == 2 * (methods[name] + 1)
        assert kinds["short"] == 2 * asking
        assert kinds["long"] == 2 * (methods[name] + 1 - asking)
        assert all(np.isfinite(value) for key, run in figures.items() if "/" in key for value in run["scores"].values())
        assert f"### {name.capitalize()}" in told
    again = capsys.readouterr().out
    assert again == told[told.index("###") :]
    (tmp_path / "work" / "classes-of-photos-larger-6.safetensors").unlink()
    objectives.main([*words, "--only", "classes"])
    assert (tmp_path / "figures.json").read_bytes() == first
