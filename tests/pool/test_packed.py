import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aced.pool.packed import PackedStrings


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
