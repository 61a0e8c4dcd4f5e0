"""The limit follows what requests take: properties of the arithmetic, and whole scenarios in virtual time."""

import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.serving.decide.admission import Admitted, ShedReason
from shared.serving.decide.batching import Budget
from shared.serving.decide.concurrency import (
    BASELINE_MOST,
    GRACE_S,
    LEAST_GRADIENT,
    SAMPLES,
    SMOOTHING,
    SPAN_S,
    TOLERANCE,
    Capacity,
    Concurrency,
    Sample,
    Why,
    expected,
    limit_of,
    observed,
)
from tests.shared.serving.decide.virtual_engine import VirtualEngine

CAPACITY = Capacity(lanes=1, rows=32, tokens=4096)
FULL = 0.15
"""Seconds of a full batch."""
seconds = st.floats(min_value=0.0, max_value=100.0)
samples = st.lists(
    st.tuples(seconds, st.floats(0.0, 5.0), st.floats(0.0, 5000.0), st.booleans(), st.floats(0.0, 2.0)), max_size=120
)


def after(state: Concurrency, count: int, *, ratio: float, in_flight: float, missed: bool = False, at: float = 0.0):
    """`count` requests, a tenth of the window apart, that took `ratio` times what is due."""
    due = expected(FULL, FULL) + GRACE_S
    for i in range(count):
        now = at + i * SPAN_S / SAMPLES * 1.5
        sample = Sample(
            began=now, seconds=ratio * due, expected=expected(FULL, FULL), in_flight=in_flight, missed=missed
        )
        state = observed(state, sample, CAPACITY, full=FULL, now=now)
    return state


@given(samples, st.integers(1, 4), st.integers(1, 64), st.floats(1e-5, 2.0))
def test_it_is_never_below_the_floor_and_always_a_number(history, lanes, rows, full):
    capacity, state, now = Capacity(lanes=lanes, rows=rows), Concurrency(), 0.0
    for took, alone, in_flight, missed, later in history:
        now += later
        before = limit_of(state, capacity, full=full)
        sample = Sample(
            began=now - took, seconds=took, expected=expected(full, alone), in_flight=in_flight, missed=missed
        )
        state = observed(state, sample, capacity, full=full, now=now)
        limit = limit_of(state, capacity, full=full)
        assert math.isfinite(limit)
        assert limit >= capacity.least
        assert limit <= before + math.sqrt(before) + 1e-9
        if not state.window.samples and state.why is not Why.MISSED:
            # A window ended, and nobody missed a deadline in it.
            assert limit >= before * (1 - SMOOTHING * (1 - LEAST_GRADIENT)) - 1e-9
        assert 1.0 <= state.baseline <= BASELINE_MOST


def test_before_anything_is_known_there_is_no_limit_and_then_it_is_what_a_full_engine_answers_in_time():
    assert limit_of(Concurrency(), CAPACITY, full=0.0) == math.inf
    due = expected(FULL, FULL) + GRACE_S
    assert math.isclose(limit_of(Concurrency(), CAPACITY, full=FULL), TOLERANCE * due * 32 / FULL)


def test_a_window_without_a_cost_model_teaches_nothing():
    sample = Sample(began=0.0, seconds=1.0, expected=0.0, in_flight=10.0)
    assert observed(Concurrency(), sample, CAPACITY, full=0.0, now=1.0) == Concurrency()


def test_it_grows_by_its_root_only_where_nothing_is_slow_and_half_of_it_is_used():
    start = Concurrency(limit=100.0)
    assert after(start, 12, ratio=1.0, in_flight=80.0).limit == 110.0
    idle = after(start, 12, ratio=1.0, in_flight=40.0)
    assert (idle.limit, idle.why) == (100.0, Why.UNUSED)
    slow = after(start, 12, ratio=2 * TOLERANCE, in_flight=80.0)
    assert slow.why is Why.SLOW
    assert 64.0 <= slow.limit < 100.0


def test_a_missed_deadline_shrinks_it_however_steady_the_times_are():
    state = after(Concurrency(limit=400.0), 12, ratio=1.0, in_flight=120.0, missed=True)
    assert state.why is Why.MISSED
    assert state.limit < 120.0


def test_who_was_given_less_time_than_it_takes_says_nothing_of_the_engine():
    start = Concurrency(limit=400.0)
    assert after(start, 30, ratio=0.2, in_flight=300.0, missed=True) == start


def test_requests_that_began_before_a_change_are_left_out():
    changed = after(Concurrency(limit=100.0), 12, ratio=1.0, in_flight=80.0)
    assert changed.since > 0
    old = Sample(began=changed.since - 0.001, seconds=50.0, expected=0.1, in_flight=80.0)
    assert observed(changed, old, CAPACITY, full=FULL, now=changed.since + 60) == changed


def test_what_no_fit_knows_is_learnt_where_no_queue_can_stand_and_only_there():
    quiet = after(Concurrency(limit=200.0), 2000, ratio=2.0, in_flight=20.0)
    assert 1.9 < quiet.baseline <= 2.0
    assert quiet.limit == 200.0
    crowded = after(Concurrency(limit=200.0), 2000, ratio=2.0, in_flight=190.0)
    assert crowded.baseline == 1.0
    mended = after(msgspec.structs.replace(quiet, limit=200.0), 200, ratio=1.0, in_flight=190.0, at=1e4)
    assert mended.baseline == 1.0


def test_a_list_counts_by_what_it_fills_and_one_text_as_a_list_of_one():
    assert CAPACITY.slots(1, 20) == 1.0
    assert CAPACITY.slots(16, 16 * 20) == 16.0
    assert CAPACITY.slots(1, 512) == 4.0
    assert CAPACITY.full(1, 512) == CAPACITY.tokens
    assert CAPACITY.full(10, 200) == 640


