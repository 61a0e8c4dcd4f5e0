"""The tests against what can be counted out exactly, and against published values."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.significance import Table, difference, drifted, more_often

SMALL = st.integers(0, 12)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    of, base_of = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    return Table(draw(st.integers(0, of)), of, draw(st.integers(0, base_of)), base_of)


def counted_out(table: Table) -> float:
    """The hypergeometric tail as a fraction."""
    bad, of, base_bad, base_of = table
    marked, total = bad + base_bad, of + base_of
    ways = sum(
        math.comb(marked, k) * math.comb(total - marked, of - k)
        for k in range(bad, min(of, marked) + 1)
        if of - k <= total - marked
    )
    return float(Fraction(ways, math.comb(total, of)))


@given(tables())
def test_one_table_is_counted_out(table: Table) -> None:
    worse = table.bad * table.base_of > table.base_bad * table.of
    assert more_often([table]) == pytest.approx(counted_out(table) if worse else 1.0, rel=1e-9)


def test_the_lady_tasting_tea() -> None:
    """Fisher's own example: all four found is a chance of 1 in 70."""
    assert more_often([Table(4, 4, 0, 4)]) == pytest.approx(1 / 70)


@given(st.lists(tables(), min_size=1, max_size=5))
def test_a_chance_is_a_chance_and_a_lesser_share_is_none(found: list[Table]) -> None:
    assert 0.0 <= more_often(found) <= 1.0
    if (difference(found) or 0.0) <= 0.0:
        assert more_often(found) == 1.0


def test_devices_that_differ_among_themselves_are_no_difference_of_versions() -> None:
    """Simpson's paradox: no device is worse, but the one with more errors has answered more since."""
    found = [Table(100, 1000, 10, 100), Table(1, 100, 10, 1000)]
    assert difference(found) == pytest.approx(0.0)
    assert more_often(found) == 1.0
    pooled = Table(101, 1100, 20, 1100)
    assert more_often([pooled]) < 1e-10


def test_equal_versions_are_called_worse_as_rarely_as_the_chance_says() -> None:
    draw = random.Random(7)
    wrong = 0
    for _ in range(1000):
        found = [
            Table(sum(draw.random() < p for _ in range(80)), 80, sum(draw.random() < p for _ in range(80)), 80)
            for p in (0.02, 0.1, 0.3)
        ]
        wrong += more_often(found) < 0.05
    assert wrong <= 70


def test_drift_has_the_published_critical_values() -> None:
    """The two-sided critical distances at 5 % and 1 % of large samples: 1.358 and 1.628 over the root of the sizes."""
    n = 100_000
    root = math.sqrt(n / 2)
    assert drifted(1.358 / root, n, n) == pytest.approx(0.05, abs=0.001)
    assert drifted(1.628 / root, n, n) == pytest.approx(0.01, abs=0.0005)
    assert drifted(0.0, n, n) == 1.0
    assert drifted(0.5, 0, n) == 1.0
    assert drifted(1.0, 1000, 1000) == 0.0
