"""Parts of the student that are not trained: what stays, what is counted, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from aced.config import Config, make_config
from aced.errors import AcedError
from aced.lab.scenes import Scenes
from aced.models import Tower, load_tower
from aced.models.locking import lock
from aced.train.step import Trainer
from run_fakes import BATCH, even_pool, run_config, take, trainer_of

STEPS = 2
RESNET: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 450, "width": 8, "heads": 1, "layers": 1},
    "init_logit_bias": -10,
}
VIT: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 4, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 450, "width": 16, "heads": 2, "layers": 2},
    "init_logit_bias": -10,
}


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return even_pool()


def config_of(folder: Path, lock: Sequence[str] = (), model: dict[str, Any] = VIT, **keys: Any) -> Config:
    (folder / "s.json").write_text(json.dumps(model))
    return run_config(folder / "run", "iid", student__model=str(folder / "s.json"), train__lock=list(lock), **keys)


def trained(config: Config, pool: Scenes, steps: int = STEPS) -> tuple[Trainer, dict[str, torch.Tensor]]:
    """A trainer behind some steps, and the student's state before them."""
    trainer = trainer_of(config, pool)
    before = copy.deepcopy(trainer.student.model.state_dict())
    take(trainer, config, pool, steps)
    return trainer, before


def changed(trainer: Trainer, before: dict[str, torch.Tensor]) -> set[str]:
    after = trainer.student.model.state_dict()
    return {name for name, value in before.items() if not torch.equal(after[name], value)}


@pytest.mark.parametrize("keys", [{}, {"train__grad_cache": 5}, {"train__activation_checkpointing": True}])
@pytest.mark.parametrize("part", ["image", "text"])
def test_a_locked_tower_stays_and_the_rest_learns_as_before(
    part: str, keys: dict[str, Any], pool: Scenes, tmp_path: Path
) -> None:
    locked, before = trained(config_of(tmp_path, [part], **keys), pool, 1)
    free, start = trained(config_of(tmp_path, **keys), pool, 1)
    image = {name for name in before if name.startswith("visual.")}
    scales = {"logit_scale", "logit_bias"}
    own = image if part == "image" else before.keys() - image - scales
    assert changed(locked, before) == changed(free, start) - own
    names = {name for name, p in locked.student.model.named_parameters() if p.requires_grad}
    held = {id(p) for group in locked.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for name, p in locked.student.model.named_parameters() if name in names}
    assert names == before.keys() - own - {"attn_mask"}
    for name, parameter in locked.student.model.named_parameters():
        if name in names:
            other = dict(free.student.model.named_parameters())[name].grad
            scale = parameter.grad.norm() / other.norm()  # of gradients that are clipped together
            torch.testing.assert_close(parameter.grad, other * scale, rtol=1e-3, atol=1e-7)
        else:
            assert parameter.grad is None


@pytest.mark.parametrize(
    ("keys", "locked", "free_"),
    [({}, 1, 3), ({"train__grad_cache": 5}, 2, 4), ({"train__activation_checkpointing": True}, 1, 4)],
)
@pytest.mark.parametrize("part", ["image", "text"])
def test_a_locked_tower_is_counted_by_its_forward_passes_alone(
    part: str, keys: dict[str, Any], locked: int, free_: int, pool: Scenes, tmp_path: Path
) -> None:
    trainer, _ = trained(config_of(tmp_path, [part], **keys), pool)
    length = int((trainer.student.ids.of(pool.captions[:1]) >= 0).sum())
    cost = trainer.student.flops(length)
    image, text = (locked, free_) if part == "image" else (free_, locked)
    assert trainer.ledger.flops["forward_backward"] == pytest.approx(
        STEPS * BATCH * (image * cost.image + text * cost.text)
    )
    free, _ = trained(config_of(tmp_path, **keys), pool)
    assert free.ledger.flops["forward_backward"] == STEPS * BATCH * free_ * cost.total


