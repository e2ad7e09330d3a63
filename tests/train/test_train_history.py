"""Batches by the student's earlier scores (DISSect): whole steps against numpy, several processes, going back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aced.core.embeddings import Embeddings
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.methods import METHODS, register_method
from aced.runs.ledger import Ledger
from aced.train.run.leaving import LastStep
from aced.train.scoring import choosing
from aced.train.scoring.history import History
from aced.train.scoring.history_choice import drawn_by_history
from aced.train.watch import Metrics
from rank_fakes import on_ranks
from run_fakes import BATCH, POOL, SUPER, run_config, take, trainer_of

STEPS = 16
"""Five steps are an epoch, so that a fifth of the pairs has no score when a warm-up of four ends."""
ROUNDING = 1e-4
CPU = torch.device("cpu")
Floats = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(POOL, 1)


class Replay:
    """The authors' warm-up version in numpy, but for pairs without a past, which count as average."""

    def __init__(self) -> None:
        self.past: dict[int, float] = {}

    def record(self, positions: list[int], scores: Floats) -> None:
        self.past |= dict(zip(positions, scores.tolist(), strict=True))

    def gaps(self, positions: list[int], scores: Floats) -> tuple[Floats, np.ndarray[Any, np.dtype[np.bool_]]]:
        """Of every pair, and which have a past."""
        known = np.array([position in self.past for position in positions])
        past = np.array([self.past.get(position, 0.0) for position in positions])
        gaps = np.zeros(len(positions))
        if known.any():
            gaps[known] = (past[known] - past[known].mean()) - (scores[known] - scores[known].mean())
        return gaps, known


def percent(e: Embeddings) -> Floats:
    image, text = e.image.double().numpy(), e.text.double().numpy()
    return np.asarray(np.maximum(0, 100 * np.einsum("bd,bd->b", image, text)))


@pytest.mark.parametrize(
    ("keys", "first", "warm", "end"),
    [({}, 0, 4, STEPS), ({"method__since": 0.25, "method__until": 0.75}, 4, 6, 12)],
)
def test_steps_choose_what_the_definition_says(
    keys: dict[str, Any], first: int, warm: int, end: int, pool: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tmp_path, "dissect", train__steps=STEPS, **keys)
    trainer = trainer_of(config, pool)
    scored: list[Embeddings] = []
    embed = choosing.embed
    monkeypatch.setattr(choosing, "embed", lambda *given: (scored.append(embed(*given)), scored[-1])[1])
    outcomes, replay, unseen = take(trainer, config, pool, STEPS), Replay(), 0
    for step, outcome in enumerate(outcomes):
        assert outcome.scores is None
        if not first <= step < end:
            assert len(outcome.candidates) == BATCH
            continue
        positions, rows = outcome.candidates.tolist(), outcome.rows.tolist()
        scores = percent(scored[step - first])
        if step < warm:
            assert sorted(rows) != list(range(BATCH))
            replay.record(positions, scores)
            continue
        gaps, known = replay.gaps(positions, scores)
        unseen += (~known).sum()
        others = [row for row in range(SUPER) if row not in rows]
        assert gaps[rows].min() >= gaps[others].max() - ROUNDING
        assert (np.diff(gaps[rows]) <= ROUNDING).all()
        # Pairs without a past are equals: the first come first.
        equals = [row for row in rows if not known[row]]
        assert equals == (~known).nonzero()[0].tolist()[: len(equals)]
    assert len(scored) == end - first
    assert unseen > 0
    held = trainer.history
    assert held is not None
    past = held.tensors()["history.scores"]
    assert past.isfinite().nonzero().flatten().tolist() == sorted(replay.past)
    assert past[sorted(replay.past)].tolist() == pytest.approx([replay.past[i] for i in sorted(replay.past)], abs=1e-4)
    assert trainer.ledger.samples_loaded == SUPER * len(scored) + BATCH * (STEPS - len(scored))
    assert trainer.ledger.flops["selection"] == 0


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("scope", ["global", "quota", "local"])
@pytest.mark.parametrize("counts", [[40, 40], [9, 0, 60, 11]])
def test_processes_together_choose_what_one_does_or_each_its_share(counts: list[int], scope: str, step: int) -> None:
    """In the warm-up (step 0) and after it."""
    generator = torch.Generator().manual_seed(1)
    image, text = (F.normalize(torch.randn(80, 8, generator=generator)) for _ in range(2))
    positions = torch.randperm(POOL, generator=generator)[:80]
    known, earlier = positions[::2], 10 * torch.rand(40, generator=generator)

    def work(ranks: Any, size: int = BATCH) -> tuple[list[int], list[int] | None, list[float]]:
        history = History(POOL, 0, 4, CPU)
        history.put(known, earlier)
        own = slice(sum(counts[: ranks.rank]), sum(counts[: ranks.rank + 1]))
        at: Any = SimpleNamespace(
            world=ranks, step=step, counts=counts if ranks.size > 1 else [80], positions=positions, ledger=Ledger(),
            sources=None, settings=SimpleNamespace(batch=size, scope=scope), generator=torch.Generator().manual_seed(2),
        )  # fmt: skip
        mine = Embeddings(image[own], text[own]) if ranks.size > 1 else Embeddings(image, text)
        rows, each, finite = drawn_by_history(history, mine, at)
        assert finite
        return rows.tolist(), each, history.of(positions).tolist()

    found = on_ranks(len(counts), work)
    assert all(str(one) == str(found[0]) for one in found)  # as words: NaN is NaN
    rows, each, past = found[0]
    ((alone, _, same),) = on_ranks(1, work)
    assert past == pytest.approx(same, abs=1e-4, nan_ok=True)
    assert np.isnan(past).sum() == (40 if step else 0)
    if scope == "global":
        assert (rows, each) == (alone, None)
        return
    share = BATCH // len(counts)
    assert each == [min(share, count) for count in counts]
    ((order, _, _),) = on_ranks(1, lambda ranks: work(ranks, 80))
    starts = [sum(counts[:rank]) for rank in range(len(counts))]
    wanted = [[row for row in order if start <= row < start + n] for start, n in zip(starts, counts, strict=True)]
    assert rows == [row for part, size in zip(wanted, each, strict=True) for row in part[:size]]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_history_goes_back_to_where_it_was_kept(steps: int) -> None:
    history, states = History(9, 0, 8, CPU), []
    for step in range(4):
        states.append(history.of(torch.arange(9)))
        history.keep()
        for positions in ([step, step + 1], [step, 8]):
            history.put(torch.tensor(positions), torch.rand(2))
    for _ in range(steps):
        history.back()
    assert torch.equal(history.of(torch.arange(9)).nan_to_num(-1), states[-steps].nan_to_num(-1))


