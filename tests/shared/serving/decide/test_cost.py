import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.serving.decide.cost import Cost, observed, predict


@given(st.floats(1e-6, 1e-3), st.floats(0, 0.05), st.lists(st.integers(8, 4096), min_size=40, max_size=60))
def test_a_true_line_is_found(slope, fixed, lengths):
    cost = Cost()
    for tokens in [16, 512, *lengths]:
        cost = observed(cost, tokens, slope * tokens + fixed)
    for tokens in (16, 300, 4000):
        assert predict(cost, tokens) == pytest.approx(slope * tokens + fixed, rel=0.05, abs=1e-4)


@given(st.lists(st.tuples(st.integers(-5, 5000), st.floats(allow_nan=True, allow_infinity=True)), max_size=60))
def test_predictions_are_finite_not_negative_and_grow(observations):
    cost = Cost()
    for tokens, seconds in observations:
        cost = observed(cost, tokens, seconds if abs(seconds) < 1e6 else math.inf)
    values = [predict(cost, tokens) for tokens in (0, 1, 10, 100, 1000, 10_000)]
    assert all(math.isfinite(value) and value >= 0 for value in values)
    assert values == sorted(values)
    assert predict(cost, 100, batches=3) >= predict(cost, 100)


@given(st.floats(1.0, 4.0), st.lists(st.floats(0.8, 1.25), min_size=50, max_size=50))
def test_batches_of_one_size_scale_the_line_and_do_not_turn_it(slower, noise):
    """One caller for a while, then many: what is said of sixteen rows follows from the line that was known, not from noise."""
    cost = Cost()
    for tokens in [32, 512, 64, 256] * 20:
        cost = observed(cost, tokens, 0.001 + 1e-5 * tokens)
    for _ in range(400):
        cost = observed(cost, 32, 0.001 + 1e-5 * 32)
    for factor in noise * 10:
        cost = observed(cost, 32, slower * factor * (0.001 + 1e-5 * 32))
    level = predict(cost, 32) / (0.001 + 1e-5 * 32)
    assert 0.79 * slower <= level <= 1.26 * slower
    assert predict(cost, 512) == pytest.approx(level * (0.001 + 1e-5 * 512), rel=0.05)


def test_nearly_one_size_does_not_turn_it_either():
    cost = Cost()
    for tokens in [32, 512, 64, 256] * 20:
        cost = observed(cost, tokens, 0.001 + 1e-5 * tokens)
    for i in range(2000):
        cost = observed(cost, 32 + i % 2, (0.001 + 1e-5 * 32) * (0.7, 1.0, 1.3)[i % 3])
    assert predict(cost, 512) == pytest.approx(0.001 + 1e-5 * 512, rel=0.2)


def test_of_one_size_alone_half_is_taken_to_go_by_tokens():
    cost = Cost()
    for i in range(5000):
        cost = observed(cost, 32, 0.002 + 0.0001 * (i % 3))
    assert predict(cost, 32) == pytest.approx(0.0021, rel=0.1)
    assert predict(cost, 64) == pytest.approx(0.0021 * 1.5, rel=0.1)


def test_it_follows_a_device_that_slows_down():
    cost = Cost()
    for i in range(200):
        cost = observed(cost, 10 + i % 50, 0.001)
    for i in range(200):
        cost = observed(cost, 10 + i % 50, 0.01)
    assert predict(cost, 30) == pytest.approx(0.01, rel=0.1)


def test_nothing_measured_predicts_nothing():
    assert predict(Cost(), 1000) == 0.0
