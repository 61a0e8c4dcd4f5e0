"""How long the cloud takes, round trip included: mean and mean deviation, as TCP estimates its time-outs (RFC 6298).  Pure."""

import msgspec

ALPHA = 0.125
BETA = 0.25
HALF_LIFE_S = 5.0
"""An estimate nobody renews halves in this time, so that a cloud that was slow once is asked again."""


class Estimate(msgspec.Struct, frozen=True):
    """Seconds; `at` is when it last learnt something (monotonic)."""

    mean: float
    deviation: float
    at: float


def observed(estimate: Estimate | None, seconds: float, *, now: float) -> Estimate:
    """The estimate with one more measurement."""
    if estimate is None:
        return Estimate(seconds, seconds / 4, now)
    deviation = (1 - BETA) * estimate.deviation + BETA * abs(seconds - estimate.mean)
    return Estimate((1 - ALPHA) * estimate.mean + ALPHA * seconds, deviation, now)


def predicted(estimate: Estimate | None, *, now: float) -> float | None:
    """Mean and deviation in seconds, faded by age; None while nothing was measured."""
    if estimate is None:
        return None
    faded: float = 0.5 ** (max(0.0, now - estimate.at) / HALF_LIFE_S)
    return (estimate.mean + estimate.deviation) * faded
