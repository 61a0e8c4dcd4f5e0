import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.serving.decide.admission import Admitted, Ask, Limits, Load, Shed, ShedReason, admit

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
