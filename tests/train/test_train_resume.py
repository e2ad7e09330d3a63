"""A run that is stopped and resumed is, to the bit, the run that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from aced.config import Config, load_config
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.models import load_tower, save_tower
from aced.runtime.progress import Bars
from aced.train.run.fit import fit
from aced.train.run.fitted import Fitted
from aced.train.run.student import make_student
from run_fakes import inputs_of, lines_of, quiet, run_config, stopping_at, with_holes

STEPS = 8
"""An epoch is five steps of 80 of the 400 pairs, so both halves of a run cross its end or start behind it."""


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(400, 1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(config: Config, pool: Scenes, cache: Path | None = None, *, bars: Bars | None = None, **how: Any) -> Fitted:
    """A run with new objects throughout, as in a new process."""
    return fit(config, inputs_of(config, pool, cache), make_student(config), bars or quiet(), **how)


def interrupted(config: Config, pool: Scenes, cache: Path | None, at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(config, pool, cache, bars=stopping_at(at))


def facts(folder: Path, step: int = STEPS) -> dict[str, Any]:
    """What a checkpoint says, without what the clock and the config's free keys said."""
    content: dict[str, Any] = json.loads((folder / f"checkpoints/step-{step:08d}/train.json").read_text())
    del content["config"]["run"], content["ledger"]["seconds"]
    return content


