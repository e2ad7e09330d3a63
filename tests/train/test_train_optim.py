"""The optimiser's groups, the schedule and the clipping."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from aced.lab.lit.decoder import DecoderShape, make_decoder
from aced.lab.scenes import make_pool
from aced.models import load_tower
from aced.models.compat import import_open_clip
from aced.train.optim import decay_groups, learning_rate, make_optimizer, set_learning_rate
from run_fakes import run_config, take, trainer_of


# By hand: 10 steps, 20 % warm-up, peak 1. Two steps of rise; then 8 steps of cosine from 1 towards 0.
@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.5), (1, 1.0), (2, 1.0), (4, (1 + math.sqrt(0.5)) / 2), (6, 0.5), (8, (1 - math.sqrt(0.5)) / 2)],
)
def test_the_schedule_by_hand(step: int, rate: float) -> None:
    assert learning_rate(step, 10, peak=1.0, warmup=0.2) == pytest.approx(rate)
    assert learning_rate(step, 10, peak=3e-4, warmup=0.2) == pytest.approx(3e-4 * rate)


def test_the_schedule_at_its_ends() -> None:
    assert learning_rate(0, 100, peak=1.0, warmup=0.0) == 1.0
    assert [learning_rate(step, 4, peak=1.0, warmup=1.0) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(0, 1, peak=1.0, warmup=0.08) == 1.0
    assert 0 < learning_rate(999, 1000, peak=1.0, warmup=0.08) < 1e-5


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.tokens = nn.Parameter(torch.ones(4, 5, 6))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.logit_bias = nn.Parameter(torch.ones(1))
        self.frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)


def test_matrices_decay_and_scalars_learn_faster() -> None:
    model, extra = Model(), nn.Linear(2, 2, bias=False)
    optimizer = make_optimizer([model, extra], lr=1e-3, betas=(0.8, 0.9), weight_decay=0.3, scale_lr=10.0)
    shapes = [
        ([tuple(p.shape) for p in group["params"]], group["weight_decay"], group["factor"])
        for group in optimizer.param_groups
    ]
    assert shapes == [
        ([(4, 5, 6), (2, 3)], 0.3, 1.0),
        ([(2,)], 0.0, 1.0),
        ([(2, 2)], 0.3, 1.0),  # of another module, which is never cut where the first one is
        ([(), (1,)], 0.0, 10.0),
    ]
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)
    set_learning_rate(optimizer, 2e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-3, 2e-3, 2e-3, 2e-2]


OPEN_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 6, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
}
_BLOCK = ["attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"]
OPEN_CLIP_DECAYED = [
    *("text_projection", "visual.proj", "visual.conv1.weight"),
    *(f"visual.transformer.resblocks.0.{name}" for name in _BLOCK),
    *(f"transformer.resblocks.0.{name}" for name in _BLOCK),
]
OPEN_CLIP_EMBEDDINGS = [
    *("positional_embedding", "token_embedding.weight", "visual.class_embedding", "visual.positional_embedding")
]


def sorted_names(model: nn.Module, *, decay_embeddings: bool) -> list[set[str]]:
    """Names of what decays, of what does not, and of the scalars."""
    optimizer = make_optimizer(
        [model], lr=1.0, betas=(0.9, 0.9), weight_decay=0.5, scale_lr=3.0, decay_embeddings=decay_embeddings
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    kinds = [(0.5, 1.0), (0.0, 1.0), (0.0, 3.0)]
    groups = {(g["weight_decay"], g["factor"]): {names[p] for p in g["params"]} for g in optimizer.param_groups}
    assert sorted(groups, key=kinds.index) == kinds
    return [groups[kind] for kind in kinds]


def test_what_decays_of_an_open_clip_vit() -> None:
    open_clip = import_open_clip()
    model = open_clip.CLIP(**OPEN_CLIP, init_logit_bias=-10)
    matrices = {*OPEN_CLIP_DECAYED, *OPEN_CLIP_EMBEDDINGS} - {"visual.class_embedding"}  # a vector
    decayed, others, scalars = sorted_names(model, decay_embeddings=True)
    assert decayed == matrices
    assert others == {name for name, p in model.named_parameters() if p.ndim == 1}
    assert scalars == {"logit_scale", "logit_bias"}
    decayed, others, _ = sorted_names(model, decay_embeddings=False)
    assert decayed == set(OPEN_CLIP_DECAYED)
    assert set(OPEN_CLIP_EMBEDDINGS) <= others


def test_what_decays_of_the_stem_vit() -> None:
    model = load_tower("aced-demo-s").model
    by_name = dict(model.named_parameters())
    (positions,) = (name for name in by_name if name.endswith("pos_embed"))
    embedded = {positions, "text.positional_embedding", "text.token_embedding.weight"}
    matrices = {name for name, p in by_name.items() if p.ndim > 1}
    assert embedded < matrices
    assert sorted_names(model, decay_embeddings=True)[0] == matrices
    assert sorted_names(model, decay_embeddings=False)[0] == matrices - embedded


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_order_of_parameters_does_not_depend_on_the_decay(decay: float) -> None:
    model = Model()
    first, second = decay_groups(model, decay)
    assert [id(p) for p in first["params"]] == [id(model.tokens), id(model.linear.weight)]
    assert [id(p) for p in second["params"]] == [id(model.logit_scale), id(model.logit_bias), id(model.linear.bias)]
    assert (first["weight_decay"], second["weight_decay"]) == (decay, 0.0)


def test_what_decays_of_a_decoder() -> None:
    decoder = make_decoder(DecoderShape(), 20, 0, seed=1)
    decayed, others = decay_groups(decoder, 1.0, decoder.no_weight_decay())
    named = list(decoder.named_parameters())
    expected = [id(p) for name, p in named if p.ndim > 1 and name not in ("positions", "nothing")]
    assert [id(p) for p in decayed["params"]] == expected
    assert [id(p) for p in others["params"]] == [id(p) for _, p in named if id(p) not in expected]


def test_every_trainable_parameter_of_a_run_is_in_one_group(tmp_path: Path, trained: dict[str, Path]) -> None:
    trainer = trainer_of(run_config(tmp_path, "fm-kd", trained), make_pool(400, 1))
    grouped = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    wanted = [*trainer.student.parameters(), *trainer.objective.parameters()]
    assert sorted(grouped) == sorted(id(p) for p in wanted if p.requires_grad)
    assert trainer.optimizer.param_groups[-1]["params"] == [
        trainer.student.model.logit_scale,
        trainer.student.model.logit_bias,
    ]


def test_the_gradient_is_clipped_and_its_length_told(tmp_path: Path) -> None:
    pool = make_pool(400, 1)
    config = run_config(tmp_path, train__clip=0.25)
    trainer = trainer_of(config, pool)
    (outcome,) = take(trainer, config, pool, 1)
    grads = [p.grad.norm() for g in trainer.optimizer.param_groups for p in g["params"] if p.grad is not None]
    assert outcome.grad_norm.item() > 0.25
    assert float(torch.stack(grads).norm()) == pytest.approx(0.25, rel=1e-4)
    assert outcome.lr == learning_rate(0, 3, peak=1.5e-3, warmup=0.08)
