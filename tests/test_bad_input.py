"""Whatever a user, the data or the machine does wrong ends in one clear sentence, and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aced.models import load_tower, save_tower
from cli_fakes import Cli, Ended
from run_fakes import write_pairs
from wording import tells

SMALL = ("data.scenes_size=400", "train.steps=4", "train.batch=16", "train.lr=1.5e-3", "run.threads=1")
"""A run of seconds on scenes; B is 80."""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with all sorts of things that are not what is asked for."""
    (tmp_path / "file").write_text("only a file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/photo.png").write_bytes(b"mine")
    (tmp_path / "broken.toml").write_text("[train]\nsteps = \n")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "page.tar").write_text("<!DOCTYPE html><p>404")
    (tmp_path / "nothing.tar").write_bytes(b"")
    whole = write_pairs(tmp_path / "whole.tar", range(40))
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:-30_000])
    with tarfile.open(tmp_path / "pairless.tar", "w") as tar:
        tar.add(tmp_path / "file", "a.csv")
    return tmp_path


def check(ended: Ended, *fragments: str, status: int = 2) -> None:
    """One sentence, told once, in plain words."""
    assert ended.status == status, ended
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("aced: ")
    assert lines[0][-1] in ".?"
    assert not lines[0].endswith(("..", "?."))
    assert "Traceback" not in ended.out + ended.err
    for fragment in fragments:
        assert tells(lines[0], fragment), lines[0]


TRAIN: list[tuple[str, list[str]]] = [
    # the config
    ("'photoz' … 'photos'", ["photoz"]),
    ("'no/such.toml'", ["no/such.toml"]),
    ("'empty'", ["empty"]),
    ("broken.toml … TOML", ["broken.toml"]),
    ("binary.toml … text", ["binary.toml"]),
    ("'train.stepz' … 'steps'", ["scenes", "train.stepz=3"]),
    ("'trian' … 'train'", ["scenes", "trian.steps=3"]),
    ("'steps=3' … section.key=value", ["scenes", "steps=3"]),
    ("train.steps = 'many'", ["scenes", "train.steps=many"]),
    ("train.betas.1 = 1.5", ["scenes", "train.betas=[0.9,1.5]"]),
    ("'i-ace' … 'i-aced'", ["scenes", "method.name=i-ace"]),
    ("method.filtering_ratio = 1", ["scenes", "method.filtering_ratio=1"]),
    ("method.filtering_ratio = -0.5", ["scenes", "method.filtering_ratio=-0.5"]),
    # models
    ("'aced' … reference", ["scenes", "method.name=aced"]),
    ("no/model", ["scenes", "method.name=aced", "reference.model=no/model"]),
    ("reference.model = 'aced-demo-m' … weights",
     ["scenes", "method.name=aced", "reference.model=aced-demo-m"]),
    ("full: … folder", ["scenes", "method.name=aced", "reference.model=./full/../full"]),
    ("'ViT-B-33'", ["scenes", "student.model=ViT-B-33"]),
    ("no.safetensors", ["scenes", "student.checkpoint=no.safetensors"]),
    ("run.device = 'gpu7'", ["scenes", "run.device=gpu7"]),
    # the super-batch
    ("640 … train.batch 64 / (1 - method.filtering_ratio) … 400 samples",
     ["scenes", "data.scenes_size=400", "method.name=hard-student", "method.filtering_ratio=0.9"]),
    ("64 (train.batch) … 40 samples", ["scenes", "data.shards=whole.tar"]),
    ("400 samples",
     ["scenes", "data.scenes_size=400", "method.name=hard-student", "method.filtering_ratio=0.9999999999"]),
    # data
    ("folder no", ["scenes", "data.shards=no/tars"]),
    ("empty … .tar files", ["scenes", "data.shards=empty"]),
    ("empty/*.tar", ["scenes", "data.shards=empty/*.tar"]),
    ("part-01.tar … part-{01..03}.tar", ["scenes", "data.shards=part-{01..03}.tar"]),
    ("page.tar … web page", ["scenes", "data.shards=page.tar"]),
    ("nothing.tar", ["scenes", "data.shards=nothing.tar"]),
    ("cut.tar", ["scenes", "data.shards=cut.tar"]),
    ("pairless.tar … pair", ["scenes", "data.shards=pairless.tar"]),
    ("1 tars … pair", ["scenes", "data.shards=pairless.tar", "data.bad_tars=skip"]),
    ('"txt" … "json:<field>"', ["scenes", "data.shards=whole.tar", "data.caption=alt"]),
    ("no/eval", ["scenes", "eval.tasks=no/eval"]),
    ("empty … task", ["scenes", "eval.tasks=empty"]),
    # folders
    ("run.out = 'file'", ["scenes", "run.out=file"]),
    ("run.out = 'file/run'", ["scenes", "run.out=file/run"]),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "words"), TRAIN, ids=[" ".join(words) for _, words in TRAIN])
