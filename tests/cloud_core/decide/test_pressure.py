import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.pressure import Keep, Limits, Load, Publish, Reason, headroom, pressure, worth_saying

LIMITS = Limits()
loads = st.lists(st.builds(Load, expected_wait=st.floats(0, 10)), max_size=5)


@given(loads)
def test_the_fraction_is_one(each: list[Load]) -> None:
    told = headroom(each, LIMITS)
    assert 0.0 <= told.admit_fraction <= 1.0
    assert told.expected_wait_s >= 0.0


@given(loads, st.floats(0, 5))
def test_more_load_never_admits_more(each: list[Load], more: float) -> None:
    heavier = [Load(expected_wait=load.expected_wait + more) for load in each]
    assert headroom(heavier, LIMITS).admit_fraction <= headroom(each, LIMITS).admit_fraction


def test_nobody_serving_admits_nothing_and_idle_replicas_admit_all() -> None:
    assert headroom([], LIMITS).admit_fraction == 0.0
    assert headroom([Load(expected_wait=0.0)], LIMITS).admit_fraction == 1.0
    assert headroom([Load(expected_wait=1.0)], LIMITS).admit_fraction == 0.0
    assert headroom([Load(expected_wait=1.0), Load(expected_wait=0.1)], LIMITS).admit_fraction == pytest.approx(0.5)


def test_what_is_worth_saying() -> None:
    idle = pressure({"m": [Load(expected_wait=0.0)]}, now=1000.0, limits=LIMITS)
    assert idle.valid_until == 1000.0 + LIMITS.valid
    busy = pressure({"m": [Load(expected_wait=0.9)]}, now=1001.0, limits=LIMITS)
    slightly = pressure({"m": [Load(expected_wait=0.04)]}, now=1001.0, limits=LIMITS)
    slower = pressure({"m": [Load(expected_wait=0.09)]}, now=1001.0, limits=LIMITS)
    other = pressure({"n": [Load(expected_wait=0.0)]}, now=1001.0, limits=LIMITS)
    assert worth_saying(None, idle, since=0, limits=LIMITS) == Publish(reason=Reason.FIRST)
    assert worth_saying(idle, slightly, since=1, limits=LIMITS) == Keep(reason=Reason.WITHIN_DEAD_BAND)
    assert worth_saying(idle, busy, since=1, limits=LIMITS) == Publish(reason=Reason.ADMIT_CHANGED)
    assert worth_saying(idle, slower, since=1, limits=LIMITS) == Publish(reason=Reason.WAIT_CHANGED)
    assert worth_saying(idle, other, since=1, limits=LIMITS) == Publish(reason=Reason.MODELS_CHANGED)
    assert worth_saying(idle, idle, since=30, limits=LIMITS) == Publish(reason=Reason.AGED)
