import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import rounds

FIGURES = st.floats(1e-3, 1e6)


@given(st.lists(FIGURES, min_size=2, max_size=5))
def test_the_median_lies_within_the_interval(values):
    found = rounds.of(values)
    assert found.median == median(values)
    assert found.low <= found.median * (1 + 1e-9)
    assert found.median <= found.high * (1 + 1e-9)


def test_the_interval_is_students():
    # ln 1, ln e, ln e^2: mean 1, deviation 1, three of them.
    found = rounds.of([1.0, math.e, math.e**2])
    assert math.log(found.high) == pytest.approx(1 + 4.303 / math.sqrt(3), rel=1e-3)
    assert math.log(found.low) == pytest.approx(1 - 4.303 / math.sqrt(3), rel=1e-3)


@given(st.lists(st.tuples(FIGURES, st.floats(0.1, 10)), min_size=5, max_size=5), FIGURES)
def test_what_drifts_alike_on_both_sides_leaves_a_ratio_alone(pairs, factor):
    ratio = rounds.ratio([a * drift * factor for a, drift in pairs], [a * drift for a, drift in pairs])
    assert ratio == pytest.approx((factor, factor, factor), rel=1e-6)


def test_a_round_without_a_figure_makes_no_ratio():
    assert all(map(math.isnan, rounds.ratio([1.0, 0.0], [1.0, 1.0])))
    assert all(map(math.isnan, rounds.ratio([1.0, math.nan], [1.0, 1.0])))
    assert all(map(math.isnan, rounds.of([1.0, math.nan])))


def test_contestants_take_turns_and_the_order_moves_on():
    seen = []
    found = rounds.interleaved(["a", "b", "c"], lambda name: seen.append(name) or len(seen), count=3)
    assert seen == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}