# From here on: whole engines in virtual time. 32 texts of 32 tokens take 0.156 s: about 205 a second.
PEAK = 205.0


def test_under_steady_overload_it_settles_and_the_lanes_stay_full():
    engine = VirtualEngine()
    engine.offer(3 * PEAK, 0, 40)
    engine.run(40)
    low, high = engine.limit_between(10, 40)
    assert high < 1.4 * low
    assert low > CAPACITY.least
    assert engine.goodput(5, 40) > 0.95 * PEAK
    # What it should take, times the tolerance, and no more than a batch beyond.
    assert engine.latency(10, 40, 0.99) < TOLERANCE * (2 * 0.16 + GRACE_S) + 0.4
    assert {reason for _, reason, _ in engine.shed} == {ShedReason.LIMIT}


def test_without_it_requests_that_name_no_deadline_wait_ten_times_as_long():
    engine = VirtualEngine(limited=False)
    engine.offer(3 * PEAK, 0, 30)
    engine.run(30)
    assert engine.latency(20, 30) > 9.0


def test_below_saturation_nobody_is_refused():
    engine = VirtualEngine()
    engine.offer(0.7 * PEAK, 0, 60)
    engine.run(60)
    assert not engine.shed


def test_overload_comes_and_goes_and_leaves_no_trace():
    engine = VirtualEngine(deadline=1.0)
    for rate, begin, end in ((0.5, 0, 10), (3.0, 10, 40), (0.5, 40, 60)):
        engine.offer(rate * PEAK, begin, end)
    engine.run(60)
    assert engine.goodput(12, 40) > 0.9 * PEAK
    assert not [when for when, _, _ in engine.shed if when > 41]
    assert not [when for when in engine.missed if when > 42]


def test_a_slow_neighbour_shrinks_it_and_its_going_is_noticed():
    engine = VirtualEngine(speed=lambda now: 2.0 if 20 <= now < 50 else 1.0)
    engine.offer(3 * PEAK, 0, 90)
    engine.run(90)
    before, during, later = (engine.limit_between(*span) for span in ((10, 20), (35, 50), (70, 90)))
    assert during[1] < before[0]
    assert later[0] > during[1]
    assert engine.goodput(30, 50) > 0.45 * PEAK
    assert engine.goodput(60, 90) > 0.93 * PEAK
    assert engine.latency(35, 50, 0.99) < 2.2


def test_one_stall_costs_little_of_it():
    engine = VirtualEngine(stall=(15.0, 18.0))
    engine.offer(3 * PEAK, 0, 40)
    engine.run(40)
    before, after_ = engine.limit_between(10, 15), engine.limit_between(19, 40)
    assert after_[0] > 0.6 * before[0]
    assert engine.goodput(20, 40) > 0.93 * PEAK


def test_near_the_deadline_hardly_anything_is_computed_in_vain():
    engine = VirtualEngine(deadline=0.25, per_token=3e-5, fixed=1e-3)
    engine.offer(3000, 0, 20)
    engine.run(20)
    good, missed = engine.goodput(4, 20), sum(when > 4 for when in engine.missed) / 16
    assert good > 900
    assert missed < 0.08 * good


def test_one_row_at_a_time_is_limited_by_time_as_well():
    engine = VirtualEngine(budget=Budget(rows=1), per_token=0.1 / 32, fixed=0.0)
    engine.offer(30, 0, 60)
    engine.run(60)
    low, high = engine.limit_between(10, 60)
    assert 2.0 <= low <= high < 15.0
    assert engine.goodput(10, 60) > 9.0


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 3),
    st.sampled_from((None, 0.5, 2.0)),
    st.sampled_from((1, 8, 40)),
    st.floats(0.2, 6.0),
    st.integers(),
)
def test_whatever_comes_the_engine_stays_full_and_the_limit_holds(lanes, deadline, items, load, seed):
    engine = VirtualEngine(lanes=lanes, deadline=deadline, seed=seed)
    engine.offer(load * lanes * PEAK / items, 0, 12, items=items)
    engine.run(12)
    held = [slots for _, slots in engine.slots]
    for (_, limit), before, after in zip(engine.limits, held, [*held[1:], 0.0], strict=True):
        # One door for large and small: what is under way may end above the limit by one request, and stay above one that has shrunk.
        assert after <= before or before < limit
        assert limit >= 2 * lanes * 32
    wanted = min(load, 1.0) * lanes * PEAK / items
    if deadline is None:
        assert engine.goodput(4, 12) > 0.75 * wanted - 2


def test_callers_who_wait_for_their_answers_are_not_turned_away_in_good_time():
    # Some five milliseconds a text, as many callers as four full batches: each is answered within half of its deadline.
    engine = VirtualEngine(per_token=3.6e-4, fixed=5e-3, lanes=2, deadline=1.0, budget=Budget(tokens=512))
    callers, under_way = 0, 0

    def ask() -> None:
        nonlocal under_way
        under_way += isinstance(engine.ask(), Admitted)

    def again(_: object) -> None:
        nonlocal under_way
        under_way -= 1
        if under_way < callers:
            engine.at(engine.now + 5e-4, ask)

    def fill() -> None:
        for _ in range(callers - under_way):
            ask()

    engine.ended = again
    # Few callers first: how far off predictions are is learnt from short waits, and must not be taken for that of long ones.
    for step, wanted in enumerate((1, 8, 32, 64)):
        callers = wanted
        engine.at(5.0 * step, fill)
        engine.run(5.0 * (step + 1))
    assert not engine.shed
    assert not engine.missed
    assert engine.latency(16, 20, share=0.99) < 0.6
