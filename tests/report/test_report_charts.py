from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aced.report import charts
from aced.report.aggregate import KindShares
from aced.report.charts import Series, Style, series_styles, spread
from aced.report.numbers import compact

LINE = [(1.0, 10.0), (2.0, 20.0), (3.0, 25.0)]


@given(
    st.lists(st.floats(-5, 105), min_size=1, max_size=20),
    st.floats(0.1, 30),
)
def test_spread_labels_keep_their_order_and_distance(positions: list[float], gap: float) -> None:
    placed = spread(positions, gap, 0.0, 100.0)
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    ascending = [placed[i] for i in order]
    assert all(-1e-9 <= value <= 100 + 1e-9 for value in ascending)
    room = 100 / (len(positions) - 1) if len(positions) > 1 else gap
    assert all(b - a >= min(gap, room) - 1e-6 for a, b in pairwise(ascending))


def test_spread_leaves_labels_with_room_alone() -> None:
    assert spread([50.0, 10.0, 90.0], 10.0, 0.0, 100.0) == [50.0, 10.0, 90.0]
    assert spread([10.0, 11.0, 30.0], 4.0, 0.0, 40.0) == [8.5, 12.5, 30.0]


def test_styles_differ() -> None:
    styles = series_styles([i == 2 for i in range(25)])
    assert styles[2] == Style("s0", "o")
    assert len(set(styles)) == 25
    assert len({(s.colour, s.marker) for s in styles}) == 25


def drawings() -> dict[str, str]:
    styles = series_styles([True, False])
    pair = [
        Series("IID <b>$x_$", styles[0], points=[(2.0, 30.0), (2.0, 32.0)], line=LINE),
        Series("ACED", styles[1], points=[(5.0, 60.0)]),
    ]
    shares = KindShares([10.0, 20.0], {"clean": [0.5, 0.9], "junk": [0.5, 0.1]}, {"clean": 0.3, "junk": 0.7})
    one = KindShares([10.0], {"clean": [1.0]}, {})
    far = [Series("a", styles[0], points=[(1.0, 3.0)]), Series("b", styles[1], points=[(1e6, 4.0)])]
    return {
        "accuracy": charts.accuracy_chart(pair, title="one", unit=compact, reference=61.0),
        "logarithmic": charts.accuracy_chart(far, title="log", unit=compact, reference=99.0),
        "single": charts.accuracy_chart(pair[1:], title="two", unit=compact),
        "lines": charts.lines_chart(pair, title='three "quoted" & <more>'),
        "kinds": charts.kinds_chart(shares, {"clean": "k0", "junk": "k5"}, title="four"),
        "one interval": charts.kinds_chart(one, {"clean": "k0"}, title="five", wide=True),
        "scores": charts.scores_chart(LINE, [(x, y - 5) for x, y in LINE], styles[1], title="six"),
        "marker": charts.marker_svg(styles[1]),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return drawings()


def test_charts_are_clean_inline_svg(drawn: dict[str, str]) -> None:
    for name, svg in drawn.items():
        root = ET.fromstring(svg)
        assert root.tag == "svg", name
        assert "http" not in svg, name
        assert "font-family" not in svg, name
        # Every colour is one of the page's variables, so that both themes work.
        assert not re.search(r"#[0-9a-fA-F]{6}(?=[;\"])", svg.replace('href="#', "")), name
        ids = re.findall(r' id="([^"]+)"', svg)
        assert len(ids) == len(set(ids)), name
        assert set(re.findall(r'(?:url\(|href=")#([\w.-]+)', svg)) == set(ids), name


def test_charts_are_named_for_readers(drawn: dict[str, str]) -> None:
    assert ET.fromstring(drawn["lines"]).get("aria-label") == 'three "quoted" & <more>'
    assert ET.fromstring(drawn["lines"]).get("role") == "img"
    assert ET.fromstring(drawn["marker"]).get("aria-hidden") == "true"


def test_names_are_text_and_not_markup_or_formulas(drawn: dict[str, str]) -> None:
    texts = ["".join(e.itertext()) for e in ET.fromstring(drawn["accuracy"]).iter("text")]
    assert "IID <b>$x_$" in texts
    assert "ACED" in texts
    assert "reference" in texts
    # A lone series needs no name, and a reference far above is left out.
    single = ["".join(e.itertext()) for e in ET.fromstring(drawn["single"]).iter("text")]
    assert "ACED" not in single
    assert "reference" not in "".join(ET.fromstring(drawn["logarithmic"]).itertext())


def test_drawing_twice_gives_the_same(drawn: dict[str, str]) -> None:
    assert drawings() == drawn


def test_a_users_matplotlib_settings_have_no_say(drawn: dict[str, str]) -> None:
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "red", "font.size": 40}):
        assert drawings() == drawn


def test_heavy_imports_wait() -> None:
    code = (
        "import sys, aced.report, aced.report.panels, aced.report.page, aced.report.table;"
        "bad = {'matplotlib', 'torch'} & set(sys.modules); assert not bad, bad;"
        "from aced.report import charts; charts.marker_svg(charts.Style('s1', 'o'));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
