"""What a server can carry: the knee of a ladder, and the largest rate that holds a P99."""

import math

from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.capacity import (
    FINE,
    GAIN,
    Held,
    HeldWhy,
    Knee,
    KneeWhy,
    Step,
    holds,
    knee,
    largest,
    next_rate,
)


def closed(clients: int, throughput: float) -> Step:
    return Step(clients=clients, seconds=1000.0, asked=round(1000 * throughput), answered=round(1000 * throughput))


def ladder(*throughputs: float) -> list[Step]:
    return [closed(2**i, throughput) for i, throughput in enumerate(throughputs)]


def offered(rate: float, *, inside: int, asked: int = 1000) -> Step:
    return Step(clients=1, rate=rate, seconds=1.0, asked=asked, answered=asked, inside=inside)


def test_the_knee_is_the_last_step_that_was_worth_it() -> None:
    assert knee(ladder(100, 190, 360, 500, 540, 550, 500)) == Knee(clients=8, throughput=500.0, why=KneeWhy.FLAT)


def test_a_dip_before_a_plateau_is_no_knee_and_a_recovery_to_it_is_none_either() -> None:
    assert knee(ladder(100, 190, 150, 400, 410)).clients == 8
    # 390 is a gain over the dip, not over what four clients had.
    assert knee(ladder(100, 200, 400, 300, 390, 410)).clients == 4


def test_a_gain_is_measured_per_doubling_whatever_the_ladder_is() -> None:
    # 15 % over two doublings is 7 % each.
    assert knee([closed(10, 100), closed(40, 115)]).clients == 10
    assert knee([closed(10, 100), closed(40, 122)]) == Knee(clients=40, throughput=122.0, why=KneeWhy.LADDER_ENDS)


def test_a_ladder_that_still_grows_has_no_knee_yet_and_one_without_answers_none_at_all() -> None:
    assert knee(ladder(100, 200, 400)).why is KneeWhy.LADDER_ENDS
    assert knee(ladder(0, 0)) == Knee(clients=None, throughput=0.0, why=KneeWhy.NOTHING)
    assert knee([]).why is KneeWhy.NOTHING
    # Steps that broke down are no reason for a knee of theirs.
    assert knee(ladder(0, 100, 0)) == Knee(clients=2, throughput=100.0, why=KneeWhy.FLAT)


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_knee_is_a_step_and_no_later_one_is_worth_its_clients(throughputs: list[float], random) -> None:
    steps = ladder(*throughputs)
    shuffled = list(steps)
    random.shuffle(shuffled)
    found = knee(shuffled)
    assert found == knee(steps)
    if found.clients is None:
        assert not any(step.answered for step in steps)
        return
    at = next(step for step in steps if step.clients == found.clients)
    assert at.throughput == found.throughput
    later = [step for step in steps if step.clients > found.clients]
    assert (found.why is KneeWhy.LADDER_ENDS) == (not later)
    for step in later:
        assert step.throughput < at.throughput * (1 + GAIN) ** math.log2(step.clients / at.clients)


def test_whatever_was_not_answered_in_time_counts_against_a_rate() -> None:
    assert holds(offered(10, inside=990))
    assert not holds(offered(10, inside=989))
    # 980 fast answers and 20 refusals: the answers' own p99 is fine, the rate is not.
    refused = Step(clients=1, rate=10.0, seconds=1.0, asked=1000, answered=980, refused=20, inside=980, p99_ms=1.0)
    assert not holds(refused)
    assert not holds(Step(clients=1, rate=10.0, seconds=1.0, asked=0, answered=0))


def test_the_largest_rate_is_below_the_first_that_missed() -> None:
    steps = [offered(30, inside=1000), offered(10, inside=1000), offered(20, inside=0)]
    assert largest(steps) == Held(rate=10, missed=20, why=HeldWhy.NEXT_MISSED)
    assert largest(steps[:2]) == Held(rate=30, missed=None, why=HeldWhy.ALL_HELD)
    assert largest(steps[2:]) == Held(rate=None, missed=20, why=HeldWhy.NONE_HELD)
    assert largest([]) == Held(rate=None, missed=None, why=HeldWhy.NONE_HELD)


@given(peak=st.floats(0.1, 1e6), share=st.floats(0, 1.2))
def test_the_search_ends_at_what_the_server_holds(peak: float, share: float) -> None:
    true = share * peak
    tried: list[Step] = []
    while (rate := next_rate(tried, peak)) is not None:
        assert 0 < rate < peak
        assert rate not in [step.rate for step in tried]
        tried.append(offered(rate, inside=1000 if rate <= true else 0))
        assert len(tried) <= 5
    found = largest(tried)
    low = found.rate or 0.0
    assert low <= true
    assert min(true, peak) - low <= FINE * peak * (1 + 1e-9)


def test_nothing_is_searched_below_nothing() -> None:
    assert next_rate([], 0.0) is None
