"""How fast a place answers: the newest measurements, and the quantile a hedge waits for.  Pure."""

import math

import msgspec

KEPT = 64
LEAST = 20
"""Fewer measurements say nothing of one in twenty."""
QUANTILE = 0.95


class Pace(msgspec.Struct, frozen=True):
    """Seconds of the newest `KEPT` answers, oldest first; answers only, since what was given up says how patient somebody was."""

    seconds: tuple[float, ...] = ()


def observed(pace: Pace, seconds: float) -> Pace:
    """With one more answer."""
    return Pace((*pace.seconds[1 - KEPT :], seconds))


def p95(pace: Pace) -> float | None:
    """The 95th percentile in seconds (nearest rank); None while too few answers were seen."""
    count = len(pace.seconds)
    return None if count < LEAST else sorted(pace.seconds)[math.ceil(QUANTILE * count) - 1]


def beyond(pace: Pace, seconds: float) -> float | None:
    """The share of answers that took longer than `seconds`; None while too few were seen."""
    count = len(pace.seconds)
    return None if count < LEAST else sum(each > seconds for each in pace.seconds) / count
