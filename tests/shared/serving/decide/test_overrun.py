import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.serving.decide.overrun import BEGIN_S, FULL_S, share

LATE = st.floats(0, 10)


@given(LATE, LATE)
def test_the_later_the_more_between_none_and_all(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0.0 <= share(low) <= share(high) <= 1.0


def test_none_for_a_loop_in_time_and_all_where_it_cannot_recover_otherwise() -> None:
    assert share(0.0) == share(BEGIN_S) == 0.0
    assert share((BEGIN_S + FULL_S) / 2) == pytest.approx(0.5)
    assert share(FULL_S) == 1.0
