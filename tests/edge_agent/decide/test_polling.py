"""The next request is waited for awake only where they come fast."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.polling import NEVER, is_near, observed

HORIZON = 2e-4
gaps = st.lists(st.floats(0.0, 10.0), max_size=50)


def after(found: list[float]) -> float:
    mean = NEVER
    for gap in found:
        mean = observed(mean, gap, HORIZON)
    return mean


def test_nothing_is_near_before_anything_came():
    assert not is_near(NEVER, HORIZON)


def test_two_in_quick_succession_begin_it_and_a_few_that_do_not_come_end_it():
    assert is_near(after([1e-4]), HORIZON)
    assert is_near(after([1e-4] * 20 + [5.0]), HORIZON)
    assert not is_near(after([1e-4] * 20 + [5.0] * 3), HORIZON)


@given(gaps, st.integers(0, 20))
def test_what_is_rare_is_never_waited_for_for_long(history, rare):
    mean, vain = after(history), 0
    for _ in range(rare):
        vain += is_near(mean, HORIZON)
        mean = observed(mean, 1.0, HORIZON)
    assert vain <= 3


@given(gaps)
def test_the_mean_is_within_twice_the_horizon(history):
    mean = after(history)
    assert mean == NEVER if not history else 0.0 <= mean <= 2 * HORIZON
