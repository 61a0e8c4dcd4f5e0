import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.serving.decide.admission import (
    LEAST_RETRY_S,
    SPREAD_S,
    Admitted,
    Ask,
    Limits,
    Load,
    Own,
    Shed,
    ShedReason,
    admit,
    spread,
)

loads = st.builds(
    Load,
    entries=st.integers(0, 100),
    tokens=st.integers(0, 1000),
    bytes=st.integers(0, 1000),
    expected_wait=st.floats(0, 10),
)
asks = st.builds(
    Ask, entries=st.integers(1, 100), tokens=st.integers(1, 1000), bytes=st.integers(0, 1000), seconds=st.floats(0, 10)
)
LIMITS = Limits(entries=64, tokens=512, bytes=900)


@given(loads, asks, st.one_of(st.none(), st.floats(0, 20)))
def test_whatever_is_admitted_keeps_the_bounds_and_its_deadline(load, ask, deadline):
    verdict = admit(load, LIMITS, ask, deadline=deadline, now=0.0)
    late = deadline is not None and load.expected_wait + ask.seconds > deadline
    full = load.entries > 0 and (
        load.entries + ask.entries > 64 or load.tokens + ask.tokens > 512 or load.bytes + ask.bytes > 900
    )
    if isinstance(verdict, Admitted):
        assert not late
        assert not full
        assert verdict.predicted == load.expected_wait + ask.seconds
    else:
        assert late or full
        assert verdict.retry_after > 0
        assert (verdict.reason is ShedReason.DEADLINE) == late


@given(asks)
def test_an_empty_engine_admits_whatever_comes_without_a_deadline(ask):
    assert isinstance(admit(Load(), LIMITS, ask, deadline=None, now=5.0), Admitted)


@given(loads, loads, asks)
def test_more_load_never_admits_what_less_load_shed(less, extra, ask):
    less = msgspec.structs.replace(less, entries=less.entries + 1)
    more = Load(
        entries=less.entries + extra.entries,
        tokens=less.tokens + extra.tokens,
        bytes=less.bytes + extra.bytes,
        expected_wait=less.expected_wait + extra.expected_wait,
    )
    if isinstance(admit(less, LIMITS, ask, deadline=5.0, now=0.0), Shed):
        assert isinstance(admit(more, LIMITS, ask, deadline=5.0, now=0.0), Shed)


@given(loads, st.integers(1, 100), st.integers(1, 100), st.floats(0, 1000))
def test_past_its_limit_a_version_lets_nothing_in_however_small_and_below_it_anything_however_large(
    load, few, many, limit
):
    roomy = Limits(entries=10_000, tokens=10_000, bytes=10_000)
    shut, open_ = Own(in_flight=limit, limit=limit), Own(in_flight=limit, limit=limit + 0.5)
    for slots in (few, many):
        ask = Ask(entries=slots, slots=float(slots))
        verdict = admit(load, roomy, ask, deadline=None, now=0.0, own=shut)
        assert isinstance(verdict, Shed)
        assert verdict.reason is ShedReason.LIMIT
        verdict = admit(load, roomy, ask, deadline=None, now=0.0, own=open_)
        assert isinstance(verdict, Admitted)
        assert verdict.in_flight == limit + slots


@given(st.floats(0, 100), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_who_is_shed_comes_back_after_the_wait_and_within_as_long_again_and_not_all_at_once(wait, u, other):
    later = spread(wait, u=u)
    least = max(LEAST_RETRY_S, wait)
    assert least <= later < least + max(SPREAD_S, least) * (1 + 1e-9)
    assert later == spread(wait, u=u)
    if abs(u - other) > 1e-3:
        assert abs(later - spread(wait, u=other)) > 0.9e-3
    shed = admit(Load(entries=64, expected_wait=wait), LIMITS, Ask(), deadline=None, now=0.0, u=u)
    assert isinstance(shed, Shed)
    assert shed.retry_after == later


busy = st.lists(st.integers(10, 40), min_size=1, max_size=5)


@given(busy, st.lists(st.integers(0, 4), max_size=400))
def test_no_model_fills_the_bounds_alone_where_others_are_loaded_too(sizes, turns):
    """Whoever is busy comes back for good, and one of its requests ends where it is turned away: a newcomer finds room.

    In whatever order they came first: models that took their share one after another leave little until then.
    """
    limits = Limits(entries=10**6, tokens=1000, bytes=10**9)
    held = [0] * len(sizes)
    for turn in [*turns, *range(100 * len(sizes))]:
        i = turn % len(sizes)
        everything, own = Load(entries=1, tokens=sum(held)), Load(entries=held[i] and 1, tokens=held[i])
        ask = Ask(tokens=sizes[i])
        if isinstance(admit(everything, limits, ask, deadline=None, now=0.0, own=Own(load=own, shared=True)), Admitted):
            held[i] += sizes[i]
        else:
            held[i] = max(0, held[i] - sizes[i])
    assert sum(held) <= 1000
    newcomer = admit(
        Load(entries=1, tokens=sum(held)), limits, Ask(tokens=20), deadline=None, now=0.0, own=Own(shared=True)
    )
    assert isinstance(newcomer, Admitted)


def test_a_model_that_is_alone_may_use_all_of_the_bounds():
    load = Load(entries=1, tokens=400)
    assert isinstance(admit(load, LIMITS, Ask(tokens=100), deadline=None, now=0.0, own=Own(load=load)), Admitted)
    shared = admit(load, LIMITS, Ask(tokens=100), deadline=None, now=0.0, own=Own(load=load, shared=True))
    assert isinstance(shared, Shed)
    assert shared.reason is ShedReason.TOKENS