@pytest.mark.parametrize(("broken", "why"), [("logit_scale", "the loss"), ("", "the scores")])
def test_a_broken_step_leaves_no_score(broken: str, why: str, pool: Scenes, tmp_path: Path) -> None:
    config = run_config(tmp_path, "dissect", train__steps=STEPS)
    trainer = trainer_of(config, pool)
    take(trainer, config, pool, 1)
    history = trainer.history
    assert history is not None
    before = history.of(torch.arange(POOL))
    last = LastStep(trainer, Metrics(tmp_path / "metrics.jsonl", None, 1))
    weights = {name: p.clone() for name, p in trainer.student.named_parameters()}
    with torch.no_grad():
        for name, p in trainer.student.named_parameters():
            if broken in name:
                p.fill_(torch.nan)
    with pytest.raises(AcedError, match=f"^Step 2: {why}"):
        take(trainer, config, pool, 1)
    with torch.no_grad():
        for name, p in trainer.student.named_parameters():
            p.copy_(weights[name])
    if broken:
        assert history.of(torch.arange(POOL)).isfinite().sum() == 2 * SUPER
    assert last.put_back()
    assert torch.equal(history.of(torch.arange(POOL)).nan_to_num(-1), before.nan_to_num(-1))


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        ({"cascade": 0.5}, r"scoring\.cascade .*'dissect'"),
        ({"early": True}, r"scoring\.early .*'dissect'"),
        ({"reuse": 4, "unseen": "predict"}, r"scoring\.unseen.*'dissect'"),
    ],
)
def test_what_needs_a_reference_is_refused(scoring: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(AcedError, match=message):
        run_config(tmp_path, "dissect", **{f"scoring__{key}": value for key, value in scoring.items()})


@pytest.mark.parametrize("other", [{"score": "learnability"}, {"concepts": "diversity"}])
def test_a_row_chooses_in_one_way(other: dict[str, Any]) -> None:
    with pytest.raises(AcedError, match=f"'both' .*{next(iter(other))}.*history"):
        register_method(replace(METHODS["dissect"], name="both", **other))