def test_a_run_that_cannot_begin(sentence: str, words: list[str], cli: Cli, place: Path) -> None:
    before = {path.name for path in place.iterdir()}
    out = [] if any(word.startswith("run.out") for word in words) else ["run.out=out"]
    check(cli("train", *words, "run.threads=1", *out), sentence)
    assert {path.name for path in place.iterdir()} == before  # nothing was written


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there(cli: Cli) -> None:
    check(cli("train", "scenes", "run.device=cuda"), "run.device = 'cuda' … 'auto'")


OTHERS: list[tuple[str, list[str]]] = [
    ("--seeds … 0", ["demo", "--seeds", "0"]),
    ("'icad' … 'i-acid'", ["demo", "--methods", "iid,icad"]),
    ("method", ["demo", "--methods", ","]),
    ("--split … 'tset' … 'test' … 'validation'", ["demo", "--split", "tset"]),
    ("file … --out", ["demo", "--out", "file"]),
    ("full … demo … folder", ["demo", "--out", "full"]),
    ("Invalid value for '--threads'", ["demo", "--threads", "-1"]),
    ("No such option: --seed", ["demo", "--seed", "3"]),
    ("see 'aced demo --help'", ["demo", "--seeds", "x"]),
    ("nowhere", ["report", "nowhere"]),
    ("metrics.jsonl", ["report", "full"]),
    ("folder file", ["report", "file"]),
    ("Missing argument", ["report"]),
    ("Missing argument", ["train"]),
    ("No such command 'trian'", ["trian"]),
]


@pytest.mark.parametrize(("sentence", "words"), OTHERS, ids=[" ".join(words) for _, words in OTHERS])
def test_other_commands(sentence: str, words: list[str], cli: Cli, place: Path) -> None:
    before = {path.name for path in place.iterdir()}
    check(cli(*words), sentence)
    assert {path.name for path in place.iterdir()} == before
    assert (place / "full/photo.png").read_bytes() == b"mine"


