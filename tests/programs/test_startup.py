from __future__ import annotations

import gc

import pytest

from aced.runtime.startup import uncollected


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_off_inside_and_as_before_outside(on: bool) -> None:
    (gc.enable if on else gc.disable)()
    try:
        with pytest.raises(ImportError), uncollected():  # noqa: PT012
            assert not gc.isenabled()
            kept = [[]]
            raise ImportError
        assert gc.isenabled() == on
        assert gc.get_freeze_count() > 0
        assert not any(one is kept for one in gc.get_objects())
    finally:
        gc.enable()
        gc.unfreeze()
