"""Tars that are removed, replaced or touched under a run: it ends in order, or goes on without them and says so."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from early_ends import STEPS, BeforeStep, same_run, steps_in
from rich.console import Console

from aced.config import Config
from aced.errors import AcedError, told
from aced.pool.shards import open_shards
from aced.pool.tars import tarfiles
from aced.pool.tars.losttars import KnownTar, KnownTars
from aced.pool.views import View
from aced.programs.train import train_program
from aced.runtime.stopping import Stopped
from aced.train.run.fit import fit
from aced.train.run.fitted import Fitted
from aced.train.run.inputs import make_inputs
from aced.train.run.student import make_student
from run_fakes import lines_of, quiet, run_config, write_pairs
from wording import tells

TARS, PAIRS = 4, 30
VIEW = View(32)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for tar in range(TARS):
        write_pairs(tmp_path / f"pool/{tar}.tar", range(tar * PAIRS, (tar + 1) * PAIRS), bad=[5])
    return tmp_path / "pool"


def config_of(
    out: Path, pool: Path, method: str = "iid", trained: dict[str, Path] | None = None, **keys: Any
) -> Config:
    keys = {"train__steps": STEPS, "run__log_every": 1, "data__shards": [str(pool)], "train__batch": 8, **keys}
    keys["run__threads"] = torch.get_num_threads()  # what `run` takes; bits depend on it
    return run_config(out, method, trained, **keys)


def run(config: Config) -> Fitted:
    student = make_student(config)
    return fit(config, make_inputs(config, student, quiet()), student, quiet())


def resume(config: Config) -> str:
    """Go on as the command does; what it printed."""
    console = Console(width=400, record=True, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    train_program(config, console, resume=True)
    return console.export_text()


def removed(tar: Path) -> None:
    tar.unlink()


def renamed(tar: Path) -> None:
    tar.rename(tar.with_name("other.tar.bak"))


def shorter(tar: Path) -> None:
    os.truncate(tar, tar.stat().st_size // 2)


def longer(tar: Path) -> None:
    with tar.open("ab") as file:
        file.write(b"\0" * 512)


def emptied(tar: Path) -> None:
    tar.write_bytes(b"")


def a_folder(tar: Path) -> None:
    tar.unlink()
    tar.mkdir()


def another_one(tar: Path) -> None:
    write_pairs(tar.with_suffix(".new"), range(900, 900 + PAIRS)).replace(tar)


def a_dead_link(tar: Path) -> None:
    tar.unlink()
    tar.symlink_to("nowhere.tar")


def switched(tar: Path) -> None:
    tar.unlink()
    tar.symlink_to(write_pairs(tar.with_suffix(".other"), range(900, 903)))


GONE = [removed, renamed, a_folder, a_dead_link]
CHANGED = [shorter, longer, emptied, another_one, switched]


def fresh(source: Any) -> Any:
    """The source without open files, as a process that starts now has it."""
    import pickle

    return pickle.loads(pickle.dumps(source))


@pytest.mark.parametrize("loss", [*GONE, *CHANGED])
def test_what_is_read_of_a_tar_that_is_lost(loss: Callable[[Path], None], pool: Path) -> None:
    stopping, skipping = (open_shards([str(pool)], bad_tars=how) for how in ("stop", "skip"))
    whole = skipping.read(range(TARS * PAIRS), [VIEW])
    loss(pool / "1.tar")
    with pytest.raises(AcedError, match=r"1\.tar.*data\.lost_tars"):
        fresh(stopping).read([PAIRS], [VIEW])
    rest = fresh(skipping).read(range(TARS * PAIRS), [VIEW])
    kept = (whole.indices // PAIRS != 1).nonzero().flatten()
    assert rest.indices.tolist() == whole.indices[kept].tolist()
    assert (rest.images[VIEW] == whole.images[VIEW][kept]).all()
    lost = [fault for fault in rest.faults if fault.name != "image_unreadable"]
    assert {fault.name for fault in lost} == {"tar_gone" if loss in GONE else "tar_changed"}
    assert [fault.key for fault in lost] == [f"1.tar/#{row}" for row in range(PAIRS)]
    assert all("1.tar" in fault.detail for fault in lost)


def test_a_folder_that_is_unmounted(pool: Path) -> None:
    source = open_shards([str(pool)], bad_tars="skip")
    pool.rename(pool.with_name("elsewhere"))
    assert {fault.name for fault in fresh(source).read(range(4), [VIEW]).faults} == {"tar_gone"}


def test_a_tar_without_rights(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_shards([str(pool)], bad_tars="skip")

    def refused(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(tarfiles, "FileIO", refused)
    assert [fault.name for fault in fresh(source).read([0], [VIEW]).faults] == ["tar_gone"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_this_process_lacks_is_no_lost_tar(number: int, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_shards([str(pool)], bad_tars="skip")

    def refused(path: Path) -> Any:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(tarfiles, "FileIO", refused)
    with pytest.raises(AcedError, match=os.strerror(number)):
        fresh(source).read([0], [VIEW])


def test_a_tar_that_is_open_is_read_to_its_end(pool: Path) -> None:
    source = open_shards([str(pool)])
    before = source.read([PAIRS], [VIEW])
    another_one(pool / "1.tar")
    assert (source.read([PAIRS], [VIEW]).images[VIEW] == before.images[VIEW]).all()  # of the file that was indexed


def test_a_tar_that_is_only_touched_or_copied_is_the_same(pool: Path, tmp_path: Path, before_step: BeforeStep) -> None:
    run(config_of(tmp_path / "whole", pool))

    def touch() -> None:
        os.utime(pool / "0.tar", ns=(1, 1))
        shutil.copy(pool / "1.tar", pool / "1.new")
        (pool / "1.new").replace(pool / "1.tar")

    before_step(2, touch)
    run(config_of(tmp_path / "touched", pool))
    same_run(tmp_path / "whole", tmp_path / "touched")


def test_a_lost_tar_ends_the_run_in_order(pool: Path, tmp_path: Path, before_step: BeforeStep) -> None:
    before_step(3, lambda: emptied(pool / "1.tar"))
    with pytest.raises(AcedError, match=r"1\.tar.*changed") as ended:
        run(config_of(tmp_path / "run", pool))
    assert steps_in(tmp_path / "run") == [3]
    assert "Step 3" in told(ended.value)  # and no word that the same command goes on
    with pytest.raises(AcedError) as refused:
        resume(config_of(tmp_path / "run", pool))
    assert "1.tar" in str(refused.value)
    assert "data.lost_tars=allow" in told(refused.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_with_skip_a_lost_tar_is_a_counted_fault(
    workers: int, pool: Path, tmp_path: Path, before_step: BeforeStep
) -> None:
    before_step(2, lambda: emptied(pool / "1.tar"))
    keys: dict[str, Any] = {"data__bad_tars": "skip", "data__max_bad_share": 0.01, "train__steps": 20}
    fitted = run(config_of(tmp_path / "run", pool, data__workers=workers, **keys))
    # A quarter of the pool, which is far above the limit of damaged samples; each counts once.
    assert 0 < fitted.faults.counts["tar_changed"] <= PAIRS
    assert lines_of(tmp_path / "run/metrics.jsonl")[-1]["faults"]["tar_changed"] == fitted.faults.counts["tar_changed"]
    assert fitted.faults.met.count >= fitted.faults.counts["tar_changed"]


def test_damaged_samples_still_count_against_the_limit(pool: Path, tmp_path: Path, before_step: BeforeStep) -> None:
    write_pairs(pool / "0.tar", range(PAIRS), bad=range(12))
    before_step(1, lambda: emptied(pool / "1.tar"))
    keys: dict[str, Any] = {"data__bad_tars": "skip", "data__max_bad_share": 0.02, "train__batch": 16}
    with pytest.raises(AcedError, match=r"data\.max_bad_share = 0\.02"):
        run(config_of(tmp_path / "run", pool, **keys))


def test_when_most_tars_are_lost_the_run_ends_in_order(pool: Path, tmp_path: Path, before_step: BeforeStep) -> None:
    before_step(3, lambda: [emptied(tar) for tar in pool.glob("*.tar")])
    with pytest.raises(AcedError, match=r"0 of 8 .*tar_changed"):
        run(config_of(tmp_path / "run", pool, data__bad_tars="skip"))
    assert steps_in(tmp_path / "run") == [3]


# -- going on ----------------------------------------------------------------------------------------------------------


def interrupted(config: Config, before_step: BeforeStep, step: int = 3) -> None:
    before_step(step, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        run(config)


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("iid", {}),
    ("iid", {"data__caption_choice": "random"}),
    ("iid", {"data__locality": 1, "data__streams": 2}),
    ("i-acid", {"method__filtering_ratio": 0.5}),
    ("aced", {"method__filtering_ratio": 0.5, "scoring__cascade": 0.75, "scoring__early": True}),
]


@pytest.mark.parametrize(("method", "keys"), WAYS)
def test_a_run_that_goes_on_without_a_tar_is_the_one_that_never_had_to(
    method: str, keys: dict[str, Any], pool: Path, tmp_path: Path, trained: dict[str, Path], before_step: BeforeStep
) -> None:
    keys = {"data__bad_tars": "skip", **keys}
    if method != "iid":
        keys["reference__cache"] = str(tmp_path / "cache")
    shutil.copytree(pool, tmp_path / "copy")
    before_step(2, lambda: emptied(pool / "1.tar"))
    run(config_of(tmp_path / "whole", pool, method, trained, **keys))
    shutil.rmtree(pool)
    (tmp_path / "copy").rename(pool)

    before_step(2, lambda: emptied(pool / "1.tar"))
    interrupted(config_of(tmp_path / "halves", pool, method, trained, **keys), before_step, 3)
    removed(pool / "1.tar")
    with pytest.raises(AcedError, match=r"1\.tar .*30.*data\.lost_tars=allow"):
        resume(config_of(tmp_path / "halves", pool, method, trained, **keys))
    emptied(pool / "1.tar")  # as in the whole run: changed, and not gone
    said = resume(config_of(tmp_path / "halves", pool, method, trained, data__lost_tars="allow", **keys))
    assert tells(said, "1 of 4 tars, 30 of 120 samples … 1.tar … changed … 30")
    same_run(tmp_path / "whole", tmp_path / "halves")


def test_a_file_that_is_named_and_gone(pool: Path, tmp_path: Path, before_step: BeforeStep) -> None:
    for tar in range(TARS, 8):
        write_pairs(pool / f"{tar}.tar", range(tar * PAIRS, (tar + 1) * PAIRS))
    named: dict[str, Any] = {"data__shards": [f"{pool}/{{0..6}}.tar", f"{pool}/7.tar"], "data__bad_tars": "skip"}
    interrupted(config_of(tmp_path / "run", pool, **named), before_step)
    removed(pool / "2.tar")
    removed(pool / "7.tar")
    with pytest.raises(AcedError, match=r"2\.tar"):
        resume(config_of(tmp_path / "run", pool, **named))
    said = resume(config_of(tmp_path / "run", pool, data__lost_tars="allow", **named))
    assert tells(said, "2 of 8 tars, 60 of 240 samples … 2.tar … 30 … 7.tar … 30")
    assert steps_in(tmp_path / "run")[-1] == STEPS


STREAMS: dict[str, Any] = {"data__locality": 2, "data__streams": 2}


@pytest.mark.parametrize("order", [{}, STREAMS])
def test_a_tar_that_is_back_is_read_again_and_a_new_one_left_out(
    order: dict[str, Any], pool: Path, tmp_path: Path, before_step: BeforeStep
) -> None:
    keys: dict[str, Any] = {"data__bad_tars": "skip", **order}
    run(config_of(tmp_path / "whole", pool, data__lost_tars="allow", **keys))
    interrupted(config_of(tmp_path / "halves", pool, data__lost_tars="allow", **keys), before_step)
    write_pairs(pool / "00.tar", range(500, 530))  # the first of the folder now
    with pytest.raises(AcedError, match="1 tar "):
        resume(config_of(tmp_path / "halves", pool, **keys))
    said = resume(config_of(tmp_path / "halves", pool, data__lost_tars="allow", **keys))
    assert "0.tar" not in said
    same_run(tmp_path / "whole", tmp_path / "halves")


def test_weights_keep_their_sources(pool: Path, tmp_path: Path, before_step: BeforeStep) -> None:
    keys: dict[str, Any] = {
        "data__bad_tars": "skip",
        "data__shards": [f"{pool}/{{0,1}}.tar", f"{pool}/{{2,3}}.tar"],
        "data__weights": [3, 1],
    }
    interrupted(config_of(tmp_path / "run", pool, **keys), before_step)
    removed(pool / "0.tar")
    resume(config_of(tmp_path / "run", pool, data__lost_tars="allow", **keys))
    last = lines_of(tmp_path / "run/metrics.jsonl")[-1]
    assert last["budgets"]["samples_loaded"] == 8 * STEPS
    assert last["faults"]["tar_gone"] > 0


def test_tars_are_matched_by_content_whatever_they_are_called() -> None:
    known = KnownTars(
        (KnownTar("a/0.tar", "how x", 3), KnownTar("b/0.tar", "how y", 4), KnownTar("c.tar", "how x", 3)), (7, 3)
    )
    assert known.match(["y", "x"]) == [1, 0, -1]
    assert known.match(["x", "x", "z"]) == [0, -1, 1]
    assert known.groups == [2, 1]
    now = KnownTars((KnownTar("0.tar", "how y", 4), KnownTar("a/0.tar", "how q", 1), KnownTar("n.tar", "how n", 1)))
    assert tells("; ".join(known.differences(now)), "a/0.tar … changed … 3 … c.tar … gone … 3 … 1 tar … new")
    assert KnownTars.load(known.values()) == known
