import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aced.data.packed import PackedStrings
from aced.data.tarfiles import TarKeys


@given(st.lists(st.lists(st.text(max_size=8), max_size=6), max_size=5), st.randoms())
def test_packed_strings_are_the_strings(parts, random):
    packed = [PackedStrings.of(part) for part in parts]
    joined, plain = PackedStrings.joined(packed), [string for part in parts for string in part]
    assert list(joined) == plain
    assert len(joined) == len(plain)
    rows = [row for row in range(len(plain)) if random.random() < 0.5]
    assert list(joined.take(np.array(rows, dtype=np.int64))) == [plain[row] for row in rows]
    assert joined[1:3] == plain[1:3]
    assert joined.nbytes == len("".join(plain).encode()) + 8 * (len(plain) + 1)
    with pytest.raises(IndexError):
        joined[len(plain)]


def test_names_that_are_no_utf8_come_back():
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert PackedStrings.of([name, "x"])[0] == name


def test_keys_of_several_tars():
    keys = TarKeys(["a", "b", "c"], [PackedStrings.of(part) for part in (["1", "2"], [], ["2", "3", "1"])])
    assert list(keys) == ["a/1", "a/2", "c/2", "c/3", "c/1"]
    assert [keys.tar_of(row) for row in range(5)] == [0, 0, 2, 2, 2]
    assert keys[-1] == "c/1"
    assert keys.repeated() == (2, "c/2")
    assert TarKeys(["a"], [PackedStrings.of(["1"])]).repeated() == (0, None)
