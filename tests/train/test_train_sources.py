"""Several sources and several captions on their way into the loop, and what a run tells about odd data at its end."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aced.config import Config, make_config
from aced.errors import AcedError
from aced.pool.faults import HARMLESS
from aced.pool.loader.filling import Fill
from aced.pool.loader.loading import Loading
from aced.pool.orders.mixture import Mixture
from aced.pool.orders.order import Order
from aced.pool.shards import Shards
from aced.pool.views import View
from aced.train.feed import Faults, feed
from aced.train.run.inputs import make_source
from aced.train.run.ordering import make_order
from cli_fakes import Cli
from run_fakes import picture, quiet, write_pairs
from wording import tells

VIEWS = [View(32)]


def write(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` with 60 pairs, `b` with 150, and `many` with five captions for each of 40 images."""
    folder = tmp_path_factory.mktemp("sources")
    write_pairs(folder / "a/0.tar", range(60))
    write_pairs(folder / "b/0.tar", range(100, 200))
    write_pairs(folder / "b/1.tar", range(200, 250))
    members = {f"{n}.png": picture(n) for n in range(40)}
    lines = {f"{n}.txt": "\n".join(f"{n} as {line}" for line in range(5)).encode() for n in range(40)}
    write(folder / "many/0.tar", members | lines)
    return folder


def config_of(place: Path, *shards: str, seed: int = 0, **data: Any) -> Config:
    keys = {"shards": [str(place / name) for name in shards]} | data
    return make_config({"data": keys, "method": {"name": "iid"}, "train": {"batch": 20}, "run": {"seed": seed}})


def order_of(config: Config, source: Any) -> Order | Mixture:
    return make_order(config, len(source), source.mixture)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_is_fed_as_its_order_says(place: Path, workers: int) -> None:
    config = config_of(place, "a", "b", weights=[3, 1])
    source = make_source(config, quiet())
    assert isinstance(source, Shards)
    assert source.mixture == (60, 150)
    order = order_of(config, source)
    assert isinstance(order, Mixture)
    from_a = 0
    for step, candidates in enumerate(feed(Fill(source, VIEWS), order, range(2, 18), Loading(workers)), start=2):
        assert torch.equal(candidates.indices, order.indices(step))
        assert [int(text.split()[1]) < 100 for text in candidates.texts] == (candidates.indices < 60).tolist()
        from_a += int((candidates.indices < 60).sum())
    assert from_a == 16 * 15


def test_without_weights_the_order_is_the_plain_one(place: Path) -> None:
    config = config_of(place, "a", "b")
    source = make_source(config, quiet())
    assert getattr(source, "mixture", None) == ()
    assert isinstance(make_order(config, len(source)), Order)


@pytest.mark.parametrize("workers", [0, 1])
def test_captions_follow_from_seed_and_epoch(place: Path, workers: int) -> None:
    def texts(seed: int, start: int, count: int = 0) -> list[dict[int, str]]:
        config = config_of(place, "many", seed=seed, caption_choice="random")
        source = make_source(config, quiet())
        batches = feed(Fill(source, VIEWS), order_of(config, source), range(start, 8), Loading(count))
        return [dict(zip(c.indices.tolist(), c.texts, strict=True)) for c in batches]

    run = texts(0, 0, workers)  # four epochs of two steps
    assert texts(0, 3) == run[3:]
    epochs = [run[step] | run[step + 1] for step in range(0, 8, 2)]
    assert all(len(epoch) == 40 for epoch in epochs)
    same = np.mean([epochs[0][n] == epochs[1][n] for n in range(40)])
    assert same < 0.5  # by chance a fifth
    other = texts(1, 0)
    assert (other[0] | other[1]) != epochs[0]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"data": {"shards": ["a", "b"], "weights": [1]}}, "data.weights … 1 … data.shards … 2"),
        ({"data": {"shards": ["a"], "weights": [0]}}, "data.weights.0 = 0"),
        ({"data": {"caption_choice": "random", "in_memory": True}}, "data.in_memory"),
        (
            {"data": {"caption_choice": "random"}, "reference": {"model": "x", "cache": "c"}},
            "'first'",
        ),
        ({"data": {"spool_gb": 0}}, "data.spool_gb = 0"),
    ],
)
def test_what_cannot_go_together(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AcedError) as caught:
        make_config({"method": {"name": "iid"}} | values)
    assert tells(str(caught.value), sentence)


