import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.errors import Refused
from shared.protocol.window import DAY_S, opens_in, parse_window

HOUR = 3600


@pytest.mark.parametrize(
    ("window", "hour", "waits"),
    [
        ("01:00-05:00", 0, HOUR),
        ("01:00-05:00", 1, 0),
        ("01:00-05:00", 4.99, 0),
        ("01:00-05:00", 5, 20 * HOUR),
        ("22:00-05:30", 23, 0),
        ("22:00-05:30", 5, 0),
        ("22:00-05:30", 5.5, 16.5 * HOUR),
        ("00:00-23:59", 12, 0),
        ("later", 12, 0),
    ],
)
def test_a_window_is_open_or_opens(window, hour, waits):
    assert opens_in(window, 20_000 * DAY_S + hour * HOUR) == pytest.approx(waits)


@pytest.mark.parametrize(
    "text", ["", "1:00-2:00", "24:00-01:00", "01:60-02:00", "01:00-01:00", "01:00", "01:00-02:00Z"]
)
def test_what_is_no_window_is_refused_by_name(text):
    with pytest.raises(Refused) as caught:
        parse_window(text, field="limits.download_window")
    assert caught.value.field == "limits.download_window"


@given(st.integers(0, 1439), st.integers(0, 1439), st.floats(0, 4e9))
def test_it_is_open_when_it_said_it_would_be(begin, end, now):
    if begin == end:
        return
    text = "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (begin, end))
    wait = opens_in(text, now)
    assert 0 <= wait < DAY_S
    assert opens_in(text, now + wait + 1e-3) == 0.0
