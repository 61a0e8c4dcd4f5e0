import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.budget import Spent, left, spend
from edge_agent.decide.estimate import HALF_LIFE_S, caution, observed, predicted
from edge_agent.decide.offload import Offload, offload
from edge_agent.decide.split import version_of
from edge_agent.decide.window import FIRST, LEAST, MOST, Window, answered, has_room, narrowed
from shared.protocol.policy import CloudBudget
from shared.protocol.pressure import ModelPressure, Pressure


def test_estimate_follows_what_is_measured_and_fades() -> None:
    estimate = None
    for i in range(200):
        estimate = observed(estimate, 0.2, now=float(i))
    assert predicted(estimate, now=199.0) == pytest.approx(0.2, rel=0.01)
    estimate = observed(estimate, 0.1, now=200.0)
    far = predicted(estimate, now=200.0)
    assert far is not None
    # Half of what it is above the least is forgotten, and in the end all of it, but the least is not.
    assert predicted(estimate, now=200.0 + HALF_LIFE_S) == pytest.approx(0.1 + (far - 0.1) / 2)
    assert predicted(estimate, now=1000.0) == pytest.approx(0.1)
    assert predicted(None, now=0.0) is None


def test_a_first_measurement_is_taken_with_a_margin() -> None:
    assert predicted(observed(None, 0.2, now=0.0), now=0.0) == pytest.approx(0.25)


def test_budget_per_minute_and_day() -> None:
    budget, spent = CloudBudget(per_minute=2, per_day=3), Spent()
    assert left(spent, CloudBudget(), wall=0.0) is None
    for wall, expected in ((0.0, 1), (59.0, 0), (60.0, 0)):
        spent = spend(spent, wall=wall)
        assert left(spent, budget, wall=wall) == expected
    assert left(spent, budget, wall=130.0) == 0
    assert left(spent, budget, wall=86400.0) == 2


def test_offload_follows_a_fresh_announcement_only() -> None:
    pressure = Pressure(models={"m": ModelPressure(expected_wait_s=0.4, admit_fraction=0.25)}, valid_until=100.0)
    assert offload(pressure, "m", wall=50.0, u=0.2) == Offload(0.4, admitted=True)
    assert offload(pressure, "m", wall=50.0, u=0.3) == Offload(0.4, admitted=False)
    assert offload(pressure, "m", wall=100.0, u=0.3) == Offload()
    assert offload(pressure, "other", wall=50.0, u=0.3) == Offload()
    assert offload(None, "m", wall=50.0, u=0.3) == Offload()


def test_the_window_doubles_in_a_round_trip_while_answers_come_easily_and_only_in_use() -> None:
    window = Window()
    for most in (2 * FIRST, 4 * FIRST, 8 * FIRST):
        for _ in range(int(window.limit)):
            window = answered(window, outstanding=int(window.limit), seconds=0.1, now=1.0)
        assert window.limit == most
    assert answered(window, outstanding=4, seconds=0.1, now=1.0).limit == window.limit


def test_slow_answers_hold_the_window_and_slower_ones_narrow_it() -> None:
    window = answered(Window(8.0), outstanding=8, seconds=0.1, now=1.0)
    assert window.limit == 9.0
    assert answered(window, outstanding=9, seconds=0.3, now=2.0).limit == 9.0
    assert answered(window, outstanding=9, seconds=0.16, now=2.0).limit == pytest.approx(9.0 + 1 / 9)
    assert answered(window, outstanding=9, seconds=0.5, now=2.0).limit == pytest.approx(6.3)


def test_after_a_fall_the_window_grows_fast_up_to_what_the_first_fall_left() -> None:
    window = narrowed(Window(10.0), sent_at=1.0, now=2.0)
    for _ in range(8):
        window = answered(window, outstanding=7, seconds=0.1, now=3.0)
    assert 8.0 <= window.limit < 8.5
    for now in (4.0, 5.0, 6.0):
        window = narrowed(window, sent_at=now - 0.5, now=now)
    low = window.limit
    window = answered(window, outstanding=8, seconds=0.1, now=7.0)
    assert window.limit == low + 1.0


def test_a_longer_way_is_believed_in_the_end() -> None:
    window = answered(Window(4.0), outstanding=4, seconds=0.01, now=1.0)
    for now in range(500):
        window = answered(window, outstanding=int(window.limit) + 1, seconds=0.3, now=2.0 + now)
    assert window.limit > 4 * FIRST


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 10), st.integers(0, 300)), max_size=60),
    st.floats(1, MOST),
)
def test_the_window_stays_in_its_bounds_and_falls_only_for_cause(
    ends: list[tuple[bool, float, int]], limit: float
) -> None:
    window = Window(limit)
    for now, (in_time, seconds, outstanding) in enumerate(ends):
        before = window
        if in_time:
            window = answered(window, outstanding=outstanding, seconds=seconds, now=float(now))
            assert window.limit <= before.limit + 1.0
            if seconds <= before.least:
                assert window.limit >= before.limit
        else:
            window = narrowed(window, sent_at=now - seconds, now=float(now))
            assert window.limit <= before.limit
        assert LEAST <= window.limit <= MOST


@given(st.lists(st.tuples(st.floats(0.01, 2), st.floats(1, 1000)), min_size=1, max_size=50), st.floats(0, 2000))
def test_an_estimate_by_size_is_never_less_for_more(seen: list[tuple[float, float]], size: float) -> None:
    estimate = None
    for now, (seconds, each) in enumerate(seen):
        estimate = observed(estimate, seconds, now=float(now), size=each)
    assert estimate is not None
    now = float(len(seen))
    less, more = predicted(estimate, now=now, size=size), predicted(estimate, now=now, size=size + 1)
    assert less is not None
    assert more is not None
    assert more >= less >= 0.0 or size == 0.0
    assert 0.0 <= caution(estimate, now=now) <= less + 1e-9


def test_an_estimate_learns_what_size_costs() -> None:
    estimate = None
    for now in range(300):
        size = 100.0 + 37 * now % 400
        estimate = observed(estimate, 0.05 + size / 1e4, now=float(now), size=size)
    assert estimate is not None
    assert estimate.of(500.0) == pytest.approx(0.1, rel=0.1)
    assert estimate.of(100.0) == pytest.approx(0.06, rel=0.1)
    assert estimate.of(0.0) == estimate.mean


def test_one_congestion_narrows_the_window_once() -> None:
    window = narrowed(Window(10.0), sent_at=1.0, now=2.0)
    assert window == Window(7.0, 2.0, 7.0)
    assert narrowed(window, sent_at=1.5, now=2.1) == window
    for now in range(3, 60):
        window = narrowed(window, sent_at=now - 0.5, now=float(now))
    assert window.limit == LEAST
    assert has_room(window, 0)
    assert not has_room(window, 1)


def test_a_split_gives_each_version_its_share_and_equal_draws_the_same() -> None:
    split = {"1.3.0": 20.0, "1.2.0": 80.0, "1.4.0": 0.0}
    given = [version_of(split, u=i / 1000) for i in range(1000)]
    assert given.count("1.2.0") == pytest.approx(800, abs=1)
    assert given.count("1.3.0") == pytest.approx(200, abs=1)
    assert version_of(split, u=0.999999) == "1.3.0"
    assert version_of(None, u=0.5) is None
