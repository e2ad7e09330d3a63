"""The command killed by SIGKILL, at random moments and at file operations, and a disk that fills up in a save.

The driver is `benchmarks/kills.py`, which does the same for longer: children are forked, so that a start costs no
imports.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wording import tells


def _driver() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks/kills.py"
    spec = importlib.util.spec_from_file_location("kills", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kills"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


kills = _driver()
SHORT = ["method.name=iid", "train.steps=4", "run.checkpoint_every=2", "eval.every=0", "run.keep_best=false"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with kills.a_place(tmp_path_factory.mktemp("kills")) as place:
        yield place


@pytest.mark.slow
def test_twenty_kills_at_random_moments(place: Any) -> None:
    said: list[str] = []
    before = place.kills
    assert kills.random_kills(place, before + 20, seed=1, report=said.append) == 0, said
    assert place.kills - before >= 20
    assert len(said) >= len(kills.SETTINGS)


@pytest.mark.slow
def test_kills_between_and_within_file_operations(place: Any) -> None:
    # Every one of them: `python benchmarks/kills.py --operations`.
    said: list[str] = []
    assert kills.operation_kills(place, kills.SHORT, 4, 10**6, 23, said.append) == 0, said
    assert "no more" in said[-1]
    assert len(said) > 4


def test_the_comparison_sees_differences(place: Any, tmp_path: Path) -> None:
    place.whole("seen", SHORT)
    one, two = place.folder / "seen", tmp_path / "two"

    def changed(name: str, change: Any) -> list[str]:
        shutil.rmtree(two, ignore_errors=True)
        shutil.copytree(one, two)
        content = (two / name).read_bytes()
        (two / name).write_bytes(change(content))
        return list(kills.differences(one, two))

    checkpoint = "checkpoints/step-00000004"
    assert changed("metrics.jsonl", lambda c: c) == []
    assert changed("metrics.jsonl", lambda c: c + c.splitlines(keepends=True)[-1]) == ["metrics.jsonl: [1, 2, 3, 4, 4]"]
    assert changed("metrics.jsonl", lambda c: b"".join(c.splitlines(keepends=True)[1:])) == ["metrics.jsonl: [2, 3, 4]"]
    for name in ("model/model.safetensors", f"{checkpoint}/train.safetensors"):
        assert changed(name, lambda c: c[:-1] + bytes([c[-1] ^ 1])) == [name]
    facts = json.loads((one / checkpoint / "train.json").read_text())
    facts["ledger"]["samples_loaded"] += 1
    assert changed(f"{checkpoint}/train.json", lambda _: json.dumps(facts).encode()) == [f"{checkpoint}/train.json"]
    (two / ".left.tmp").write_text("")
    assert ".left.tmp is only in two" in kills.differences(one, two)


# -- a full disk -------------------------------------------------------------------------------------------------------


def begin(place: Any, out: str) -> dict[str, bytes]:
    """A run with a checkpoint at step 2, stopped behind it; its files."""
    child = place.start(out, SHORT, lambda: _die_at_step(3))
    assert place.finish(child) is None
    return files(place.folder / out)


def _die_at_step(step: int) -> None:
    from aced.train.run import loop

    take = loop.train_step

    def stepping(trainer: Any, batches: Any) -> Any:
        if trainer.step == step:
            kills.die()
        return take(trainer, batches)

    loop.train_step = stepping


def files(folder: Path) -> dict[str, bytes]:
    found = folder.glob("checkpoints/step-00000002/**/*")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


# The weights are the largest file (0.6 MB), then the optimiser; train.json has a few KB, metrics.jsonl grows beyond 2.
@pytest.mark.parametrize("limit", ["metrics", 3000, 100_000, "weights"])
def test_a_file_that_cannot_be_written_leaves_the_checkpoint_before(limit: Any, place: Any) -> None:
    place.whole("roomy", SHORT)
    out = f"full-{limit}"
    kept = begin(place, out)
    folder = place.folder / out
    largest = max(map(len, kept.values()))
    size = {"metrics": (folder / "metrics.jsonl").stat().st_size + 50, "weights": largest - 1}.get(limit, limit)
    child = place.start(out, SHORT, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    assert place.finish(child) == 2
    assert "aced: Disk full" in place.said(out)
    assert "Traceback" not in place.said(out)
    assert files(folder) == kept
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-00000002"]
    whole_lines(folder / "metrics.jsonl")
    place.whole(out, SHORT)
    assert kills.differences(place.folder / "roomy", folder) == []


def whole_lines(path: Path) -> None:
    assert path.read_bytes().endswith(b"\n")
    for line in path.read_text().splitlines():
        json.loads(line)


def test_a_disk_that_fills_up(place: Any) -> None:
    place.whole("roomy", SHORT)
    disk = place.folder / "disk"
    disk.mkdir()
    size = sum(p.stat().st_size for p in (place.folder / "roomy/checkpoints").rglob("*"))
    # Room for the first of two checkpoints and a part of the second.
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size * 8 // 10}", "aced-test", str(disk)]
    if sys.platform != "linux" or os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        assert place.finish(place.start("disk/run", SHORT)) == 2
        assert "aced: Disk full" in place.said("disk/run")
        assert sorted(p.name for p in (disk / "run/checkpoints").iterdir()) == ["step-00000002"]
        assert "Traceback" not in place.said("disk/run")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        place.whole("disk/run", SHORT)
        assert kills.differences(place.folder / "roomy", disk / "run") == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# -- the folder --------------------------------------------------------------------------------------------------------


def test_a_folder_is_one_processs_alone(place: Any) -> None:
    out = "alone"
    child = place.start(out, [*SHORT, "train.steps=3000", "data.workers=1"])
    end = time.monotonic() + 300
    while not (place.folder / out / "metrics.jsonl").is_file():
        assert time.monotonic() < end, place.said(out)
        time.sleep(0.01)
    words = [*SHORT, "train.steps=3000"]
    assert place.finish(place.start(out, words)) == 2
    assert tells(place.said(out), f"alone … {child}")
    # Killed without its loading process: that one must not keep the folder.
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert place.finish(place.start(out, [*words, "train.lr=7"])) == 2
    assert tells(place.said(out), "train.lr … 0.0015 … 7.0")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def test_one_command_line_starts_and_goes_on(place: Any) -> None:
    place.whole("same", SHORT)
    weights = (place.folder / "same/model/model.safetensors").read_bytes()
    place.whole("same", SHORT)
    said = place.said("same")
    assert tells(said, "same … beginning … step 4")
    assert (place.folder / "same/model/model.safetensors").read_bytes() == weights


def test_another_number_of_threads_is_told(place: Any) -> None:
    place.whole("threads", SHORT)
    assert "to the bit" not in place.said("threads")
    # In a new process: one that is forked from a process with OpenMP's threads cannot use several itself.
    words = ["train", "config.toml", "run.out=threads", *SHORT, "run.threads=2", "--resume"]
    with place.log("threads").open("ab") as log:
        wide = os.environ | {"COLUMNS": "250"}
        command = [sys.executable, "-m", "aced", *words]
        subprocess.run(command, cwd=place.folder, env=wide, stdout=log, stderr=log, check=True)
    assert "1 CPU thread (cpu, torch" in place.said("threads")
    assert "2 CPU threads (cpu, torch" in place.said("threads")
    assert "bit" in place.said("threads")