def test_weights_that_cannot_be_met(place: Path) -> None:
    config = make_config(
        {
            "data": {"shards": [str(place / "a"), str(place / "b")], "weights": [9, 1]},
            "method": {"name": "iid"},
            "train": {"batch": 100},
        }
    )
    source = make_source(config, quiet())
    with pytest.raises(AcedError, match=r"entry 1 of data\.shards.* 90 .*100 samples.* 60"):
        order_of(config, source)


def test_oddities_are_counted_in_the_first_epoch_only() -> None:
    from aced.pool.source import Fault

    odd = [Fault("a", "image_alpha", "a: alpha.")]
    count = Faults(max_share=0.0, total=25)
    for _ in range(6):
        count.add([], 10, odd)
    assert count.counts == {"image_alpha": 2}
    assert not count.commonest()


def alpha(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 4), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


WORDS = ("train.steps=8", "train.batch=16", "run.threads=1", "run.out=out", "student.model=aced-demo-s")


def test_the_tables_at_the_end_tell_what_was_lost_and_what_is_odd(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    members = {f"{n}.png": alpha(n) if n < 7 else b"none" if n < 9 else picture(n) for n in range(64)}
    members |= {f"{n}.txt": b"caf\xe9" if n == 20 else b"fine" for n in range(64)}
    whole = write(tmp_path / "pool/0.tar", members | {".hidden.png": b"", "x.y.png": alpha(1)}).read_bytes()
    (tmp_path / "pool/0.tar").write_bytes(whole + write(tmp_path / "1.tar", {"z.txt": b"alone"}).read_bytes())
    ended = cli("train", "scenes", "data.shards=pool", *WORDS, "data.bad_tars=skip", "data.max_bad_share=0.1")
    assert ended.status == 0, ended.err
    lost, odd = ended.out.partition("What could not be used")[2].split("Odd, but used")
    line = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[-1])
    assert tells(ended.out, f"{line['samples']['total']} … 1 … pool … 2")
    last = line["faults"]
    expected = {"tar_data_after_end": 1, "dotted_key": 1, "no_image": 1, "image_unreadable": 2}
    expected_odd = {"no_key": 1, "image_alpha": 7, "caption_not_utf8": 1}
    assert last == expected | expected_odd
    for table, counts in ((lost, expected), (odd, expected_odd)):
        rows = [row for row in table.splitlines() if any(f" {name} " in row for name in last)]
        assert len(rows) == len(counts)
        for name, count in counts.items():
            assert any(f" {name} " in row and f" {count} " in row and "0.tar" in row for row in rows), name
        assert all((name in HARMLESS) == (table is odd) for name in counts)


def test_a_wrong_field_is_told_with_the_fields_there_are(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "pool/0.tar", range(64))
    words = ("train", "scenes", "data.shards=pool", *WORDS, "data.caption=json:WRONG")
    for limit in ("0.01", "1"):
        ended = cli(*words, f"data.max_bad_share={limit}")
        assert ended.status == 2
        assert "caption_no_field: 0.tar/000" in ended.err
        assert tells(ended.err, "WRONG … kind")
    assert not (tmp_path / "out/model").exists()


def test_a_run_on_addresses(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.chdir(tmp_path)
    system = fsspec.filesystem("memory")
    system.pipe("/run/0.tar", write_pairs(tmp_path / "0.tar", range(64)).read_bytes())
    try:
        ended = cli("train", "scenes", "data.shards=memory://run/0.tar", "data.spool_dir=spool", *WORDS)
        assert ended.status == 0, ended.err
        ended = cli("train", "scenes", "data.shards=memory://run/1.tar", "data.spool_dir=spool", *WORDS, "run.out=two")
        assert "memory://run/1.tar" in ended.err
    finally:
        system.store.clear()
