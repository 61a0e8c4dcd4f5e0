"""Device times on the cloud's clock: late messages mislead for a while only, and nothing lands where it would hide others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.device_clock import (
    OLDEST_S,
    TOLERANCE_S,
    WINDOW_S,
    Offset,
    Placed,
    learned,
    placed,
)

NOW = 1.8e9
OFFSETS = st.one_of(st.sampled_from((0.0, -NOW, 365 * 86400.0)), st.floats(-2e9, 2e9))


def _after(held: Offset | None, *messages: tuple[float, float], offset: float = 0.0) -> Offset:
    """(sent at by a true clock, seconds on the way), as a device says it whose clock wants `offset` added."""
    for sent_at, late in messages:
        held = learned(held, sent_at=sent_at - offset, received_at=sent_at + late)
    assert held is not None
    return held


@given(offset=OFFSETS, delays=st.lists(st.floats(0.0, WINDOW_S / 2), min_size=1, max_size=20))
def test_the_estimate_is_the_offset_plus_the_least_delay(offset: float, delays: list[float]) -> None:
    found = _after(None, *((NOW + i, late) for i, late in enumerate(delays)), offset=offset)
    if found.seconds:
        assert found.seconds == pytest.approx(offset + min(delays), abs=1e-3)
    else:
        assert abs(offset + min(delays)) <= TOLERANCE_S + 1e-3


def test_late_messages_do_not_move_a_clock_that_is_right() -> None:
    held = _after(None, (NOW, 0.1), (NOW + 10, 120.0), (NOW + 20, 30.0))
    assert held.seconds == 0.0


@pytest.mark.parametrize(("before", "after"), [(NOW, 0.0), (-365 * 86400.0, 0.0), (0.0, -NOW), (0.0, 3600.0)])
def test_a_clock_that_is_set_is_followed_at_once_however_far(before: float, after: float) -> None:
    held = _after(None, (NOW, 0.1), offset=before)
    assert _after(held, (NOW + 1, 0.1), offset=after).seconds == pytest.approx(after, abs=0.2)


def test_a_small_step_back_is_followed_within_two_windows() -> None:
    held = _after(None, (NOW, 0.1))
    steps = [(NOW + i * 10, 0.1) for i in range(1, int(2 * WINDOW_S / 10) + 2)]
    assert _after(held, *steps, offset=60.0).seconds == pytest.approx(60.1)


@given(start=st.floats(-1e11, 1e11), length=st.floats(0.0, 1e9), offset=OFFSETS, now=st.floats(1e9, 3e9))
def test_no_sample_lies_in_the_future_or_before_anything_is_kept(
    start: float, length: float, offset: float, now: float
) -> None:
    place = placed(start, start + length, offset=offset, now=now)
    assert now - OLDEST_S <= place.ended_at <= now
    assert place.started_at <= place.ended_at
    assert place.ended_at - place.started_at <= OLDEST_S + 1.0


def test_where_a_sample_lies_and_why() -> None:
    assert placed(NOW - 20, NOW - 10, offset=0.0, now=NOW).why is Placed.BELIEVED
    moved = placed(0.0, 10.0, offset=NOW - 100, now=NOW)
    assert (moved.started_at, moved.ended_at, moved.why) == (NOW - 100, NOW - 90, Placed.SHIFTED)
    ahead = placed(5e10, 5e10 + 10, offset=0.0, now=NOW)
    assert (ahead.started_at, ahead.ended_at, ahead.why) == (NOW - 10, NOW, Placed.TOO_NEW)
    ancient = placed(0.0, 10.0, offset=0.0, now=NOW)
    assert (ancient.started_at, ancient.ended_at, ancient.why) == (NOW - 10, NOW, Placed.TOO_OLD)
