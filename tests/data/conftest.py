import os
from collections.abc import Callable
from pathlib import Path

import pytest
from data_fakes import Members, tar_bytes


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos that lies beside a checkout, where there is one."""
    place = os.environ.get("ACED_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data"
    if not Path(place).is_dir():
        pytest.skip(f"no real photos at {place} (set ACED_SHARED_DATA)")
    return Path(place)


@pytest.fixture
def write_tar(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tar of members into the test's folder."""

    def write(name: str, members: Members) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar_bytes(members))
        return path

    return write
