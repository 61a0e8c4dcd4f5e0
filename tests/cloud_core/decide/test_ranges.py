"""A range is covered by whole windows, each second once, with few of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.ranges import Span, cover, widened

ALL = {10: 0.0, 60: 0.0, 3600: 0.0}


@given(start=st.floats(0, 1e6), length=st.floats(1, 1e6), fine=st.floats(0, 2e6), medium=st.floats(0, 2e6))
def test_each_second_once(start: float, length: float, fine: float, medium: float) -> None:
    kept = {10: fine, 60: min(fine, medium), 3600: 0.0}
    spans = cover(start, start + length, kept_from=kept)
    assert spans[0].start <= start
    assert spans[-1].end >= start + length
    for span, behind in zip(spans, [*spans[1:], None], strict=True):
        assert span.start < span.end
        assert span.start % span.seconds == span.end % span.seconds == 0
        assert kept[span.seconds] <= start or span.seconds == 3600
        assert behind is None or behind.start == span.end
    finest = min(span.seconds for span in spans)
    assert start - spans[0].start < max(finest, 3600 if kept[60] > start else 60 if kept[10] > start else 10)
    # At most 5 and 59 windows of the shorter kinds on each side of the hours.
    windows = sum((span.end - span.start) // span.seconds for span in spans)
    assert windows <= length / 3600 + 2 + 2 * (5 + 59)


def test_a_day_is_a_few_dozen_windows() -> None:
    assert cover(25.0, 86400.0 + 25, kept_from=ALL) == (
        Span(10, 20, 60), Span(60, 60, 3600), Span(3600, 3600, 86400), Span(10, 86400, 86430),
    )  # fmt: skip
    assert cover(65.0, 7200.0, kept_from={60: 0.0, 3600: 0.0}) == (Span(60, 60, 3600), Span(3600, 3600, 7200))
    assert cover(25.0, 7200.0, kept_from={10: 1e9, 60: 1e9, 3600: 1e9}) == (Span(3600, 0, 7200),)


@pytest.mark.parametrize(("start", "end", "seconds", "range_"), [(0, 10, 10, (0, 10)), (9, 11, 10, (0, 20))])
def test_widening(start: float, end: float, seconds: int, range_: tuple[int, int]) -> None:
    assert widened(start, end, seconds=seconds) == range_
