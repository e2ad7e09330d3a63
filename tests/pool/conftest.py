from collections.abc import Callable
from pathlib import Path

import pytest
from data_fakes import Members, tar_bytes


@pytest.fixture
def write_tar(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tar of members into the test's folder."""

    def write(name: str, members: Members) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar_bytes(members))
        return path

    return write
