"""Small open_clip configs, built once each, and a world without a network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from tower_fakes import CONFIGS, write_config

from aced.models import Tower, load_tower


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to open a connection fails the test."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every small config as a JSON file."""
    folder = tmp_path_factory.mktemp("configs")
    return {name: write_config(folder / f"{name}.json", config) for name, config in CONFIGS.items()}


@pytest.fixture(scope="session")
def towers(configs: dict[str, Path]) -> dict[str, Tower]:
    """A tower of each small config, and the smallest demo model; not to be changed by a test."""
    built = {name: load_tower(path, seed=1).eval() for name, path in configs.items()}
    return {**built, "demo": load_tower("aced-demo-s", seed=1).eval()}


@pytest.fixture
def demo() -> Tower:
    """A demo tower of one's own."""
    return load_tower("aced-demo-s", seed=0)
