"""Which windows answer for a range: the longest that fit, so that a day is a few dozen rows and no thousand. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Windows of `seconds` that begin in [start, end)."""

    seconds: int
    start: int
    end: int


def widened(start: float, end: float, *, seconds: int) -> tuple[int, int]:
    """The least range of whole windows that has [start, end) in it."""
    return int(start // seconds) * seconds, -int(-end // seconds) * seconds


def cover(start: float, end: float, *, kept_from: Mapping[int, float]) -> Sequence[Span]:
    """Windows of unequal length that together are the range, each second once, in the order of time.

    The range is widened to whole windows of the finest resolution that is kept so far back; where only coarse windows are
    kept, to those.

    Args:
        start: Unix seconds; must be before `end`.
        end: Unix seconds.
        kept_from: by length of window, each a multiple of the next shorter, the time from which windows are kept.

    """
    finest_first = sorted(kept_from)
    finest = next((seconds for seconds in finest_first if kept_from[seconds] <= start), finest_first[-1])
    left, right = widened(start, end, seconds=finest)
    lengths = [seconds for seconds in finest_first if seconds >= finest]
    return tuple(_split(left, right, lengths))


def _split(left: int, right: int, lengths: Sequence[int]) -> list[Span]:
    if left >= right:
        return []
    longest = lengths[-1]
    inner_left, inner_right = -(-left // longest) * longest, right // longest * longest
    if len(lengths) == 1:
        return [Span(longest, left, right)]
    if inner_left >= inner_right:
        return _split(left, right, lengths[:-1])
    return [
        *_split(left, inner_left, lengths[:-1]),
        Span(longest, inner_left, inner_right),
        *_split(inner_right, right, lengths[:-1]),
    ]
