"""Interleaved rounds, and what they say: the median of a figure or of a ratio, with a 95 % interval.

Contestants take turns within each round, in an order that moves on by one from round to round, and a ratio is taken within a round:
what drifts over minutes (a host's other tenants) is alike for both sides of it. The interval is Student's, of the logarithms of
the rounds' ratios: with five rounds, order statistics and the bootstrap of a median can say no more than the least and the most.
`BENCH_QUICK=1` makes every benchmark tiny: to see that it works, never to measure.
"""

import math
import os
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")
ROUNDS = 5
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Two-sided 95 % points for 1 to 10 degrees of freedom."""


class Interval(NamedTuple):
    """A median, and what lies within a 95 % interval around the (geometric) mean."""

    median: float
    low: float
    high: float


def is_quick() -> bool:
    """Whether this run is only to see that everything works."""
    return os.environ.get("BENCH_QUICK", "") not in ("", "0")


def rounds() -> int:
    """How many rounds are run."""
    return 2 if is_quick() else ROUNDS


def seconds(wanted: float) -> float:
    """How long one measurement takes; a fraction of it in a quick run."""
    return min(0.4, wanted) if is_quick() else wanted


def interleaved(names: Sequence[str], measure: Callable[[str], T], *, count: int | None = None) -> dict[str, list[T]]:
    """What `measure` found for each of `names` in every round."""
    found: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(count or rounds()):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            found[name].append(measure(name))
    return found


def of(values: Sequence[float]) -> Interval:
    """Median and interval of positive figures, one for each round; NaN where a round has none."""
    if not all(map(math.isfinite, values)):
        return Interval(math.nan, math.nan, math.nan)
    median = statistics.median(values)
    if len(values) < 2 or min(values) <= 0:
        return Interval(median, median, median)
    logs = [math.log(value) for value in values]
    freedom = len(logs) - 1
    factor = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 2.2
    half = factor * statistics.stdev(logs) / math.sqrt(len(logs))
    centre = statistics.fmean(logs)
    return Interval(median, math.exp(centre - half), math.exp(centre + half))


def ratio(these: Sequence[float], those: Sequence[float]) -> Interval:
    """`these` over `those`, round by round; NaN where a round of either has no figure."""
    pairs = list(zip(these, those, strict=True))
    if any(not (a > 0 and b > 0 and math.isfinite(a) and math.isfinite(b)) for a, b in pairs):
        return Interval(math.nan, math.nan, math.nan)
    return of([a / b for a, b in pairs])