def test_statistics_of_a_locked_tower_stay(pool: Scenes, tmp_path: Path) -> None:
    locked, before = trained(config_of(tmp_path, ["image"], RESNET), pool)
    assert not any(name.startswith("visual.") for name in changed(locked, before))
    free, before = trained(config_of(tmp_path, (), RESNET), pool)
    assert any(name.endswith("running_mean") for name in changed(free, before))
    some, before = trained(config_of(tmp_path, ["visual.layer1", "visual.bn?"], RESNET), pool)
    moved = {name for name in changed(some, before) if name.endswith(("running_mean", "running_var"))}
    assert moved
    assert not any(name.startswith(("visual.layer1.", "visual.bn")) for name in moved)


def test_scoring_and_training_take_turns(pool: Scenes, tmp_path: Path) -> None:
    trainer, _ = trained(config_of(tmp_path, ["image"], RESNET), pool, 1)
    for _ in range(2):
        trainer.student.train()
        assert not any(module.training for module in trainer.student.model.visual.modules())
        assert trainer.student.model.transformer.training
        trainer.student.score(pool.read([0, 1], [trainer.student.view]), 2)
        assert trainer.student.model.transformer.training


@pytest.fixture
def tower(tmp_path: Path) -> Tower:
    (tmp_path / "v.json").write_text(json.dumps(VIT))
    return load_tower(tmp_path / "v.json", seed=0)


def free(tower: Tower) -> set[str]:
    return {name for name, parameter in tower.model.named_parameters() if parameter.requires_grad}


SCALES = {"logit_scale", "logit_bias"}


@pytest.mark.parametrize(
    ("parts", "left"),
    [
        (["image", "text", "!visual.proj", "!text_projection"], {"visual.proj", "text_projection"}),
        (["image", "!visual.ln_*"], {f"visual.ln_{n}.{k}" for n in ("pre", "post") for k in ("weight", "bias")}),
        (["image", "!visual.ln_post", "visual.ln_post.bias"], {"visual.ln_post.weight"}),
    ],
)
def test_names_and_their_order(parts: list[str], left: set[str], tower: Tower) -> None:
    text = {name for name in free(tower) if not name.startswith("visual.")} if "text" not in parts else SCALES
    lock(tower, parts)
    assert free(tower) == left | text
    blocks = tower.model.visual.transformer
    tower.train()
    assert not any(module.training for module in blocks.modules())


def test_blocks_by_number_and_what_gradients_go_through(tower: Tower) -> None:
    lock(tower, ["visual.conv1", "visual.*_embedding", "visual.ln_pre", "visual.transformer.resblocks.[0-1]"])
    assert {name.split(".")[3] for name in free(tower) if "visual.transformer" in name} == {"2", "3"}
    image, text = tower.behind
    assert text == 1
    assert 0.4 < image < 0.6  # half of the layers
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_a_projection_costs_its_own_gradient(tower: Tower) -> None:
    forward = tower.flops(16)
    lock(tower, ["image", "text", "!visual.proj"])
    whole = 2 * forward.image - 2 * 4 * 3 * 64 * 16  # there is no gradient of the pixels
    assert tower.behind == (pytest.approx(2 * 16 * 8 / whole, rel=1e-6), 0)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (["imgae"], "'image'"),
        (["visual.transformer.resblocks.7"], "visual.transformer.resblocks"),
        (["image", "!visual.porj"], "visual.porj"),
        (["image", "text"], "nothing.*!visual.proj"),
        (["*"], "nothing"),
    ],
)
def test_what_cannot_be_locked(parts: list[str], words: str, tower: Tower) -> None:
    with pytest.raises(AcedError, match=rf"train\.lock.*{words}"):
        lock(tower, parts)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("image", ["image"]),
        ("image,text", ["image", "text"]),
        ("[image, '!visual.proj']", ["image", "!visual.proj"]),
        ("visual.transformer.resblocks.[0-5]", ["visual.transformer.resblocks.[0-5]"]),
        (["a.[0-1]", "b"], ["a.[0-1]", "b"]),
        ("", []),
    ],
)
def test_ways_to_write_it(written: Any, read: list[str]) -> None:
    assert make_config({"method": {"name": "iid"}, "train": {"lock": written}}).train.lock == read
