import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.displacement import BUSY_MOST, SPAN_S, Traffic, arrived, displaced, followers

MOMENTS = st.lists(st.tuples(st.floats(0.001, 1.0), st.booleans(), st.booleans()), max_size=100)


def queue(gaps: list[float], works: list[float], *, first: float) -> float:
    """The sum of all waits behind one server in order of arrival that has `first` seconds of work at the beginning."""
    left, total = first, 0.0
    for gap, work in zip(gaps, works, strict=True):
        left = max(0.0, left - gap)
        total += left
        left += work
    return total


def test_it_is_what_a_queue_says() -> None:
    source, rate, mean, runs = random.Random(1), 10.0, 0.05, 3000
    wait, work = 0.2, 0.1
    more = 0.0
    for _ in range(runs):
        gaps = [source.expovariate(rate) for _ in range(60)]
        works = [source.expovariate(1 / mean) for _ in range(60)]
        more += queue(gaps, works, first=wait + work) - queue(gaps, works, first=wait)
    busy = rate * mean
    assert displaced(rate / (1 - busy), wait=wait, work=work) == pytest.approx(more / runs, rel=0.1)


def test_followers_are_those_of_late() -> None:
    traffic, now = Traffic(), 0.0
    for n in range(400):
        now = n / 20.0
        traffic = arrived(traffic, here=True, busy=n % 2 == 0, now=now)
    assert followers(traffic, now=now) == pytest.approx(20.0 / (1 - 0.5), rel=0.1)
    assert followers(traffic, now=now + 10 * SPAN_S) < 0.01


@given(MOMENTS, st.floats(0, 5), st.floats(0, 5))
def test_it_is_never_negative_and_bounded(moments: list[tuple[float, bool, bool]], wait: float, work: float) -> None:
    traffic, now = Traffic(), 0.0
    for gap, here, busy in moments:
        now += gap
        traffic = arrived(traffic, here=here, busy=busy, now=now)
        assert 0.0 <= followers(traffic, now=now) <= traffic.rate / (1.0 - BUSY_MOST) + 1e-9
    assert displaced(followers(traffic, now=now), wait=wait, work=work) >= 0.0
