"""The cloud budget: windows, prices, and when there is more of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.budget import DAY_S, MINUTE_S, Spent, left, renewed_in, smallest, spend
from shared.protocol.policy import CloudBudget

LIMITS = st.none() | st.integers(0, 5)
BUDGETS = st.builds(
    CloudBudget,
    per_minute=LIMITS,
    per_day=LIMITS,
    price_per_request=st.sampled_from([0.1, 0.3, 1.0]),
    price_per_day=st.none() | st.sampled_from([0.0, 0.3, 0.9, 2.0]),
)


def test_a_price_bounds_a_day() -> None:
    budget, spent = CloudBudget(price_per_request=0.1, price_per_day=0.3), Spent()
    assert left(spent, budget, wall=0.0) == 3
    for expected in (2, 1, 0):
        spent = spend(spent, wall=10.0, price=0.1)
        assert left(spent, budget, wall=10.0) == expected
    assert renewed_in(spent, budget, wall=10.0) == DAY_S - 10.0
    assert left(spent, budget, wall=DAY_S) == 3
    # What was sent at an older price was paid at that.
    dearer = CloudBudget(price_per_request=0.2, price_per_day=0.6)
    assert left(spent, dearer, wall=10.0) == 1


def test_a_price_without_a_bound_bounds_nothing() -> None:
    assert left(Spent(), CloudBudget(price_per_request=5.0), wall=0.0) is None


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (CloudBudget(), 0.0),
        (CloudBudget(per_minute=2), MINUTE_S - 10.0),
        (CloudBudget(per_day=2), DAY_S - 70.0),
        (CloudBudget(per_minute=2, per_day=2), DAY_S - 70.0),
        (CloudBudget(per_minute=3), 0.0),
        # No window will ever have more.
        (CloudBudget(per_minute=0), 0.0),
        (CloudBudget(per_day=0), 0.0),
    ],
)
def test_when_there_is_more(budget: CloudBudget, expected: float) -> None:
    spent = spend(spend(Spent(), wall=65.0), wall=66.0)
    assert renewed_in(spent, budget, wall=70.0) == expected


@given(BUDGETS, st.lists(st.floats(0.0, 3 * DAY_S), max_size=30))
def test_no_window_ever_has_more_than_its_budget(budget: CloudBudget, times: list[float]) -> None:
    spent, sent = Spent(), list[float]()
    price = budget.price_per_request or 0.0
    for wall in sorted(times):
        room = left(spent, budget, wall=wall)
        if room is None or room > 0:
            spent = spend(spent, wall=wall, price=price)
            sent.append(wall)
        elif (most := smallest(budget)) is not None and most > 0:
            later = wall + renewed_in(spent, budget, wall=wall)
            assert later > wall
            assert (left(spent, budget, wall=later + 1e-3) or 0) > 0
    for at in sent:
        minute = sum(1 for other in sent if other // MINUTE_S == at // MINUTE_S)
        day = sum(1 for other in sent if other // DAY_S == at // DAY_S)
        assert budget.per_minute is None or minute <= budget.per_minute
        assert budget.per_day is None or day <= budget.per_day
        assert budget.price_per_day is None or day * price <= budget.price_per_day + 1e-6