def test_a_report_on_a_demo_that_was_interrupted(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/demo.json").write_text("{}")
    check(cli("report", "demo"), "results.json is missing")


def test_a_fault_of_the_machine_is_a_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> Ended:
        def load(*_: object) -> None:
            raise error

        monkeypatch.setattr("aced.config.load_config", load)
        return cli("train", "scenes")

    check(fail(PermissionError(13, "Permission denied", "/x/y")), "/x/y: Permission denied", status=1)
    check(fail(OSError(5, "Input/output error")), "Input/output error", status=1)
    check(fail(MemoryError()), "memory … train.batch", status=1)
    check(fail(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")), "out of memory", status=1)
    check(fail(KeyboardInterrupt()), "interrupted … 'aced train ... --resume'", status=130)
    with pytest.raises(RuntimeError, match="bug"):  # a mistake of ours keeps its traceback
        fail(RuntimeError("a bug"))


# -- runs that are in the way, or of another kind ----------------------------------------------------------------------


def test_a_folder_with_a_run_is_kept(cli: Cli, tmp_path: Path) -> None:
    words = ("train", "scenes", *SMALL, "run.out=out")
    assert cli(*words).status == 0
    before = (tmp_path / "out/metrics.jsonl").read_bytes()
    check(cli(*words), "out … --resume … run.out")
    check(cli(*words, "train.lr=1", "--resume"), "train.lr … 0.0015 … 1.0")
    assert (tmp_path / "out/metrics.jsonl").read_bytes() == before
    assert cli(*words, "--resume").status == 0
    assert (tmp_path / "out/metrics.jsonl").read_bytes() == before
    newest = tmp_path / "out/checkpoints/step-00000004/train.json"
    newest.write_text("{")
    check(cli(*words, "--resume"), "step-00000004 … damaged")


def test_a_run_that_diverges_names_the_step(cli: Cli, tmp_path: Path) -> None:
    ended = cli("train", "scenes", *SMALL, "train.lr=1e38", "train.scale_lr=0", "run.out=out")
    check(ended, "aced: Step 2:")
    assert not (tmp_path / "out/checkpoints").exists()
    assert not (tmp_path / "out/model").exists()


def test_a_cache_of_another_model_is_refused(cli: Cli, tmp_path: Path, trained: dict[str, Path]) -> None:
    for number in (1, 2):
        save_tower(load_tower("aced-demo-s", seed=number), tmp_path / f"ref{number}")
    words = ("train", "scenes", *SMALL, "method.name=i-acid", "reference.cache=cache")
    for number in (1, 2):
        assert cli(*words, f"reference.model=ref{number}", f"run.out=out{number}").status == 0
    # Another model has a folder of its own; only a side-car that was moved can be in the wrong place.
    first, second = sorted((tmp_path / "cache/embeddings").iterdir())
    shutil.rmtree(first)
    second.rename(first)
    ended = [cli(*words, f"reference.model=ref{number}", f"run.out=again{number}") for number in (1, 2)]
    refused = [one for one in ended if one.status != 0]
    assert len(refused) == 1
    check(refused[0], "weights")
    # The other one has made its own again; cut, that is damaged.
    tensors = next(second.iterdir())
    tensors.write_bytes(tensors.read_bytes()[:-10])
    number = 1 + [one.status for one in ended].index(0)
    check(cli(*words, f"reference.model=ref{number}", "run.out=third"), "side-car of embeddings", "damaged")


# -- images and tars ---------------------------------------------------------------------------------------------------

TARS = ("train.steps=12", "train.batch=16", "run.threads=1", "run.out=out", "student.model=aced-demo-s")


def test_corrupt_images_are_counted_and_told_at_the_end(cli: Cli, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pool/0.tar", range(200), bad=[5, 77, 150], uncaptioned=[9])
    ended = cli("train", "scenes", "data.shards=pool", *TARS, "data.max_bad_share=0.05")
    assert ended.status == 0, ended.err
    table = ended.out.partition("What could not be used")[2]
    assert [row for row in table.splitlines() if "image_unreadable" in row and " 3 " in row]
    assert [row for row in table.splitlines() if "no_caption" in row and " 1 " in row]
    assert "known format" in table
    last = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[-1])
    assert last["faults"] == {"no_caption": 1, "image_unreadable": 3}


@pytest.mark.parametrize(
    "words", [(), ("data.workers=1",), ("data.in_memory=true",)], ids=["here", "workers", "memory"]
)
def test_too_many_corrupt_images_stop_the_run(words: tuple[str, ...], cli: Cli, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pool/0.tar", range(200), bad=range(0, 200, 4))
    ended = cli("train", "scenes", "data.shards=pool", *TARS, *words)
    assert re.search(r"aced: .*data\.max_bad_share = 0\.01 .*image_unreadable: 0\.tar/00", ended.err)
    check(ended)
    assert not (tmp_path / "out/model").exists()
    # The limit is not part of what is computed: the run goes on with another one.
    limit = "data.max_bad_share=0.5"
    assert cli("train", "scenes", "data.shards=pool", *TARS, *words, limit, "--resume").status == 0


def test_a_corrupt_tar_stops_or_is_skipped(cli: Cli, tmp_path: Path) -> None:
    whole = write_pairs(tmp_path / "pool/0.tar", range(100)).read_bytes()
    (tmp_path / "pool/1.tar").write_bytes(
        write_pairs(tmp_path / "1.tar", range(100, 200)).read_bytes()[: len(whole) // 2]
    )
    words = ("train", "scenes", "data.shards=pool", *TARS)
    check(cli(*words), '1.tar … data.bad_tars = "skip"')
    assert not (tmp_path / "out").exists()
    ended = cli(*words, "data.bad_tars=skip")
    assert ended.status == 0, ended.err
    assert "tar_" in ended.out.partition("What could not be used")[2]


# -- what needs a process of its own -----------------------------------------------------------------------------------

CHILD = "from aced.cli import main; main()"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders below a folder."""
    return [str(path) for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith(".tmp")]


def child(code: str, *words: str) -> Ended:
    run = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=os.environ | ENVIRONMENT
    )
    return Ended(run.returncode, run.stdout, run.stderr)


@pytest.mark.slow
def test_a_full_disk(cli: Cli, tmp_path: Path, trained: dict[str, Path]) -> None:
    """Every file is limited to 100 kB: more than the logs, less than a model or the embeddings."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); {CHILD}"
    words = ("train", "scenes", *SMALL, "run.checkpoint_every=2", "run.out=out")
    check(child(limited, *words), "Disk full", "checkpoints")
    assert not list((tmp_path / "out/checkpoints").iterdir())
    assert not leftovers(tmp_path)
    check(cli(*words), "out … --resume")
    assert cli(*words, "--resume").status == 0
    assert (tmp_path / "out/results.json").is_file()

    reference = ("method.name=i-acid", f"reference.model={trained['large']}", "reference.cache=cache")
    words = ("train", "scenes", *SMALL, *reference, "run.out=cached", "reference.cache_dtype=float32")
    check(child(limited, *words), "Disk full", "cache")
    assert not list((tmp_path / "cache").rglob("*.*"))
    assert not leftovers(tmp_path)
    assert cli(*words).status == 0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Any]:
    """Starts a run in a process group of its own, which is gone after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            # A test run started in the background of a script ignores SIGINT, and its children would inherit that.
            [sys.executable, "-c", f"import signal; signal.signal(2, signal.default_int_handler); {CHILD}", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | ENVIRONMENT,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c(workers: int, running: Any, cli: Cli, tmp_path: Path) -> None:
    words = ("train", "scenes", "data.scenes_size=400", "train.batch=16", "run.threads=1", "train.steps=3000",
             "run.checkpoint_every=5", "run.log_every=1", f"data.workers={workers}", "run.out=out")  # fmt: skip
    process = running(*words)
    wait_for_checkpoint(process, tmp_path, behind=0)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
    out, err = process.communicate(timeout=300)
    check(Ended(process.returncode, out, err), f"interrupted; step {newest(tmp_path)} of 3000 is saved", status=130)
    assert not leftovers(tmp_path)
    assert not (tmp_path / "out/model").exists()

    step = newest(tmp_path)
    check(cli(*words, "train.steps=5", "--resume"), "train.steps … 3000 … 5")
    process = running(*words, "--resume")
    wait_for_checkpoint(process, tmp_path, behind=step)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert f"step {step}" in out
    assert process.returncode == 130


def newest(folder: Path) -> int:
    """The step of the newest checkpoint of the run in `out`."""
    found = (folder / "out/checkpoints").glob("step-*")
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)


def wait_for_checkpoint(process: subprocess.Popen[str], folder: Path, *, behind: int) -> None:
    while newest(folder) <= behind:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
