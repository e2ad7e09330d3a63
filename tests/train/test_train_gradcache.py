"""Gradient caching, precision, compilation and recomputed activations: what they may change, and what not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aced.config import Config
from aced.core import losses
from aced.core.embeddings import Embeddings
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.models import load_tower
from aced.models.switches import checkpoint_activations, compile_towers
from aced.pool.source import Candidates
from aced.train.gradcache import GradCache
from aced.train.lossscale import LossScale
from aced.train.run.checkpoint import load_checkpoint, save_checkpoint
from aced.train.watch import Metrics
from run_fakes import POOL, run_config, take, trainer_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(POOL, 1)


@contextmanager
def unsynced(exchange: bool) -> Iterator[None]:
    yield


class Dropping(nn.Module):
    """A model with dropout, so that a second pass is only the first one again if it draws alike."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.scale, self.bias = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-1.0))
        self.calls = 0

    def forward(self, batch: Candidates) -> Embeddings:
        self.calls += 1
        x = batch.indices[:, None].float()
        image = F.dropout(torch.sin(x * torch.arange(1, 7)), 0.5)
        text = torch.cos(x * torch.arange(1, 6))
        return Embeddings(
            F.normalize(self.image(image), dim=1), F.normalize(self.text(text), dim=1), self.scale.exp(), self.bias * 1
        )


def test_the_second_pass_draws_as_the_first() -> None:
    batch = Candidates(torch.arange(10), [""] * 10, {})
    model = Dropping()
    torch.manual_seed(5)
    # The plain step in the same micro-batches, so that the same elements are dropped.
    parts = [model(batch[rows]) for rows in torch.arange(10).split(4)]
    losses.sigmoid(Embeddings.cat(parts)).backward()
    after = torch.get_rng_state()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.manual_seed(5)
    cache = GradCache(model, batch, 4, CPU)
    losses.sigmoid(cache.embedded).backward()
    assert all(p.grad is None for p in model.parameters())
    cache.backward(unsynced, last=True)
    assert torch.equal(torch.get_rng_state(), after)
    assert model.calls == 3 + 6
    assert len(plain) == 6
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, plain[name], atol=1e-6, rtol=1e-6, msg=name)


def test_only_the_last_pass_exchanges_gradients() -> None:
    seen = []

    @contextmanager
    def noting(exchange: bool) -> Iterator[None]:
        seen.append(exchange)
        yield

    batch = Candidates(torch.arange(10), [""] * 10, {})
    model = Dropping()
    for last in (False, True):
        cache = GradCache(model, batch, 4, CPU)
        losses.softmax(cache.embedded).backward()
        cache.backward(noting, last=last)
    assert seen == [False] * 5 + [True]


def test_memory_is_that_of_a_micro_batch(pool: Scenes, tmp_path: Path) -> None:
    """The saved tensors of the towers, counted: with caching as many as for a micro-batch, whatever the batch."""

    def most_saved(batch: int, cache: int) -> int:
        config = run_config(tmp_path, train__batch=batch, train__grad_cache=cache)
        trainer = trainer_of(config, pool)
        now = most = 0

        class Held:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal now, most
                self.tensor, self.size = tensor, tensor.numel()
                now += self.size
                most = max(most, now)

            def __del__(self) -> None:
                nonlocal now
                now -= self.size

        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            take(trainer, config, pool, 1)
        return most

    small, large = most_saved(64, 8), most_saved(128, 8)
    assert most_saved(128, 0) > 8 * large
    assert large < 1.3 * small  # the loss itself grows with the batch


# -- precision ---------------------------------------------------------------------------------------------------------


