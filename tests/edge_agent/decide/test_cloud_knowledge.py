import pytest

from edge_agent.decide.budget import Spent, left, spend
from edge_agent.decide.estimate import HALF_LIFE_S, observed, predicted
from edge_agent.decide.offload import Offload, offload
from edge_agent.decide.split import version_of
from edge_agent.decide.window import FIRST, LEAST, Window, has_room, narrowed, widened
from shared.protocol.policy import CloudBudget
from shared.protocol.pressure import ModelPressure, Pressure


def test_estimate_follows_what_is_measured_and_fades() -> None:
    estimate = None
    for i in range(200):
        estimate = observed(estimate, 0.2, now=float(i))
    assert predicted(estimate, now=199.0) == pytest.approx(0.2, rel=0.01)
    assert predicted(estimate, now=199.0 + HALF_LIFE_S) == pytest.approx(0.1, rel=0.01)
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


def test_the_window_grows_by_one_for_a_window_of_answers_and_only_in_use() -> None:
    window = Window()
    for _ in range(int(FIRST) + 1):
        window = widened(window, outstanding=int(FIRST))
    assert FIRST + 1 <= window.limit < FIRST + 1.5
    assert widened(window, outstanding=1) == window


def test_one_congestion_narrows_the_window_once() -> None:
    window = narrowed(Window(10.0), sent_at=1.0, now=2.0)
    assert window == Window(7.0, 2.0)
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
