import pytest

from edge_agent.decide.budget import Spent, left, spend
from edge_agent.decide.estimate import HALF_LIFE_S, observed, predicted
from edge_agent.decide.offload import Offload, offload
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
    assert predicted(observed(None, 0.2, now=0.0), now=0.0) == pytest.approx(0.3)


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