def same_run(one: Path, other: Path) -> None:
    for name in ("model/model.safetensors", f"checkpoints/step-{STEPS:08d}/train.safetensors", "gallery.json"):
        if (one / name).exists() or not name.startswith("gallery"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert lines_of(one / "metrics.jsonl") == lines_of(other / "metrics.jsonl")
    assert facts(one) == facts(other)


# Log lines at 3, 6 and 8: a checkpoint at 4 lies between two of them, one at 3 at a line. Five steps are an epoch.
@pytest.mark.parametrize(
    ("name", "every", "stop"),
    [("aced", 4, 6), ("aced-iidistill", 3, 5), ("fm-kd", 4, 7), ("iid", 5, 5), ("d-aced", 4, 6)],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    name: str, every: int, stop: int, pool: Scenes, cache: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    def config(out: str, checkpoint_every: int) -> Config:
        keys = {"run__log_every": 3, "run__checkpoint_every": checkpoint_every, "train__steps": STEPS}
        return run_config(tmp_path / out, name, trained, **keys)

    whole = run(config("whole", 0), pool, cache)
    interrupted(config("halves", every), pool, cache, stop)
    assert sorted(p.name for p in (tmp_path / "halves/checkpoints").iterdir()) == [f"step-{every:08d}"]
    halves = run(config("halves", every), pool, cache, resume=True)
    same_run(tmp_path / "whole", tmp_path / "halves")
    assert [line["step"] for line in lines_of(tmp_path / "halves/metrics.jsonl")] == [3, 6, 8]
    assert halves.clean_share == whole.clean_share


def test_the_count_of_faults_goes_on(pool: Scenes, tmp_path: Path) -> None:
    source = with_holes(pool, 9)
    keys: dict[str, Any] = {"run__checkpoint_every": 3, "train__steps": STEPS, "data__max_bad_share": 0.5}
    whole = run(run_config(tmp_path / "whole", **keys), source)
    interrupted(run_config(tmp_path / "halves", **keys), source, None, 5)
    halves = run(run_config(tmp_path / "halves", **keys), source, resume=True)
    assert halves.faults == whole.faults
    assert whole.faults.counts["image_empty"] > 5
    same_run(tmp_path / "whole", tmp_path / "halves")


def test_resumed_twice_with_other_workers_and_log_steps(pool: Scenes, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"run__checkpoint_every": 2, "train__steps": STEPS}
    run(run_config(tmp_path / "whole", **keys), pool)
    interrupted(run_config(tmp_path / "parts", **keys), pool, None, 3)
    with pytest.raises(KeyboardInterrupt):
        run(run_config(tmp_path / "parts", **keys, run__log_every=1), pool, bars=stopping_at(5), resume=True)
    run(run_config(tmp_path / "parts", **keys, data__workers=1), pool, resume=True)
    whole, parts = (tmp_path / name / "model/model.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    assert [line["step"] for line in lines_of(tmp_path / "parts/metrics.jsonl")] == [2, 3, 4, 6, 8]


def test_a_finished_run_may_be_resumed(pool: Scenes, tmp_path: Path) -> None:
    config = run_config(tmp_path / "run")
    first = run(config, pool)
    weights = (tmp_path / "run/model/model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run/model")
    again = run(config, pool, resume=True)
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == weights
    assert again.ledger == first.ledger


def test_a_run_killed_before_its_first_checkpoint_starts_anew(pool: Scenes, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"run__log_every": 1, "train__steps": 4}
    run(run_config(tmp_path / "whole", **keys), pool)
    interrupted(run_config(tmp_path / "parts", **keys), pool, None, 3)
    assert len(lines_of(tmp_path / "parts/metrics.jsonl")) == 3
    with pytest.raises(AcedError, match=r"train\.lr.*0\.0015.*0\.1"):
        run(run_config(tmp_path / "parts", **keys, train__lr=0.1), pool, resume=True)
    run(run_config(tmp_path / "parts", **keys), pool, resume=True)
    assert lines_of(tmp_path / "whole/metrics.jsonl") == lines_of(tmp_path / "parts/metrics.jsonl")


def test_an_evaluation_is_neither_lost_nor_doubled(
    pool: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aced.lab.scenes import make_tasks
    from aced.train.run import loop

    config = run_config(tmp_path / "run", run__checkpoint_every=2, eval__every=2, train__steps=6)
    tasks = make_tasks("validation", n=20, retrieval_n=10)[:2]
    save = loop.save_checkpoint

    def killed(folder: Path, trainer: Any, *rest: Any) -> Path:
        if trainer.step == 4:
            raise KeyboardInterrupt
        return save(folder, trainer, *rest)

    def go(*, resume: bool) -> None:
        inputs = replace(inputs_of(config, pool), tasks=tasks)
        fit(config, inputs, make_student(config), quiet(), resume=resume)

    monkeypatch.setattr(loop, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        go(resume=False)
    monkeypatch.setattr(loop, "save_checkpoint", save)
    go(resume=True)
    assert [line["step"] for line in lines_of(tmp_path / "run/evals.jsonl")] == [2, 4]


def test_only_the_newest_two_checkpoints_are_kept(pool: Scenes, tmp_path: Path) -> None:
    run(run_config(tmp_path / "run", run__checkpoint_every=1, train__steps=5), pool)
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == ["step-00000004", "step-00000005"]


def test_as_many_checkpoints_are_kept_as_asked(pool: Scenes, tmp_path: Path) -> None:
    run(run_config(tmp_path / "run", run__checkpoint_every=1, train__steps=4, run__keep=3), pool)
    assert sorted(p.name[-1] for p in (tmp_path / "run/checkpoints").iterdir()) == ["2", "3", "4"]
    # Fewer from now on: a resumed run may say so.
    interrupted(run_config(tmp_path / "less", run__checkpoint_every=1, train__steps=4, run__keep=3), pool, None, 3)
    run(run_config(tmp_path / "less", run__checkpoint_every=1, train__steps=4, run__keep=1), pool, resume=True)
    assert [p.name[-1] for p in (tmp_path / "less/checkpoints").iterdir()] == ["4"]


def test_what_a_kill_behind_the_last_save_left_too_many_goes_when_the_run_is_resumed(
    pool: Scenes, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"run__checkpoint_every": 2, "train__steps": 4, "run__keep": 1}
    config, folder = run_config(tmp_path / "run", **keys), tmp_path / "run/checkpoints"
    run(run_config(tmp_path / "run", **{**keys, "run__keep": 2}), pool)  # as it is before the older one is removed
    assert sorted(p.name[-1] for p in folder.iterdir()) == ["2", "4"]
    run(config, pool, resume=True)
    assert [p.name[-1] for p in folder.iterdir()] == ["4"]


def test_what_a_killed_process_was_writing_is_removed(pool: Scenes, tmp_path: Path) -> None:
    config = run_config(tmp_path / "run", run__checkpoint_every=2, train__steps=4)
    interrupted(config, pool, None, 3)
    checkpoints = tmp_path / "run/checkpoints"
    # Of another machine, of an older process, a file and a folder that had lost its name.
    (checkpoints / ".step-00000004.elsewhere.1.tmp/model").mkdir(parents=True)
    (checkpoints / ".step-00000001.0123456789ab.tmp").mkdir()
    (tmp_path / "run/.metrics.jsonl.0123456789ab.tmp").write_text("half a li")
    # safetensors writes to a file of its own first, wherever it is told to write.
    (tmp_path / "run/model").mkdir()
    (tmp_path / "run/model/.tmp6aTIUc").write_text("half of the weights")
    run(config, pool, resume=True)
    left = [path.name for path in (tmp_path / "run").rglob(".*")]
    assert not left


def test_killed_again_before_the_next_checkpoint(pool: Scenes, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"run__log_every": 1, "run__checkpoint_every": 3, "train__steps": STEPS}
    run(run_config(tmp_path / "whole", **keys), pool)
    interrupted(run_config(tmp_path / "parts", **keys), pool, None, 5)
    for workers, stop in ((2, 4), (1, 5), (0, 7), (2, 7)):
        again = run_config(tmp_path / "parts", **keys, data__workers=workers)
        with pytest.raises(KeyboardInterrupt):
            run(again, pool, bars=stopping_at(stop), resume=True)
    run(run_config(tmp_path / "parts", **keys), pool, resume=True)
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_resumed_run_may_begin(pool: Scenes, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"train__steps": 2}
    run(run_config(tmp_path / "whole", **keys), pool)
    run(run_config(tmp_path / "other", **keys), pool, resume=True)
    assert lines_of(tmp_path / "whole/metrics.jsonl") == lines_of(tmp_path / "other/metrics.jsonl")
    (tmp_path / "other/config.toml").unlink()
    with pytest.raises(AcedError, match=r"other .*'metrics\.jsonl'.*config\.toml"):
        run(run_config(tmp_path / "other", **keys), pool, resume=True)


def test_what_a_model_draws_depends_on_the_step(pool: Scenes, tmp_path: Path) -> None:
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16, "patch_dropout": 0.5}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    (tmp_path / "dropping.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    keys: dict[str, Any] = {"run__log_every": 1, "run__checkpoint_every": 2, "train__steps": 5}
    keys |= {"student__model": str(tmp_path / "dropping.json"), "method__loss": "softmax"}
    run(run_config(tmp_path / "whole", **keys), pool)
    torch.manual_seed(9)
    interrupted(run_config(tmp_path / "parts", **keys), pool, None, 3)
    torch.manual_seed(10)
    before = torch.get_rng_state()
    run(run_config(tmp_path / "parts", **keys), pool, resume=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert lines_of(tmp_path / "whole/metrics.jsonl") == lines_of(tmp_path / "parts/metrics.jsonl")
    whole, parts = (tmp_path / name / "model/model.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_a_lost_newest_checkpoint_leaves_the_one_before(pool: Scenes, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"run__log_every": 3, "run__checkpoint_every": 3, "train__steps": STEPS}
    run(run_config(tmp_path / "whole", **keys), pool)
    interrupted(run_config(tmp_path / "parts", **keys), pool, None, 7)
    newest = tmp_path / "parts/checkpoints/step-00000006"
    (newest / "train.safetensors").write_bytes((newest / "train.safetensors").read_bytes()[:-100])
    with pytest.raises(AcedError, match=r"step-00000006 .*damaged"):
        run(run_config(tmp_path / "parts", **keys), pool, resume=True)
    shutil.rmtree(newest)
    run(run_config(tmp_path / "parts", **keys), pool, resume=True)
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_line_that_a_kill_cut_is_written_again(pool: Scenes, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"run__log_every": 1, "run__checkpoint_every": 2, "train__steps": STEPS}
    run(run_config(tmp_path / "whole", **keys), pool)
    interrupted(run_config(tmp_path / "parts", **keys), pool, None, 5)
    with (tmp_path / "parts/metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 1.')
    run(run_config(tmp_path / "parts", **keys), pool, resume=True)
    same_run(tmp_path / "whole", tmp_path / "parts")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> Path:
    """A run of ACED with its reference's folder, stopped behind a checkpoint."""
    shutil.copytree(trained["large"], tmp_path / "large")
    interrupted(begun_config(tmp_path), pool, None, 3)
    return tmp_path


def begun_config(folder: Path, **keys: Any) -> Config:
    models = {"large": folder / "large", "peer": folder / "large"}
    return run_config(folder / "run", "i-aced", models, **{"run__checkpoint_every": 2, "train__steps": 4, **keys})


@pytest.mark.parametrize(
    ("key", "value"),
    [("train__lr", 1e-4), ("train__steps", 5), ("run__seed", 1), ("method__name", "aced"), ("method__weight", 3.0)],
)
def test_another_configuration_is_refused(key: str, value: Any, begun: Path, pool: Scenes) -> None:
    before = (begun / "run/metrics.jsonl").read_bytes()
    with pytest.raises(AcedError, match=f"step-00000002.*{key.replace('__', '.')} "):
        run(begun_config(begun, **{key: value}), pool, resume=True)
    assert (begun / "run/metrics.jsonl").read_bytes() == before


def test_what_changes_no_result_may_change(begun: Path, pool: Scenes) -> None:
    keys: dict[str, Any] = {"run__threads": 2, "run__device": "cpu", "data__max_bad_share": 0.5, "eval__every": 9}
    assert run(begun_config(begun, **keys), pool, resume=True).ledger.samples_trained == 4 * 16


def test_a_run_from_before_decoding_was_a_choice_goes_on_with_exact_pixels(begun: Path, pool: Scenes) -> None:
    path = begun / "run/checkpoints/step-00000002/train.json"
    facts = json.loads(path.read_text())
    del facts["config"]["data"]["decoding"]
    facts["config"]["data"]["scaled_decoding"] = False
    path.write_text(json.dumps(facts))
    with pytest.raises(AcedError, match=r"data\.decoding.*'exact'.*'fast'"):
        run(begun_config(begun), pool, resume=True)
    assert run(begun_config(begun, data__decoding="exact"), pool, resume=True).ledger.samples_trained == 4 * 16


def test_a_key_that_there_was_not_yet_counts_as_its_default(begun: Path, pool: Scenes) -> None:
    path = begun / "run/checkpoints/step-00000002/train.json"
    facts = json.loads(path.read_text())
    del facts["config"]["scoring"], facts["config"]["train"]["betas"], facts["config"]["method"]["columns"]
    path.write_text(json.dumps(facts))
    with pytest.raises(AcedError, match=r"train\.betas.*\[0\.9, 0\.95\].*\[0\.9, 0\.99\]"):
        run(begun_config(begun, train__betas=(0.9, 0.99)), pool, resume=True)
    assert run(begun_config(begun), pool, resume=True).ledger.samples_trained == 4 * 16


def test_removed_keys_at_their_defaults_do_not_hold_a_run_up(begun: Path, pool: Scenes) -> None:
    """As an older version wrote them, into the checkpoint and into config.toml; here the latter is the config too."""
    path = begun / "run/checkpoints/step-00000002/train.json"
    facts = json.loads(path.read_text())
    facts["config"]["scoring"] |= {"every": 1, "stale": False, "device": ""}
    path.write_text(json.dumps(facts))
    values = begun_config(begun).model_dump(exclude_none=True, mode="json")
    (begun / "run/config.toml").write_text(tomli_w.dumps({**values, "scoring": facts["config"]["scoring"]}))
    assert run(load_config(begun / "run/config.toml"), pool, resume=True).ledger.samples_trained == 4 * 16


@pytest.mark.parametrize(("key", "value"), [("every", 2), ("stale", True), ("unseen", "assume")])
def test_a_run_that_needs_a_removed_key_is_refused(key: str, value: object, begun: Path, pool: Scenes) -> None:
    path = begun / "run/checkpoints/step-00000002/train.json"
    facts = json.loads(path.read_text())
    facts["config"]["scoring"][key] = value
    path.write_text(json.dumps(facts))
    with pytest.raises(AcedError, match=rf"step-00000002 .*scoring\.{key} = {value!r}.*run\.out"):
        run(begun_config(begun), pool, resume=True)


def test_other_data_are_refused(begun: Path) -> None:
    with pytest.raises(AcedError, match=r"data.*changed"):
        run(begun_config(begun), make_pool(400, 2), resume=True)


def test_another_reference_is_refused(begun: Path, pool: Scenes) -> None:
    save_tower(load_tower("aced-demo-m", seed=8), begun / "large")
    with pytest.raises(AcedError, match=r"reference.*changed"):
        run(begun_config(begun), pool, resume=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.json", b""),
        ("train.json", b"{}"),
        ("train.json", b"[1]"),
        ("train.json", b'{"format": 1, "config": {}}'),
        ("train.safetensors", b""),
        ("model/model.safetensors", b"not tensors at all"),
    ],
)
def test_a_damaged_checkpoint_is_told(name: str, content: bytes, begun: Path, pool: Scenes) -> None:
    (begun / "run/checkpoints/step-00000002" / name).write_bytes(content)
    with pytest.raises(AcedError, match=r"step-00000002"):
        run(begun_config(begun), pool, resume=True)


def test_weights_of_another_shape_are_damage(begun: Path, pool: Scenes, trained: dict[str, Path]) -> None:
    weights = begun / "run/checkpoints/step-00000002/model/model.safetensors"
    weights.write_bytes((trained["large"] / "model.safetensors").read_bytes())
    with pytest.raises(AcedError, match="damaged"):
        run(begun_config(begun), pool, resume=True)


def test_a_damaged_line_is_told(begun: Path, pool: Scenes) -> None:
    path = begun / "run/metrics.jsonl"
    path.write_text("what is this\n" + path.read_text())
    with pytest.raises(AcedError, match=r"metrics\.jsonl.*damaged"):
        run(begun_config(begun), pool, resume=True)


# -- a kill ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    from aced.config import dump_config
    from aced.lab.scenes import make_tasks

    keys: dict[str, Any] = {"run__checkpoint_every": 4, "run__log_every": 3, "train__steps": 24}
    config = run_config(tmp_path / "killed", "aced", trained, **keys)
    (tmp_path / "config.toml").write_text(dump_config(config))
    command = [sys.executable, "-c", "from aced.cli import main; main()", "train", str(tmp_path / "config.toml")]
    where = {"cwd": tmp_path, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.DEVNULL}
    checkpoints = tmp_path / "killed/checkpoints"
    with subprocess.Popen(command, start_new_session=True, **where) as process:  # type: ignore[call-overload]
        while process.poll() is None and not list(checkpoints.glob("step-*")):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/results.json").exists()
    subprocess.run([*command, "--resume"], check=True, **where)  # type: ignore[call-overload]

    torch.set_num_threads(1)  # as the command had
    torch.manual_seed(5)  # the global generator must not matter
    config = run_config(tmp_path / "whole", "aced", trained, **keys)
    inputs = replace(inputs_of(config, pool), tasks=make_tasks("test")[:1])
    fit(config, inputs, make_student(config), quiet())
    for name in ("model/model.safetensors", "checkpoints/step-00000024/train.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert lines_of(tmp_path / "killed/metrics.jsonl") == lines_of(tmp_path / "whole/metrics.jsonl")
    assert not [p for p in checkpoints.iterdir() if not p.name.startswith("step-")]
