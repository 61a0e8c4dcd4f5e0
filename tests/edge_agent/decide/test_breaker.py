import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.breaker import (
    DOUBT_S,
    FAILURES,
    OPEN_MOST_S,
    RETRY_BURST,
    RETRY_SHARE,
    TRANSITIONS,
    Breaker,
    Event,
    RetryBudget,
    State,
    abandoned,
    doubted,
    failed,
    passed,
    permits,
    retry_in,
    succeeded,
)


def opened(times: int = 1) -> Breaker:
    breaker = Breaker()
    now = 0.0
    for _ in range(FAILURES):
        breaker = failed(breaker, now=now, u=0.5)
    for _ in range(times - 1):
        now = breaker.until
        breaker = failed(passed(breaker), now=now, u=0.5)
    return breaker


def test_every_state_says_what_every_outcome_does() -> None:
    for state in State:
        assert set(Event) - set(TRANSITIONS[state]) <= {Event.PROBE}


def test_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker = failed(breaker, now=0.0, u=0.5)
    assert permits(breaker, now=0.0)
    breaker = succeeded(breaker)
    assert breaker == Breaker()
    assert opened().state is State.OPEN


def test_nothing_passes_while_open_and_one_probe_after() -> None:
    breaker = opened()
    assert not permits(breaker, now=breaker.until - 0.001)
    assert retry_in(breaker, now=0.0) == breaker.until
    assert permits(breaker, now=breaker.until)
    probing = passed(breaker)
    assert probing.state is State.HALF_OPEN
    assert not permits(probing, now=breaker.until + 100)


def test_what_would_be_refused_may_be_the_probe_before_its_time() -> None:
    for times in (1, 4):
        breaker = opened(times)
        since = breaker.doubted_at - DOUBT_S
        assert not doubted(breaker, now=since + DOUBT_S / 2)
        assert doubted(breaker, now=since + DOUBT_S)
        assert not permits(breaker, now=since + DOUBT_S)
        assert not doubted(passed(breaker), now=breaker.until)
    assert not doubted(Breaker(), now=1000.0)


def test_the_probe_decides() -> None:
    probing = passed(opened())
    assert succeeded(probing) == Breaker()
    again = failed(probing, now=10.0, u=0.5)
    assert again.state is State.OPEN
    assert again.until - 10.0 == pytest.approx(2.0)


def test_an_abandoned_probe_lets_the_next_try_at_once() -> None:
    breaker = opened()
    left = abandoned(passed(breaker))
    assert left.state is State.OPEN
    assert permits(left, now=breaker.until)


def test_open_time_grows_and_is_bounded() -> None:
    spans = []
    breaker, now = opened(), 0.0
    for _ in range(20):
        spans.append(breaker.until - now)
        now = breaker.until
        breaker = failed(passed(breaker), now=now, u=0.5)
    assert spans[:3] == pytest.approx([1.0, 2.0, 4.0])
    assert max(spans) == pytest.approx(OPEN_MOST_S)


def test_late_word_does_not_change_an_open_breaker() -> None:
    breaker = opened()
    assert succeeded(breaker).state is State.OPEN
    assert failed(breaker, now=0.5, u=0.5).until == breaker.until


@given(st.lists(st.sampled_from(["pass", "good", "bad", "gone"]), max_size=60), st.floats(0, 0.999))
def test_it_always_lets_somebody_through_in_the_end(events: list[str], u: float) -> None:
    breaker, now, probing = Breaker(), 0.0, False
    for event in events:
        now += 0.3
        if event == "pass" and permits(breaker, now=now):
            breaker = passed(breaker)
        elif event == "good":
            breaker = succeeded(breaker)
        elif event == "bad":
            breaker = failed(breaker, now=now, u=u)
        elif event == "gone":
            breaker = abandoned(breaker)
        probing = breaker.state is State.HALF_OPEN
    if not probing:
        assert permits(breaker, now=now + OPEN_MOST_S * 1.2)


def test_retry_budget_is_a_tenth() -> None:
    budget = RetryBudget(0.0)
    retries = 0
    for _ in range(1000):
        budget = budget.earned()
        if budget.has_one:
            budget = budget.spent()
            retries += 1
    assert 98 <= retries <= 100


@given(st.lists(st.sampled_from(["request", "retry"]), max_size=300))
def test_second_attempts_are_never_more_than_a_burst_and_a_tenth(events: list[str]) -> None:
    budget, requests, retries = RetryBudget(), 0, 0
    for event in events:
        if event == "request":
            budget, requests = budget.earned(), requests + 1
        elif budget.has_one:
            budget, retries = budget.spent(), retries + 1
        assert retries <= RETRY_BURST + RETRY_SHARE * requests + 1e-9
        assert 0 <= budget.tokens <= RETRY_BURST
