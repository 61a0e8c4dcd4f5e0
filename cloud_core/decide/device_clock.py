"""Device times on the cloud's clock: how far a device's clock is off, learned from envelopes, and where its samples belong.

An envelope says when it was sent by the device's clock; the cloud knows when it came. The difference is the clock's offset plus
the time the message took, which is never negative: so the least difference of some minutes is the best estimate (Cristian's
algorithm; NTP's clock filter, RFC 5905 section 10, takes the sample of least delay alike).
"""

from enum import StrEnum

import msgspec

WINDOW_S = 300.0
"""An offset that only late messages contradict is believed for at most two of these."""
STEP_S = 600.0
"""No message is this late: a larger difference means that the device's clock was set back."""
TOLERANCE_S = 2.0
"""A clock less wrong than this is taken at its word: what messages take on their way is no error of a clock."""
OLDEST_S = 7 * 86400.0
"""No sample is older than this: devices and cloud keep them no longer."""


class Offset(msgspec.Struct, frozen=True, kw_only=True):
    """What to add to a device's times: the least difference of this window and of the one before. Seconds."""

    least: float
    before: float | None = None
    since: float
    """When this window began, by the cloud's clock."""

    @property
    def seconds(self) -> float:
        """The estimate; 0 for a clock that is right as far as can be told."""
        least = self.least if self.before is None else min(self.least, self.before)
        return 0.0 if abs(least) <= TOLERANCE_S else least


class Placed(StrEnum):
    """Why a sample lies where it lies."""

    BELIEVED = "believed"
    SHIFTED = "shifted"
    TOO_NEW = "too-new"
    TOO_OLD = "too-old"


class Place(msgspec.Struct, frozen=True):
    """An interval on the cloud's clock."""

    started_at: float
    ended_at: float
    why: Placed


def learned(held: Offset | None, *, sent_at: float, received_at: float) -> Offset:
    """The estimate after one more envelope."""
    seen = received_at - sent_at
    if held is None or seen > min(held.least, held.least if held.before is None else held.before) + STEP_S:
        return Offset(least=seen, since=received_at)
    if received_at - held.since >= WINDOW_S:
        return Offset(least=seen, before=held.least, since=received_at)
    return Offset(least=min(seen, held.least), before=held.before, since=held.since)


def placed(started_at: float, ended_at: float, *, offset: float, now: float) -> Place:
    """Where a device's interval belongs, by the cloud's clock.

    What cannot be, after the offset is added, ends now: a device at 1970 or a year ahead neither hides nor outlives others.
    This is where samples land that were taken before a clock was set.
    """
    start, end = started_at + offset, ended_at + offset
    length = min(end - start, OLDEST_S)
    if end > now:
        return Place(now - length, now, Placed.TOO_NEW if end > now + TOLERANCE_S else _why(offset))
    if end < now - OLDEST_S:
        return Place(now - length, now, Placed.TOO_OLD)
    return Place(end - length, end, _why(offset))


def _why(offset: float) -> Placed:
    return Placed.SHIFTED if offset else Placed.BELIEVED