def config_of(folder: Path, trained: dict[str, Path], **keys: Any) -> Config:
    return run_config(folder, "aced", trained, **keys)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_near_full(precision: str, pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    outcomes = []
    for p in ("fp32", precision):
        config = config_of(tmp_path, trained, train__precision=p)
        trainer = trainer_of(config, pool)
        if p == "fp16":  # where its search for a scale that fits would end
            trainer.replica.scale = LossScale(CPU, enabled=True, first=2.0**8)
        outcomes.append(take(trainer, config, pool, 3))
    full, low = outcomes
    assert full[0].parts.loss.item() != low[0].parts.loss.item()
    for one, other in zip(full, low, strict=True):
        assert other.parts.loss.item() == pytest.approx(one.parts.loss.item(), rel=0.05)


def test_fp16_skips_what_overflows_and_halves_its_scale(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    config = config_of(tmp_path, trained, train__precision="fp16")
    trainer = trainer_of(config, pool)
    trainer.replica.scale = LossScale(CPU, enabled=True, first=2.0**40)
    before = {k: v.clone() for k, v in trainer.student.model.state_dict().items()}
    outcome = take(trainer, config, pool, 1)[0]
    assert outcome.grad_norm.item() == 0
    assert trainer.replica.scale.state()["scale"] == 2.0**39
    after = trainer.student.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    scales = [trainer.replica.scale.state()["scale"]]
    while take(trainer, config, pool, 1)[0].grad_norm.item() == 0:
        scales.append(trainer.replica.scale.state()["scale"])
        assert len(scales) < 40
    assert any(not torch.equal(before[k], v) for k, v in trainer.student.model.state_dict().items())


def test_a_loss_that_is_not_finite_ends_an_fp16_run_too(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    config = run_config(tmp_path, train__precision="fp16")
    trainer = trainer_of(config, pool)
    with torch.no_grad():
        trainer.student.model.logit_bias.fill_(torch.nan)  # type: ignore[operator, union-attr]
    with pytest.raises(AcedError, match=r"loss.*nan"):
        take(trainer, config, pool, 1)


def test_the_scale_of_the_loss_is_in_the_checkpoint(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    config = config_of(tmp_path, trained, train__precision="fp16")
    trainer = trainer_of(config, pool)
    trainer.replica.scale = LossScale(CPU, enabled=True, first=2.0**11, interval=5)
    take(trainer, config, pool, 2)
    metrics = Metrics(tmp_path / "metrics.jsonl", None, 1)
    path = save_checkpoint(tmp_path / "checkpoints", trainer, metrics, config)
    again = trainer_of(config, pool)
    load_checkpoint(path, again, metrics, config)
    assert again.replica.scale.state() == trainer.replica.scale.state()
    assert again.replica.scale.state()["_growth_tracker"] == 2


# -- what a step costs -------------------------------------------------------------------------------------------------


def gradients(pool: Scenes, folder: Path, **keys: Any) -> dict[str, Tensor]:
    config = run_config(folder, **keys)
    trainer = trainer_of(config, pool)
    take(trainer, config, pool, 1)
    return {name: p.grad.clone() for name, p in trainer.student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("model", ["aced-demo-s", "plain"])
def test_activations_computed_anew_give_the_same_gradients(
    model: str, pool: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if model == "plain":
        config = tmp_path / "tiny-plain.json"
        config.write_text(
            '{"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8,'
            ' "head_width": 16}, "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2,'
            ' "layers": 2}}'
        )
        model = str(config)
    calls = []
    from torch.utils import checkpoint

    inner = checkpoint._checkpoint_without_reentrant_generator
    monkeypatch.setattr(
        checkpoint, "_checkpoint_without_reentrant_generator", lambda *a, **k: calls.append(1) or inner(*a, **k)
    )
    plain = gradients(pool, tmp_path, student__model=model)
    assert not calls
    anew = gradients(pool, tmp_path, student__model=model, train__activation_checkpointing=True)
    assert len(calls) >= 4  # blocks of both towers
    assert anew.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(anew[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_a_model_that_cannot_compute_anew_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = load_tower("aced-demo-s", seed=0)
    monkeypatch.delattr(type(tower.model.visual.trunk), "set_grad_checkpointing")  # type: ignore[union-attr]
    with pytest.raises(AcedError, match="'aced-demo-s'"):
        checkpoint_activations(tower)


def test_compiled_towers_embed_alike(pool: Scenes) -> None:
    """By torch's own interpreter of compiled graphs, which needs no C++ compiler; names of weights stay."""
    plain, compiled = load_tower("aced-demo-s", seed=0), load_tower("aced-demo-s", seed=0)
    compile_towers(compiled, backend="eager")
    batch = pool.read(range(12), [plain.view])
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for tower in (plain, compiled):
        losses.sigmoid(tower.embed(batch)).backward()
    for (name, p), q in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-6, rtol=1e-5, msg=name)
    from torch._dynamo.utils import counters

    assert counters["stats"]["unique_graphs"] >= 2
    assert compiled.flops(8) == plain.flops(8)
