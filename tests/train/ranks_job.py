"""Steps on several ranks, for test_train_ranks.py; in one process the same functions give what is to be expected.

As a script, under torchrun: `ranks_job.py OUT REFERENCE`. The first rank writes what came out to OUT.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from aced.config import Config
from aced.core.embeddings import Embeddings
from aced.core.selection import draw, select
from aced.lab.scenes import Scenes, make_pool
from aced.pool.loader.filling import Fill, FillJob
from aced.runtime.stopping import Asked
from aced.train.dealing import Pool
from aced.train.distributed import World, open_world
from aced.train.feed import Faults
from aced.train.objective import LossParts
from aced.train.opening import open_step
from aced.train.run.checkpoint import load_checkpoint, save_checkpoint
from aced.train.run.fit import make_trainer
from aced.train.run.loop import _own_draws, _summed, batches_of
from aced.train.run.student import make_student
from aced.train.sharding import whole
from aced.train.step import Outcome, Trainer, train_step
from aced.train.watch import Metrics
from aced.train.wishes import Wishes
from run_fakes import POOL, SUPER, inputs_of, run_config, with_holes

STEPS = 3

METHODS: dict[str, dict[str, Any]] = {
    "aced": {},
    "aced-iidistill": {},
    "h-acid": {"method__loss": "softmax"},
    "i-aced": {},
    "iid": {},
    "fm-kd": {},
    "sigmoid-kd": {},
    "softmax-sigmoid-kd": {},
    "kd-only": {},
    "drrho": {},
}
"""Learnability and easy-reference, every loss and distillation (feature matching projects), two of them, no choice."""

SMALL_POOL, CHEAP_STEPS = 160, 3
"""Two super-batches are an epoch, so that samples are seen again."""

CHEAP: dict[str, tuple[str, dict[str, Any]]] = {
    "early": ("i-aced", {"scoring__early": True}),
    "reuse": ("aced", {"scoring__reuse": 2}),
    "predict": ("aced", {"scoring__reuse": 3, "scoring__unseen": "predict", "scoring__refresh": 0.7}),
    "diverse": ("d-aced", {"scoring__early": True, "method__columns": 20}),
    "coarse": ("iid", {"scoring__resolution": 16, "scoring__coarse_share": 0.3, "train__grad_cache": 3}),
    "independent": ("h-acid-independent", {"scoring__cascade": 0.4, "method__loss": "softmax"}),
    "history": ("dissect", {}),
    "lonely": ("aced", {"scoring__cascade": 0.4, "scoring__reuse": 3}),
    "holes": ("aced", {"scoring__cascade": 0.4, "scoring__early": True, "data__max_bad_share": 0.5}),
    "all": (
        "aced",
        {f"scoring__{key}": value for key, value in {
            "cascade": 0.4, "early": True, "reuse": 3, "resolution": 16, "coarse_share": 0.5,
        }.items()},
    ),
}  # fmt: skip
"""Each cheap way of scoring; in `lonely` the reference keeps candidates of one rank alone, and `holes` lacks some."""


def config_of(reference: Path, method: str, **keys: Any) -> Config:
    keys = {"method__weight": 1.0, **keys} if "kd" in method else keys
    return run_config(Path("unused"), method, {"large": reference, "peer": reference}, **keys)


def trainer_for(config: Config, source: Scenes, world: World, cache: Path | None = None) -> Trainer:
    inputs = world.in_turn(lambda: inputs_of(config, source, cache))
    return make_trainer(config, inputs, make_student(config), world)


def run(trainer: Trainer, config: Config, source: Scenes, steps: int) -> tuple[list[Outcome], dict[str, Tensor]]:
    """So many steps; and the gradients of the first of them, before they are clipped."""
    gradients: dict[str, Tensor] = {}
    clip = trainer.replica.clip

    def noting(*arguments: Any) -> float:
        if not gradients:
            modules = {"student": trainer.student, "objective": trainer.objective}
            for prefix, module in modules.items():
                for name, p in module.named_parameters():
                    if p.grad is not None:
                        gradients[f"{prefix}.{name}"] = whole(p.grad).clone()
        return clip(*arguments)

    trainer.replica.clip = noting  # type: ignore[method-assign]
    batches = batches_of(trainer, source, config, range(trainer.step, trainer.step + steps))
    wishes = Wishes(Asked(), 0, trainer.world)
    outcomes = []
    for _ in range(steps):
        with _own_draws(0, trainer.step, trainer.world.rank, trainer.student.device), _summed(trainer, wishes):
            outcomes.append(train_step(trainer, batches))
    return outcomes, gradients


def numbers_of(parts: LossParts) -> list[float]:
    """The losses of a step; 0 where nothing is distilled."""
    return [0.0 if part is None else part.item() for part in astuple(parts)]


def facts_of(outcomes: list[Outcome], trainer: Trainer) -> dict[str, Any]:
    """What can be told apart about steps, JSON-ready; batches as sets, since ranks order them by their shares."""
    ledger = trainer.ledger
    return {
        "candidates": [o.candidates.tolist() for o in outcomes],
        "batches": [sorted(o.candidates[o.rows].tolist()) for o in outcomes],
        "losses": [numbers_of(o.parts) for o in outcomes],
        "norms": [o.grad_norm.item() for o in outcomes],
        "counts": [ledger.samples_loaded, ledger.samples_trained],
        "flops": dict(ledger.flops),
        "cached": ledger.cached_flops,
        "faults": dict(trainer.faults.counts),
    }


def method_steps(world: World, pool: Scenes, reference: Path) -> dict[str, Any]:
    """Every method, each plain and with gradient caching."""
    found: dict[str, Any] = {}
    for name, keys in METHODS.items():
        for cache in (0, 3):
            config = config_of(reference, name, train__grad_cache=cache, **keys)
            trainer = trainer_for(config, pool, world)
            outcomes, gradients = run(trainer, config, pool, STEPS if not cache else 1)
            found[f"{name} {cache}"] = (facts_of(outcomes, trainer), gradients)
    return found


def cheap_steps(world: World, reference: Path) -> dict[str, Any]:
    """Every cheap way of scoring, with a cache; what is remembered afterwards, too."""
    found: dict[str, Any] = {}
    small = make_pool(SMALL_POOL, 1)
    for name, (method, keys) in CHEAP.items():
        config, holes = config_of(reference, method, **keys), name == "holes"
        pool = with_holes(small, 7) if holes else small
        trainer = trainer_for(config, pool, world, reference.parent / ("cache-holes" if holes else "cache"))
        if name == "lonely":
            trainer.plan.sieve.keep = lambda *_: torch.arange(SUPER - 20, SUPER)  # type: ignore
        outcomes, gradients = run(trainer, config, pool, CHEAP_STEPS)
        held = trainer.memory.tensors() if trainer.memory is not None else {}
        # What is embedded, and what is fitted to that, differs in the last bits; a fit of other pairs is another one.
        rough = ("image", "text", "flops", "gram", "cross", "maps")
        facts = {key: value.tolist() for key, value in held.items() if key.rpartition(".")[2] not in rough}
        if trainer.history is not None:
            facts["known"] = trainer.history.tensors()["history.scores"].isfinite().tolist()
        if "fit.gram" in held:  # means over pairs, which are of the size of gradients
            pairs = held["fit.gram"][0, -1, -1]
            gradients |= {key: held[key] / pairs for key in ("fit.gram", "fit.cross")}
        found[f"cheap {name}"] = (facts_of(outcomes, trainer) | {"held": facts}, gradients)
    return found


def hole_steps(world: World, pool: Scenes, reference: Path) -> dict[str, Any]:
    """A pool of which every seventh sample is unreadable: ranks have unequal numbers of candidates."""
    found = {}
    for name in ("aced", "iid"):
        config = config_of(reference, name, data__max_bad_share=0.5)
        source = with_holes(pool, 7)
        trainer = trainer_for(config, source, world)
        outcomes, gradients = run(trainer, config, source, STEPS)
        found[f"holes {name}"] = (facts_of(outcomes, trainer), gradients)
    return found


def smooth(trainer: Trainer) -> Trainer:
    """The trainer with an update that rounding in the gradients cannot magnify.

    AdamW divides a gradient by its own size, so that an element that is rounding alone, such as that of the bias of
    attention's keys, moves by the whole learning rate in either direction. With eps = 1 it moves by no more than the
    learning rate times that rounding.
    """
    for group in trainer.optimizer.param_groups:
        group["eps"] = 1.0
    return trainer


def fsdp_steps(world: World, pool: Scenes, reference: Path, folder: Path) -> dict[str, Any]:
    """Three steps sharded; their weights; and one more step after a checkpoint, written sharded, read by DDP."""
    found: dict[str, Any] = {}
    for parallel, cache in (("ddp", 0), ("fsdp", 0), ("fsdp", 5)):
        config = config_of(reference, "aced", run__parallel=parallel, train__grad_cache=cache)
        trainer = smooth(trainer_for(config, pool, world))
        outcomes, gradients = run(trainer, config, pool, STEPS)
        state = {f"weights.{k}": v.clone() for k, v in trainer.replica.whole_student().model.state_dict().items()}
        found[f"{parallel} {cache}"] = (facts_of(outcomes, trainer), gradients | state)
        if cache:
            continue
        metrics = Metrics(folder / f"{parallel}.jsonl", None, 1)
        path = save_checkpoint(folder / parallel, trainer, metrics, config)
        for other in ("ddp", "fsdp"):
            config = config_of(reference, "aced", run__parallel=other)
            again = smooth(trainer_for(config, pool, world))
            load_checkpoint(path, again, metrics, config)
            facts = facts_of(run(again, config, pool, 1)[0], again)
            state = {f"weights.{k}": v.clone() for k, v in again.replica.whole_student().model.state_dict().items()}
            found[f"{parallel} then {other}"] = (facts, state)
    return found


LOCKS = {"image": ["image"], "projections": ["image", "text", "!visual.head.proj", "!text.text_projection"]}
"""A whole tower, and all of both but what comes last."""


def locked_steps(world: World, pool: Scenes, reference: Path) -> dict[str, Any]:
    """Parts of the student locked, sharded and not; gradients of the first step, and weights after three."""
    found: dict[str, Any] = {}
    for name, parts in LOCKS.items():
        for parallel, cache in (("ddp", 0), ("fsdp", 0), ("fsdp", 5)) if world.size > 1 else (("ddp", 0),):
            keys = {"run__parallel": parallel, "train__grad_cache": cache, "train__lock": parts}
            config = config_of(reference, "aced", **keys)
            trainer = smooth(trainer_for(config, pool, world))
            outcomes, gradients = run(trainer, config, pool, STEPS)
            state = trainer.replica.whole_student().model.state_dict()
            tensors = gradients | {f"weights.{key}": value.clone() for key, value in state.items()}
            found[f"locked {name} {parallel} {cache}"] = (facts_of(outcomes, trainer), tensors)
    return found


def cheap_resumed(world: World, reference: Path, folder: Path) -> dict[str, Any]:
    """Weights and memory of runs that went on from a checkpoint, and of the same that had none, sharded and not."""
    found: dict[str, Any] = {}
    pool, cache = make_pool(SMALL_POOL, 1), reference.parent / "cache"
    keys = {"scoring__cascade": 0.4, "scoring__reuse": 3}
    for parallel in ("ddp", "fsdp"):
        config = config_of(reference, "aced", run__parallel=parallel, **keys)
        metrics = Metrics(folder / f"{parallel}.jsonl", None, 1)
        straight, resumed = (smooth(trainer_for(config, pool, world, cache)) for _ in range(2))
        run(straight, config, pool, 2)
        load_checkpoint(save_checkpoint(folder / parallel, straight, metrics, config), resumed, metrics, config)
        for name, trainer in (("straight", straight), ("resumed", resumed)):
            facts = facts_of(run(trainer, config, pool, 2)[0], trainer)
            state = trainer.replica.whole_student().model.state_dict()
            tensors = {f"weights.{k}": v.clone() for k, v in state.items()}
            assert trainer.memory is not None
            tensors |= trainer.memory.tensors()
            found[f"{name} {parallel}"] = (facts, tensors)
    return found


def inputs_travel(world: World, pool: Scenes) -> bool:
    """Whether each rank's share of two batches, wherever it was loaded, is what the source has at its positions.

    All of it in one exchange, with what a model has made of the pairs; of texts that ranks have cut to other widths.
    """
    g = torch.Generator().manual_seed(0)
    student = make_student(run_config(Path("unused")))
    views = [student.view]
    positions = torch.randperm(POOL, generator=g)[:77]
    starts = torch.tensor([*[0, 1, 50, 60, 77][: world.size], 77])
    own = positions[starts[world.rank] : starts[world.rank + 1]] if world.size > 1 else positions
    for scope in ("global", "quota"):
        loaded = Fill(pool, views, [student.ids])(FillJob(own, torch.zeros_like(own)))
        name, ids = student.ids.name, loaded.columns[student.ids.name]
        cut = replace(loaded, columns={name: student.ids.sent(ids)[:, : 30 - world.rank]})
        told = open_step(world, cut, 77, Faults(1.0, POOL))
        there = Pool(cut, world, scope, told.positions, told.widths)  # type: ignore[arg-type]
        assert there.positions.tolist() == positions.tolist()
        made = Embeddings(*torch.stack([own, own + 0.5])[:, :, None].expand(2, len(own), 3).float())
        deals = [there.deal(torch.randperm(77, generator=g)[:30]) for _ in range(2)]
        count = Counting(world)
        taken = there.take(deals, made)
        assert count.stop() == (world.size > 1 and scope == "global")
        for dealt, (mine, known) in zip(deals, taken, strict=True):
            expected = positions[dealt.rows[dealt.takers == world.rank]]
            true = pool.read(expected.tolist(), views)
            assert mine.indices.tolist() == expected.tolist()
            got, wanted = mine.columns[name], student.ids.load(true)
            assert torch.equal(got, wanted[:, : got.shape[1]])
            assert bool((wanted[:, got.shape[1] :] < 0).all())
            assert everyones(world, got.shape[1]) == [got.shape[1]] * world.size
            assert all(torch.equal(mine.images[v], true.images[v]) for v in views)
            assert known is not None
            assert known.image[:, 2].tolist() == expected.tolist()
            assert known.text[:, 0].tolist() == (expected + 0.5).tolist()
            shares = torch.bincount(dealt.takers, minlength=world.size)
            assert scope == "quota" or int(shares.max() - shares.min()) <= 1
            assert scope == "global" or torch.equal(dealt.takers, dealt.owners)
    return True


class Counting:
    """Counts how often a rank gives rows to others."""

    def __init__(self, world: World) -> None:
        self._world, self._count, exchange = world, 0, world.exchange

        def counted(*arguments: Any) -> Tensor:
            self._count += 1
            return exchange(*arguments)

        world.exchange = counted  # type: ignore[method-assign]

    def stop(self) -> int:
        """How often it did."""
        del self._world.exchange
        return self._count


def scope_steps(world: World, pool: Scenes, reference: Path) -> dict[str, Any]:
    """Quota and local: how many of each rank's candidates were chosen, step by step."""
    found = {}
    cascade = {"scoring__cascade": 0.4, "scoring__reuse": 3}
    rows = {
        "aced": {},
        "aced-iidistill": {},
        "aced late": cascade,
        "aced early": {**cascade, "scoring__early": True},
    }
    for scope in ("quota", "local"):
        for name, keys in rows.items():
            config = config_of(reference, name.split()[0], method__scope=scope, **keys)
            trainer = trainer_for(config, pool, world, reference.parent / "cache-pool" if keys else None)
            outcomes, _ = run(trainer, config, pool, STEPS)
            owners = [(o.rows // (len(o.candidates) // world.size)).tolist() for o in outcomes]
            shares = [[of.count(r) for r in range(world.size)] for of in owners]
            found[f"{scope} {name}"] = facts_of(outcomes, trainer) | {"shares": shares}
    return found


def lonely_steps(world: World, pool: Scenes, reference: Path) -> dict[str, Any]:
    """Steps in which the last of several ranks can read nothing and has no pairs to train on.

    And the same batch in one process, which would never have drawn it.
    """
    found: dict[str, Any] = {}
    source = with_holes(pool, 1) if 0 < world.rank == world.size - 1 else pool
    for name, keys in {"aced": {}, "aced cached": {"train__grad_cache": 3}, "fm-kd": {}}.items():
        config = config_of(reference, name.split()[0], method__scope="quota", data__max_bad_share=0.9, **keys)
        trainer = trainer_for(config, source, world)
        outcomes, gradients = run(trainer, config, source, 1)
        found[f"lonely {name}"] = (facts_of(outcomes, trainer), gradients)
        found[f"lonely {name}, alone"] = whole_batch(config, pool, outcomes[0])
    return found


def whole_batch(config: Config, pool: Scenes, outcome: Outcome) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The loss and gradients of the pairs of a first step, by autograd through one student in one process."""
    trainer = trainer_for(config, pool, World())
    views = {view for part in (trainer.student, *trainer.teachers) for view in getattr(part, "views", ())}
    batch = pool.read(outcome.candidates[outcome.rows].tolist(), [trainer.student.view, *views])
    e = trainer.student.train().embed(batch)
    loss, parts = trainer.objective(e, e, [t.embed(batch, trainer.ledger, "teacher") for t in trainer.teachers])
    loss.backward()
    modules = {"student": trainer.student, "objective": trainer.objective}
    named = [(f"{prefix}.{name}", p.grad) for prefix, m in modules.items() for name, p in m.named_parameters()]
    facts = {"batches": [], "losses": [numbers_of(parts)]}
    return facts, {name: gradient for name, gradient in named if gradient is not None}


def draws(world: World) -> dict[str, Any]:
    """For each scope the exchanges that one draw of four chunks makes, and whether it is that of one process."""
    found = {}
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    student, reference = (
        Embeddings(*torch.nn.functional.normalize(torch.randn(2, 60, 12, generator=g), dim=2), 10.0, -5.0)
        for g in generators
    )
    one = select(student, reference, 16, chunks=4, generator=torch.Generator().manual_seed(2)).indices.tolist()
    own = torch.arange(60).tensor_split(world.size)
    gather, add = world.gather, world.sum
    for scope in ("global", "quota", "local"):
        made: list[str] = []
        world.gather = lambda *a, made=made: (made.append("gather"), gather(*a))[1]  # type: ignore[assignment]
        world.sum = lambda *a, made=made: (made.append("sum"), add(*a))[1]  # type: ignore[assignment]
        chosen = draw(
            student[own[world.rank]],
            reference[own[world.rank]],
            16,
            world,
            [len(rows) for rows in own],
            scope=scope,  # type: ignore[arg-type]
            chunks=4,
            generator=torch.Generator().manual_seed(2),
        )
        world.gather, world.sum = gather, add  # type: ignore[method-assign]
        found[scope] = [len(made), chosen.indices.tolist() == one]
    return found


def everyones(world: World, value: Any) -> list[Any]:
    """Every rank's value."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def same_everywhere(world: World, value: Any) -> bool:
    return len({json.dumps(v, sort_keys=True) for v in everyones(world, value)}) == 1


def main(out: Path, reference: Path) -> None:
    world = open_world(60)
    world.connect(torch.device("cpu"))
    pool = make_pool(POOL, 1)
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "methods": lambda: method_steps(world, pool, reference) | hole_steps(world, pool, reference),
        "lonely": lambda: lonely_steps(world, pool, reference),
        "cheap": lambda: cheap_steps(world, reference),
    }
    if world.size == 2:
        sections["fsdp"] = lambda: fsdp_steps(world, pool, reference, out / "fsdp")
        sections["locked"] = lambda: locked_steps(world, pool, reference)
        sections["resumed"] = lambda: cheap_resumed(world, reference, out / "resumed")
    results: dict[str, Any] = {"size": world.size, "inputs": inputs_travel(world, pool)}
    tensors: dict[str, Tensor] = {}
    for section, work in sections.items():
        for name, (facts, found) in work().items():
            facts["everywhere"] = same_everywhere(world, [facts["batches"], facts["losses"]])
            results[name] = facts
            tensors |= {f"{name}/{key}": value.contiguous() for key, value in found.items()}
        assert section
    results |= scope_steps(world, pool, reference) | {"draws": draws(world)}
    if world.first:
        from safetensors.torch import save_file

        save_file(tensors, out / "tensors.safetensors")
        (out / "results.json").write_text(json.dumps(results))
    world.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
