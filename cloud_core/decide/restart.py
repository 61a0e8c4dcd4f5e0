"""When a child that ended is started again: exponential backoff with full jitter, forgotten after a stable run.

Full jitter (a delay drawn between nothing and the cap of that failure) keeps children that fell together from coming back
together. A child that ran long enough starts again at the first, short delay.
"""

from enum import StrEnum

import msgspec


class Reason(StrEnum):
    """Why this delay."""

    AFTER_STABLE_RUN = "after-stable-run"
    BACKING_OFF = "backing-off"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. `first` caps the first delay, each failure in a row doubles it up to `longest`; `stable` forgives all."""

    first: float = 0.5
    longest: float = 15.0
    stable: float = 20.0


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """Start again after `delay` seconds; `failures` in a row, this one included, are handed to the next decision."""

    delay: float
    failures: int
    reason: Reason


def restart(failures: int, *, ran_for: float, u: float, limits: Limits) -> Restart:
    """What to do about a child that just ended.

    Args:
        failures: how often in a row it had ended before.
        ran_for: seconds it ran this time.
        u: a draw from [0, 1).
        limits: the delays.

    """
    if ran_for >= limits.stable:
        return Restart(delay=u * limits.first, failures=1, reason=Reason.AFTER_STABLE_RUN)
    # The exponent is bounded so that a child that failed for a week does not overflow a float.
    ceiling = min(limits.longest, limits.first * 2.0 ** min(failures, 32))
    return Restart(delay=u * ceiling, failures=failures + 1, reason=Reason.BACKING_OFF)
