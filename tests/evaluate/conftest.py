import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos that lies beside a checkout, where there is one."""
    place = os.environ.get("ACED_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data"
    if not Path(place).is_dir():
        pytest.skip(f"no real photos at {place} (set ACED_SHARED_DATA)")
    return Path(place)
