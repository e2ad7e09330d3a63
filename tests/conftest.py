"""What all tests share: the number of threads, the command line, trained models, real photos."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cli_fakes import Cli, Ended

THREADS = int(os.environ.get("OMP_NUM_THREADS") or 1)
"""One, since a second one on a busy core costs far more than it gives; `make unit THREADS=2` tries two."""
torch.set_num_threads(THREADS)

for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    # A shell's background job ignores the one and `nohup` the other, and every child inherits that: `aced` respects it,
    # so that tests of signals would wait in vain.
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first: where several processes share the tests, none is left with a long file at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def _cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is kept in the home of whoever runs the tests."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache-home"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tars whose headers were read."""
    from aced.pool.tars import tarindex
    from aced.pool.tars.tars import TarListing, list_tar

    found: list[str] = []

    def walk(path: Path) -> TarListing:
        found.append(Path(path).name)
        return list_tar(path)

    monkeypatch.setattr(tarindex, "list_tar", walk)
    return found


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A test that sets another number, as most commands do, sets it for itself alone."""
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `aced` with some words, in this process."""
    from aced.cli import main
    from aced.runtime.stopping import SIGNALS

    monkeypatch.setenv("COLUMNS", "200")  # sentences in tables are not broken

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["aced", *map(str, words)])
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        with pytest.raises(SystemExit) as ended:
            main()
        for number, handler in handlers.items():  # a program that is stopped ignores further signals until it is gone
            signal.signal(number, handler)
        printed = capsys.readouterr()
        return Ended(ended.value.code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models with weights, to be used as reference: `large` and `peer`, wider and as wide as the student."""
    from aced.models import load_tower, save_tower

    folder = tmp_path_factory.mktemp("trained")
    for name, model in (("large", "aced-demo-m"), ("peer", "aced-demo-s")):
        save_tower(load_tower(model, seed=7), folder / name)
    return {name: folder / name for name in ("large", "peer")}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos that lies beside a checkout, where there is one."""
    place = os.environ.get("ACED_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data"
    if not Path(place).is_dir():
        pytest.skip(f"no real photos at {place} (set ACED_SHARED_DATA)")
    return Path(place)
